"""The walks of docs/reading.md and the loop in ARCHITECTURE.md name and show what is there."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

from nmtasync.training.asynchronous.in_process import InlineDriver
from tests.support.repository import REPOSITORY


def definitions(path: str) -> set[str]:
    """The functions and classes of a file, and the methods of its classes as Class.method."""
    tree = ast.parse((REPOSITORY / path).read_text("utf-8"))
    named = (ast.FunctionDef, ast.ClassDef)
    found = {node.name for node in tree.body if isinstance(node, named)}
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            found |= {f"{owner.name}.{n.name}" for n in owner.body if isinstance(n, named)}
    return found


def test_each_line_of_a_walk_names_what_its_file_defines():
    page = (REPOSITORY / "docs" / "reading.md").read_text("utf-8")
    rows = re.findall(r"^\| `(nmtasync/[^`]+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert len(rows) >= 50
    assert not [
        f"{path}: {name}"
        for path, names in rows
        for name in re.findall(r"`([^`]+)`", names)
        if name not in definitions(path)
    ]


def test_the_page_shows_the_loop_as_it_stands():
    loop = textwrap.dedent(inspect.getsource(InlineDriver.train))
    assert loop in (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8")

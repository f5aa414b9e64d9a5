"""The messages in docs/trouble.md are those of the code."""

from __future__ import annotations

import ast
import itertools
import re

from tests.support.repository import REPOSITORY

LEAST_CHARACTERS = 12
"""Letters and digits of a text in the code: shorter ones are found anywhere."""

ERROR = "nmtasync: error: "
FILLED_IN = "\0"


def texts_of_the_code() -> tuple[set[str], set[str]]:
    """All texts of the code but remedies, and the remedies of its errors."""
    texts: set[str] = set()
    remedies: set[str] = set()
    for folder in ("nmtasync", "cli"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
            keywords = (node for node in nodes if isinstance(node, ast.keyword))
            remedies |= {text_of(node.value) for node in keywords if node.arg == "remedy"}
            formatted = (node.values for node in nodes if isinstance(node, ast.JoinedStr))
            pieces = set(itertools.chain.from_iterable(formatted))
            texts |= {text_of(node) for node in nodes if node not in pieces}
    texts -= remedies
    return set(filter(is_long, texts)), set(filter(is_long, remedies))


def is_long(text: str) -> bool:
    return " " in text and len(re.sub(rf"[\W{FILLED_IN}]", "", text)) >= LEAST_CHARACTERS


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return node.value if is_text else FILLED_IN


def is_known(message: str, texts: set[str]) -> bool:
    """Whether a message has one of the texts in it, filled in, or is a part of one."""
    patterns = (re.escape(text).replace(re.escape(FILLED_IN), ".*") for text in texts)
    return any(message in text for text in texts) or any(re.search(p, message) for p in patterns)


def test_every_message_is_one_of_the_code():
    page = (REPOSITORY / "docs/trouble.md").read_text("utf-8")
    lines = "".join(re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)).splitlines()
    table = page.partition("## It does not resume")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.M)
    spans = [span for cell in cells for span in re.findall(r"`([^`]+)`", cell)]
    assert len(lines) > 10 and len(spans) > 5
    texts, remedies = texts_of_the_code()
    for message in [*lines, *spans]:
        assert is_known(message.removeprefix(ERROR), texts), message
    for message in lines:
        if message.startswith(ERROR) and "; " in message:
            assert is_known(message, remedies), message
    assert not is_known("worker 1 fell asleep on the job", texts)

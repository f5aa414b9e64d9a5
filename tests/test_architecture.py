"""The house rules: layers, who imports what, help everywhere, a quick `--help`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import REPOSITORY

from cli.main import COMMANDS, cli

LAYERS = [
    {"errors", "config", "run_directory"},
    {"data", "models", "optim"},
    {"decoding", "server"},
    {"evaluation"},
    {"training"},
]
WITHIN_FOUNDATION = {"errors": 0, "config": 1, "run_directory": 1}
ONLY_IN = {
    "sentencepiece": {"nmtasync/data/vocabulary.py"},
    "sacrebleu": {"nmtasync/evaluation/metrics.py"},
}
MODULES = sorted((REPOSITORY / "nmtasync").rglob("*.py"))
ALL = MODULES + sorted((REPOSITORY / "cli").glob("*.py"))


def run_python(code: str) -> None:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(part: str) -> int:
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_with_the_flow_of_the_data(path):
    part = path.relative_to(REPOSITORY / "nmtasync").parts[0].removesuffix(".py")
    if part == "__init__":
        return
    for module in imports(path):
        if module.startswith(("nmtasync_cli", "cli")):
            pytest.fail(f"the library imports the command line: {module}")
        pieces = module.split(".")
        if pieces[0] != "nmtasync" or len(pieces) == 1 or pieces[1].startswith("_"):
            continue
        other = pieces[1]
        if other == part:
            continue
        if layer(other) == layer(part) == 0:
            assert WITHIN_FOUNDATION[other] < WITHIN_FOUNDATION[part], module
        else:
            assert layer(other) < layer(part), f"{part} must not import {module}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_server_knows_no_models_and_no_data(path):
    if "server" in path.parts:
        forbidden = ("nmtasync.models", "nmtasync.data", "nmtasync.decoding")
        assert not [m for m in imports(path) if m.startswith(forbidden)]


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_library_is_imported_in_one_place(path):
    roots = {module.split(".")[0] for module in imports(path)}
    for library, places in ONLY_IN.items():
        assert library not in roots or name_of(path) in places
    assert "click" not in roots or path.parent.name == "cli"
    assert not roots & {"pickle", "marshal"}


def test_every_module_imports_alone():
    """Guards against cycles, which only show when another module happens to come first."""
    names = [
        name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in MODULES
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] == 'nmtasync']:\n"
        "        del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    run_python(code)


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_no_torch(arguments):
    code = (
        "import sys; sys.argv = ['nmtasync']\n"
        "from cli.main import cli\n"
        f"cli.main({arguments!r}, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    run_python(code)


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command


def test_every_command_and_option_has_help():
    for name, command in commands():
        assert command.help, name
        assert "Example" in command.help, f"{name} shows no example"
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


FLAGS = {
    "preprocess": {"--train", "--valid", "--source-language", "--target-language", "--vocab-size"},
    "train": {
        "--config",
        "--devices",
        "--driver",
        "--optimizer-delay",
        "--local-optimizer-batches",
        "--max-minutes",
        "--max-epochs",
        "--seed",
        "--set",
    },
    "profile": {"--batches", "--config", "--device", "--json", "--precision", "--set"},
    "evaluate": {"--test", "--beam-size"},
    "translate": {"--n-best", "--beam-size"},
}


def test_the_flags_that_users_rely_on_are_there():
    for name, command in commands():
        have = {opt for parameter in command.params for opt in parameter.opts}
        assert FLAGS[name] <= have
        assert command.params[0].human_readable_name == "RUN"

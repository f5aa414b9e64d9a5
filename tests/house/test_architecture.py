"""The house rules: layers, who imports what, help everywhere, a quick `--help`."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import COMMANDS, cli
from tests.support.repository import REPOSITORY

LAYERS = [
    {"errors"},
    {"untrusted"},
    {"run_directory"},
    {"config", "machine"},
    {"data", "models", "optim"},
    {"preprocessing", "server", "decoding", "checkpoints"},
    {"worker", "evaluation"},
    {"training", "profiling", "doctor", "report"},
    {"interchange"},
]
"""The folders of nmtasync; those of one line do not know each other."""
LAYERS_OF_TRAINING = [
    {"limits"},
    {"changes", "driver", "delay", "divergence"},
    {"reporting"},
    {"exchanges"},
    {"session"},
    {"rollback"},
    {"validation"},
    {"asynchronous", "synchronous"},
    {"cluster", "simulation"},
    {"assembly", "fitting"},
    {"train"},
]
"""The same inside of nmtasync/training."""
ONLY_IN = {
    "ray": {"nmtasync/training/cluster/engine.py"},
    "sentencepiece": {
        "nmtasync/data/vocabulary.py",
        "nmtasync/preprocessing/character_rules.py",
        "nmtasync/preprocessing/learn_vocabulary.py",
    },
    "sacrebleu": {
        "nmtasync/evaluation/metrics.py",
        "nmtasync/evaluation/significance.py",
        "nmtasync/evaluation/public_test_sets.py",
    },
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


def against_the_flow(root: Path, layers: list[set[str]]) -> Iterator[str]:
    """Name the imports of modules in a folder that do not come from an earlier layer."""
    order = {part: number for number, parts in enumerate(layers) for part in parts}
    package = name_of(root).replace("/", ".")
    for path in sorted(root.rglob("*.py")):
        part = path.relative_to(root).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for module in imports(path):
            if not module.startswith(f"{package}."):
                continue
            other = module.removeprefix(f"{package}.").split(".")[0]
            if not other.startswith("__") and other != part and order[other] >= order[part]:
                yield f"{name_of(path)} imports {module}"


def test_imports_go_with_the_flow_of_the_data():
    library = REPOSITORY / "nmtasync"
    assert not list(against_the_flow(library, LAYERS))
    assert not list(against_the_flow(library / "training", LAYERS_OF_TRAINING))


def test_the_library_does_not_know_the_command_line():
    assert not [
        (name_of(path), module)
        for path in MODULES
        for module in imports(path)
        if module.split(".")[0] in ("cli", "nmtasync_cli")
    ]


def test_the_server_knows_no_models_and_no_data():
    forbidden = ("nmtasync.models", "nmtasync.data", "nmtasync.decoding")
    assert not [
        (name_of(path), module)
        for path in (REPOSITORY / "nmtasync/server").rglob("*.py")
        for module in imports(path)
        if module.startswith(forbidden)
    ]


def test_a_wheel_would_hold_every_folder():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    packages = setup["options"]["packages"].split()
    folders = {name_of(path.parent).replace("/", ".") for path in MODULES}
    assert sorted(packages) == sorted({*folders, "nmtasync_cli"})


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    lines = setup["options"]["install_requires"].strip().splitlines()
    allowed = dict(line.partition(";")[0].split(">=") for line in lines)
    del allowed["torch"]  # constraints-lowest.txt says why
    lines = (REPOSITORY / "constraints-lowest.txt").read_text("utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    full = {name: f"{version}.0.0".split(".")[:3] for name, version in allowed.items()}
    assert {name: version.split(".") for name, version in tested.items()} == full


def test_a_library_is_imported_in_one_place():
    offenders = []
    for path in ALL:
        roots = {module.split(".")[0] for module in imports(path)}
        offenders += [
            f"{name_of(path)} imports {library}"
            for library in roots
            if (library in ONLY_IN and name_of(path) not in ONLY_IN[library])
            or (library == "click" and path.parent.name != "cli")
            or library in ("pickle", "marshal")
        ]
    assert not offenders


RUNS_WHAT_IT_READS = re.compile(
    r"(?<![.\w])(torch\.load|np\.load|numpy\.load|eval|exec)\(|allow_pickle"
)


def test_no_file_is_read_by_what_would_run_it():
    """Also JSON is parsed in one place, which refuses what can't be trusted."""
    lines = ((name_of(path), line) for path in ALL for line in path.read_text("utf-8").splitlines())
    assert not [(name, line) for name, line in lines if RUNS_WHAT_IT_READS.search(line)]
    assert RUNS_WHAT_IT_READS.search("    content = torch.load(path)")
    parsers = {
        name_of(path)
        for path in ALL
        if re.search(r"json\.loads?\(|tomllib\.loads?\(", path.read_text("utf-8"))
    }
    assert parsers == {
        "nmtasync/untrusted.py",
        "nmtasync/config/load.py",
        "nmtasync/checkpoints/checksums.py",  # of what it has written itself
    }


def test_no_test_imports_another():
    """What several tests share stands in tests/support, or as a fixture in a conftest.py."""
    tests = REPOSITORY / "tests"
    files = {path.stem for path in tests.rglob("*.py") if path.parent.name != "support"}
    assert not [
        f"{name_of(path)} imports {module}"
        for path in sorted(tests.rglob("*.py"))
        for module in imports(path)
        if files.intersection(module.split("."))
    ]


@pytest.mark.processes
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


@pytest.mark.processes
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
    "inspect": {"--json", "--pieces", "--pairs", "--seed", "--png"},
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
    "evaluate": {"--test", "--beam-size", "--against", "--test-set", "--json", "--markdown"},
    "translate": {"--n-best", "--beam-size", "--sampling", "--seed", "--prefixes", "--ensemble"},
    "report": {"--output", "--png", "--json", "--sentences"},
    "score": {"--normalize", "--json", "--word-scores", "--threads", "--device", "--checkpoint"},
    "average": {"--last", "--best", "--checkpoints", "--name"},
    "export": {"--format", "--output", "--quantization", "--checkpoint", "--average"},
    "import": {"--from"},
    "doctor": {"--json"},
}


def test_the_flags_that_users_rely_on_are_there():
    for name, command in commands():
        have = {opt for parameter in command.params for opt in parameter.opts}
        assert FLAGS[name] <= have
        assert command.params[0].human_readable_name == "RUN"


def test_help_of_train_shows_the_most_used_options_before_the_sections():
    command = dict(commands())["train"]
    text = command.get_help(click.Context(command, info_name="train"))
    first, *groups = text.split("\n\n[")
    assert [group.split("]")[0] for group in groups] == [
        "data", "schedule", "asynchronous", "simulation", "training"
    ]  # fmt: skip
    assert all(f"  {flag}" in first for flag in ("--devices", "--max-minutes", "--set", "--resume"))
    flags = [o for p in command.params for o in p.opts if o.startswith("--")]
    assert all(text.count(f"  {flag} ") == 1 for flag in flags)

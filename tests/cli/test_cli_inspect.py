"""`nmtasync inspect`, as a user runs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmtasync.run_directory import RunDirectory
from tests.support.command_line import CommandLine, one_line


def change(path: Path, how: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    how(content)
    path.write_text(json.dumps(content), "utf-8")


def test_json_has_what_preprocessing_has_recorded(
    nmtasync: CommandLine, toy_run: RunDirectory
) -> None:
    result = nmtasync("inspect", toy_run.root, "--json", "--pairs", 3, "--pieces", 2)
    assert result.returncode == 0 and not result.stderr
    content = json.loads(result.stdout)
    manifest = json.loads(toy_run.manifest.read_text("utf-8"))
    assert content["vocabulary"]["source_size"] == 46
    for part in ("train", "valid"):
        found, recorded = content[part], manifest[part]
        assert found["pairs"] == recorded["num_kept"]
        assert found["read"] == recorded["num_read"]
        longest = max(found[side]["lengths"]["max"] for side in ("source", "target"))
        assert longest == recorded["longest"]
        for side in ("source", "target"):
            assert found[side]["pieces"] == recorded[f"{side}_pieces"]
            assert len(found[side]["commonest"]) == 2
        assert len(found["sample"]) == 3
        assert [file["side"] for file in found["inputs"]] == ["source", "target"]
        assert [corpus["name"] for corpus in found["corpora"]] == [part]
    again = nmtasync("inspect", toy_run.root, "--json", "--pairs", 3, "--pieces", 2)
    other = nmtasync("inspect", toy_run.root, "--json", "--pairs", 3, "--pieces", 2, "--seed", 9)
    assert again.stdout == result.stdout
    assert json.loads(other.stdout)["train"]["sample"] != content["train"]["sample"]


def test_the_tables_have_the_same_figures(nmtasync: CommandLine, tmp_path: Path) -> None:
    lines = ["eins zwei drei", "vier", "", "fünf sechs"]
    for name in ("a.src", "a.tgt", "b.src", "b.tgt"):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    both = "a.src", "a.tgt"
    pair = [tmp_path / name for name in both]
    run = tmp_path / "run"
    corpus = f"talks={tmp_path / 'b.src'},{tmp_path / 'b.tgt'}@2"
    made = nmtasync(
        *("preprocess", run, "--train", *pair, "--corpus", corpus, "--valid", *pair),
        *("--vocab-size", 276, "--no-deduplicate", "--no-drop-protected"),
    )
    assert made.returncode == 0, made.stderr
    result = nmtasync("inspect", run)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()]
    assert any(row[:3] == ["talks", "3", "2"] for row in rows)
    assert any(row[:2] == ["train", "6"] for row in rows)
    assert "dropped of the 8 pairs of train" in result.stdout
    assert "a.src:3" in result.stdout.replace(" ", "")
    assert "commonest pieces of valid" in result.stdout


def test_a_run_that_is_not_preprocessed_is_refused(nmtasync: CommandLine, tmp_path: Path) -> None:
    result = nmtasync("inspect", tmp_path / "run")
    assert result.returncode == 2
    assert "has not been preprocessed" in one_line(result.stderr)


@pytest.mark.parametrize(
    "how",
    [
        lambda manifest: manifest.pop("train"),
        lambda manifest: manifest.update(inputs=7),
        lambda manifest: manifest["options"].update(max_length="x"),
        lambda manifest: manifest["valid"].update(dropped=[{"reason": 1}]),
    ],
)
def test_a_damaged_manifest_is_refused(
    nmtasync: CommandLine, toy_run: RunDirectory, how: Callable[[Any], object]
) -> None:
    change(toy_run.manifest, how)
    result = nmtasync("inspect", toy_run.root)
    assert result.returncode == 2 and not result.stdout
    assert "manifest.json: is damaged" in one_line(result.stderr)


def test_damaged_data_is_refused(nmtasync: CommandLine, toy_run: RunDirectory) -> None:
    tokens = toy_run.data / "train" / "source.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    result = nmtasync("inspect", toy_run.root)
    assert result.returncode == 2
    assert "is missing or damaged" in one_line(result.stderr)


def test_text_of_strangers_commands_no_terminal(
    nmtasync: CommandLine, toy_run: RunDirectory
) -> None:
    nasty = "\x1b[2J\x9b\u202e[bold]\n"
    dropped = {"reason": nasty, "num_pairs": 1, "example": nasty, "source": nasty, "target": nasty}

    def spoil(manifest: Any) -> None:
        manifest["train"]["dropped"] = [dropped]
        for file in manifest["inputs"]:
            file.update(path=nasty, name=nasty, side=nasty)

    change(toy_run.manifest, spoil)
    shards = toy_run.data / "train" / "shards.json"
    pairs = json.loads(shards.read_text("utf-8"))["pairs"]
    parts = [{"name": nasty, "pairs": n, "weight": 1.0} for n in (1, pairs - 1)]
    change(shards, lambda content: content.update(corpora=parts))
    result = nmtasync("inspect", toy_run.root)
    assert result.returncode == 0, result.stderr
    assert all(c.isprintable() for c in result.stdout.replace("\n", ""))
    assert "\\x1b[2J\\x9b\\u202e[bold]" in result.stdout
    content = json.loads(nmtasync("inspect", toy_run.root, "--json").stdout)
    assert content["train"]["dropped"] == [dropped]


def test_a_picture_is_drawn(nmtasync: CommandLine, toy_run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
    picture = tmp_path / "pictures" / "lengths.png"
    result = nmtasync("inspect", toy_run.root, "--png", picture)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_is_refused_in_one_line(
    nmtasync: CommandLine,
    toy_run: RunDirectory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = nmtasync("inspect", toy_run.root, "--png", tmp_path / "lengths.png")
    assert result.returncode == 2 and not result.stdout
    assert "pip install 'nmtasync[report]'" in one_line(result.stderr)

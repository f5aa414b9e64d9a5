"""Paired tests against sacrebleu's own command line; buckets, examples, references, and COMET."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu

from nmtasync.errors import NmtasyncError, UserError
from nmtasync.evaluation import comet
from nmtasync.evaluation.breakdown import by_length, examples, parse_bounds
from nmtasync.evaluation.metrics import score, score_sentences
from nmtasync.evaluation.public_test_sets import read_public_test_set
from nmtasync.evaluation.significance import Rival, compare, read_rivals
from nmtasync.evaluation.test_sets import Evaluation, TestSet
from tests.support.reports import add_result, logged_run

WORDS = ["the", "a", "man", "dog", "house", "runs", "sees", "red", "old", "quickly"]
SOURCES = [" ".join(WORDS[: 1 + i % 9]) for i in range(30)]


def sentences(seed: int, wrong: float) -> list[str]:
    """The same sentences each time, in which a share of the words is another."""
    words, noise = random.Random(1), random.Random(seed)
    lines = []
    for _ in SOURCES:
        line = [words.choice(WORDS) for _ in range(8)]
        lines.append(" ".join("x" if noise.random() < wrong else word for word in line))
    return lines


REFERENCES, GOOD, BAD = sentences(2, 0.0), sentences(3, 0.1), sentences(4, 0.3)


def test_set(more: list[list[str]] | None = None) -> TestSet:
    files = {"source": {"path": "s", "sha256": "0"}, "reference": {"path": "r", "sha256": "1"}}
    return TestSet("toy", files, SOURCES, REFERENCES, more or [])


test_set.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.processes
@pytest.mark.parametrize(("test", "flag"), [("bootstrap", "bs"), ("randomization", "ar")])
def test_p_values_and_intervals_are_those_of_sacrebleu_s_command_line(
    test: str, flag: str, tmp_path: Path
) -> None:
    more = sentences(5, 0.2)
    texts = {"good": GOOD, "bad": BAD, "r1": REFERENCES, "r2": more}
    for name, lines in texts.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), "utf-8")
    command = [sys.executable, "-m", "sacrebleu", "r1", "r2", "-i", "good", "bad", "-f", "text"]
    command += ["-m", "bleu", "chrf", "ter", f"--paired-{flag}", "--width", "4"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [line for line in output.stdout.splitlines() if line.startswith("│")][1:]
    expected = [[float(x) for x in re.findall(r"\d+\.\d+", row)] for row in rows]
    found = compare("good", GOOD, [Rival("bad", BAD)], test_set([more]), None, test)
    good, bad = ([system[m] for m in ("bleu", "chrf", "ter")] for system in found["systems"])
    shown = ("score", "mean", "interval") if test == "bootstrap" else ("score",)
    for numbers, system in zip(expected[:2], (good, bad), strict=True):
        ours = [result[name] for result in system for name in shown]
        assert ours == pytest.approx(numbers, abs=6e-5)
    assert [result["p_value"] for result in bad] == pytest.approx(expected[2], abs=6e-5)
    assert [system["name"] for system in found["systems"]] == ["good", "bad"]
    assert all(result["p_value"] is None and result["interval"] > 0 for result in good)
    assert found["systems"][1]["bleu"]["p_value"] < 0.05
    assert "nrefs:2" in found["signatures"]["bleu"]


def test_all_references_count() -> None:
    other = [line.replace("dog", "hound") for line in REFERENCES]
    hypotheses = [line.replace("dog", "hound").replace("red", "green") for line in REFERENCES]
    result = score(hypotheses, REFERENCES, None, [other])["bleu"]
    expected = sacrebleu.corpus_bleu(hypotheses, [REFERENCES, other])
    assert result["score"] == expected.score > score(hypotheses, REFERENCES)["bleu"]["score"]
    assert "nrefs:2" in result["signature"]
    both = score_sentences(hypotheses, [REFERENCES, other])
    assert sum(both) > sum(score_sentences(hypotheses, [REFERENCES]))


def test_buckets_hold_each_sentence_once_and_are_scored_apart() -> None:
    evaluation = Evaluation(test_set(), GOOD, {}, 0.0, {})
    buckets = by_length(evaluation, [2, 5, 100], None, None)
    assert [(b["shortest"], b["longest"]) for b in buckets] == [(0, 2), (3, 5), (6, 100)]
    assert sum(bucket["sentences"] for bucket in buckets) == len(SOURCES)
    places = [i for i, line in enumerate(SOURCES) if 3 <= len(line.split()) <= 5]
    expected = sacrebleu.corpus_bleu([GOOD[i] for i in places], [[REFERENCES[i] for i in places]])
    assert buckets[1]["bleu"] == expected.score
    characters = by_length(evaluation, [3], "zh", None)
    assert [bucket["shortest"] for bucket in characters] == [0, 4]
    assert [(b["shortest"], b["longest"]) for b in by_length(evaluation, [4], None, None)] == [
        (0, 4),
        (5, None),
    ]


@pytest.mark.parametrize("text", ["", "10,", "20,10", "5,5", "0,4", "a", "1.5", "9" * 5000])
def test_bounds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be whole numbers that rise"):
        parse_bounds(text)


@pytest.mark.parametrize("by", ["chrf", "bleu"])
def test_the_best_and_the_worst_sentences(by: str) -> None:
    hypotheses = list(REFERENCES)
    hypotheses[7], hypotheses[11] = "nothing of it at all", hypotheses[11].replace("the", "a")
    found = examples(Evaluation(test_set(), hypotheses, {}, 0.0, {}), 2, by, None)
    assert [entry["line"] for entry in found["worst"]] == [8, 12]
    assert [entry["line"] for entry in found["best"]] == [1, 2]
    assert found["best"][0]["score"] == pytest.approx(100)
    assert found["worst"][0]["hypothesis"] == hypotheses[7]
    everything = examples(Evaluation(test_set(), hypotheses, {}, 0.0, {}), 999, by, None)
    lines = [entry["line"] for kind in ("best", "worst") for entry in everything[kind]]
    assert sorted(lines) == list(range(1, len(SOURCES) + 1))


def test_rivals_must_have_translated_the_same_text(tmp_path: Path) -> None:
    source, other = tmp_path / "toy.src", tmp_path / "other.src"
    source.write_text("".join(line + "\n" for line in SOURCES))
    other.write_text("Else.\n")
    runs = {}
    for name, text in (("same", source), ("else", other)):
        runs[name] = logged_run(tmp_path / name, [])
        add_result(runs[name], "toy", GOOD, (text, text))
    content = json.loads((runs["same"].evaluation / "toy.json").read_text())
    files = {side: content[side] for side in ("source", "reference")}
    wanted = TestSet("toy", files, SOURCES, REFERENCES)
    (rival,) = read_rivals([runs["same"].root], [wanted])["toy"]
    assert (rival.name, rival.hypotheses) == ("same", GOOD)
    with pytest.raises(UserError, match="evaluated on another text by the name of toy"):
        read_rivals([runs["else"].root], [wanted])
    with pytest.raises(UserError, match="was not evaluated on a test set news"):
        read_rivals([runs["same"].root], [TestSet("news", files, SOURCES, REFERENCES)])
    with pytest.raises(UserError, match=r"has 1 lines, but the test set toy has 30"):
        read_rivals([other], [wanted])
    with pytest.raises(UserError, match="is a file, which can only be"):
        read_rivals([other], [wanted, wanted])
    (runs["same"].evaluation / "toy.json").write_text("[]")
    with pytest.raises(UserError, match=r"toy\.json: can't be read"):
        read_rivals([runs["same"].root], [wanted])


@pytest.fixture
def wmt16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sacrebleu keeps wmt16; it can be fetched from a place that is not there."""
    dataset = sacrebleu.DATASETS["wmt16"]
    place = tmp_path / "wmt16"
    monkeypatch.setattr(dataset, "_outdir", str(place))
    monkeypatch.setattr(dataset, "_rawdir", str(place / "raw"))
    monkeypatch.setattr(dataset, "data", [(tmp_path / "none.tgz").as_uri()])
    return place


def test_a_test_set_of_sacrebleu_s_is_read_from_the_disk(wmt16: Path) -> None:
    wmt16.mkdir()
    for field in sacrebleu.DATASETS["wmt16"].fieldnames("ro-en"):
        (wmt16 / f"wmt16.ro-en.{field}").write_text(f"First {field}.\nSecond.\n")
    read = read_public_test_set("wmt16", "ro-en")
    assert (read.name, read.sources[0], read.references[0]) == (
        "wmt16.ro-en",
        "First src.",
        "First ref.",
    )


def test_a_test_set_that_can_t_be_fetched_is_told_in_a_line(
    wmt16: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NmtasyncError, match=r"can't be fetched: .*none\.tgz") as error:
        read_public_test_set("wmt16", "ro-en")
    assert error.value.exit_code == 1 and not caplog.records
    with pytest.raises(UserError, match="is not there in 'xx-yy'; take of cs-en"):
        read_public_test_set("wmt16", "xx-yy")
    with pytest.raises(UserError, match="did you mean wmt16"):
        read_public_test_set("wmt16x", "ro-en")


FAKE_COMET = """
import sys
print("lines that libraries print")
def download_model(name):
    if name == "none":
        raise OSError("no network")
    return name + ".ckpt"
class Model:
    def predict(self, data, batch_size, gpus):
        same = [entry["mt"] == entry["ref"] and entry["src"] != "" for entry in data]
        return {"system_score": sum(same) / len(same)}
def load_from_checkpoint(path):
    assert path.endswith(".ckpt")
    return Model()
"""


@pytest.mark.processes
def test_comet_scores_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the package, whose models can't be fetched here."""
    (tmp_path / "comet.py").write_text(FAKE_COMET)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    half = [*REFERENCES[:15], *["wrong"] * 15]
    result = comet.score_by_comet(SOURCES, half, REFERENCES, "some/model")
    assert result == {"score": 0.5, "signature": "model:some/model"}
    assert "comet" not in sys.modules
    with pytest.raises(NmtasyncError, match="COMET, none: has failed: OSError: no network"):
        comet.score_by_comet(SOURCES, half, REFERENCES, "none")


@pytest.mark.skipif(comet.importlib.util.find_spec("comet") is not None, reason="it is installed")
def test_without_comet_a_line_says_what_to_install() -> None:
    with pytest.raises(UserError, match="not installed; run `pip install unbabel-comet`"):
        comet.refuse_missing_comet()

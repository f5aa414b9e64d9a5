"""Scores against sacrebleu's own command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nmtasync.evaluation.metrics import bleu, score

REFERENCES = [
    "The quick brown fox, it jumps over the lazy dog.",
    "A man in a blue shirt is standing on a ladder; he cleans the window.",
    "Two young, White males are outside near many bushes.",
]
HYPOTHESES = [
    "the quick brown fox it jumped over a lazy dog .",
    "A man in a blue shirt stands on a ladder and cleans the window.",
    "Two young white men are outside near many bushes.",
]
CHINESE = ["我喜欢在公园里散步,因为天气很好。", "他昨天买了一本新书。"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("language", "hypotheses", "references"),
    [
        (None, HYPOTHESES, REFERENCES),
        ("en", HYPOTHESES, REFERENCES),
        ("zh-CN", CHINESE[::-1], CHINESE),
    ],
)
def test_scores_are_those_of_sacrebleu_s_command_line(
    language: str | None, hypotheses: list[str], references: list[str], tmp_path: Path
) -> None:
    (tmp_path / "hyp").write_text("\n".join(hypotheses) + "\n", "utf-8")
    (tmp_path / "ref").write_text("\n".join(references) + "\n", "utf-8")
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "hyp", "-m", "bleu", "chrf", "ter"]
    if language == "zh-CN":
        command += ["-tok", "zh", "--ter-asian-support", "--ter-normalized"]
    output = subprocess.run(
        [*command, "--width", "10", "-f", "json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = {entry["name"].lower().rstrip("2"): entry for entry in json.loads(output)}
    result = score(hypotheses, references, language)
    assert set(result) == set(expected) == {"bleu", "chrf", "ter"}
    for name, entry in expected.items():
        assert result[name]["score"] == pytest.approx(entry["score"], abs=1e-6)
        assert result[name]["signature"] == entry["signature"]
    assert bleu(hypotheses, references, language) == result["bleu"]["score"]


def test_case_matters() -> None:
    assert bleu([line.lower() for line in REFERENCES], REFERENCES) < 90


@pytest.mark.parametrize("language", ["ja", "ko", "ja_JP", "jpn_Jpan", "kor_Hang", "kor"])
def test_japanese_and_korean_are_scored_without_mecab(language: str) -> None:
    text = ["これは新しい本です。とても面白いです。"]
    assert score(text, text, language)["bleu"]["score"] == pytest.approx(100)


@pytest.mark.parametrize("language", ["th", "km_KH", "tha_Thai", "lao", "mya_Mymr", "bod_Tibt"])
def test_what_is_written_without_spaces_is_compared_by_characters(language: str) -> None:
    text, almost = ["ฉันชอบเดินเล่นในสวน"], ["ฉันชอบเดินเล่นในสว"]
    assert score(almost, text)["bleu"]["score"] == 0
    result = score(almost, text, language)["bleu"]
    assert result["score"] > 80
    assert "tok:char" in result["signature"]


def test_empty_translations_score_zero() -> None:
    result = score([""] * 3, REFERENCES)
    assert (result["bleu"]["score"], result["chrf"]["score"]) == (0, 0)
    assert result["ter"]["score"] == pytest.approx(100)

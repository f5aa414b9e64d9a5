"""All commands one after another, as a user calls them."""

import json
from pathlib import Path

import pytest
import sacrebleu

from tests.support.command_line import CommandLine


def corpus(directory: Path) -> list[Path]:
    return [directory / f"{part}.{side}" for part in ("train", "valid") for side in ("src", "tgt")]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("model", "started"), [("transformer", "nmtasync_process"), ("rnn", "nmtasync")]
)
def test_raw_text_to_bleu_with_two_workers(
    tmp_path, toy_corpus: Path, request: pytest.FixtureRequest, model, started
):
    nmtasync: CommandLine = request.getfixturevalue(started)
    run = tmp_path / "run"
    train_src, train_tgt, valid_src, valid_tgt = corpus(toy_corpus)

    result = nmtasync(
        "preprocess", run, "--train", train_src, train_tgt, "--valid", valid_src, valid_tgt,
        "--vocab-size", 46, "--set", "data.byte_fallback=false", "--no-deduplicate",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    result = nmtasync(
        "train", run, "--devices=cpu,cpu", "--optimizer-delay=2", "--batch-tokens=200",
        "--learning-rate=1e-2", "--warmup-updates=40", "--max-epochs=50",
        "--validate-every=100", "--patience=none", "--set=model.dimension=32",
        "--set=model.encoder_layers=1", "--set=model.decoder_layers=1", f"--set=model.type={model}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr

    # on what it was trained on: to generalise takes more text and time
    result = nmtasync("evaluate", run, "--test", "toy", train_src, train_tgt, "--json")
    assert result.returncode == 0, result.stderr
    (scores,) = json.loads(result.stdout)
    assert scores == json.loads((run / "evaluation" / "toy.json").read_text("utf-8"))
    hypotheses = (run / "evaluation" / "toy.hyp").read_text("utf-8").split("\n")[:-1]
    references = train_tgt.read_text("utf-8").split("\n")[:-1]
    independent = sacrebleu.corpus_bleu(hypotheses, [references])
    assert scores["bleu"]["score"] == pytest.approx(independent.score)
    assert independent.score > 10, "it has learned something: an untrained model scores about 0"

    text = f"eins zwei\n\n{'drei ' * 4}\n   \n"
    result = nmtasync("translate", run, stdin=text)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split("\n")
    assert len(lines) == 5 and lines[-1] == "", "as many lines as there were"
    assert lines[0] and lines[1] == "" and lines[2] and lines[3] == ""

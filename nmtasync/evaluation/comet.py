"""COMET, a neural metric, where its package is installed: it runs in a process of its own.

So its libraries and its model, which take gigabytes, are gone when it has scored, and what they
print and how they fail stays apart.

Source: Rei et al. 2020, "COMET: A Neural Framework for MT Evaluation".
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence

from nmtasync.errors import NmtasyncError, UserError
from nmtasync.evaluation.metrics import Score
from nmtasync.untrusted import parse_json, typed

DEFAULT_MODEL = "Unbabel/wmt22-comet-da"
_ANSWER = b"nmtasync-comet: "


def refuse_missing_comet() -> None:
    """Find out whether COMET is installed, before anything is translated.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("comet") is None:
        raise UserError(
            "is needed for --metrics comet, and not installed",
            where="comet",
            remedy="run `pip install unbabel-comet`",
        )


def score_by_comet(
    sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str], model: str
) -> Score:
    """Score translations of a whole test set by COMET, mostly from 0 to 1.

    Args:
        sources: The text.
        hypotheses: Its translations.
        references: One reference for each.
        model: A name, which is fetched where it is not on the disk, or the path of a checkpoint.

    Raises:
        NmtasyncError: COMET has failed.
    """
    lines = zip(sources, hypotheses, references, strict=True)
    task = {"model": model, "data": [{"src": s, "mt": h, "ref": r} for s, h, r in lines]}
    process = subprocess.run(
        [sys.executable, "-P", "-m", __name__],
        input=json.dumps(task).encode("utf-8"),
        capture_output=True,
        check=False,
    )
    answers = [line for line in process.stdout.splitlines() if line.startswith(_ANSWER)]
    if process.returncode or len(answers) != 1:
        said = process.stderr.decode("utf-8", "replace").strip().splitlines()
        raise NmtasyncError(
            f"has failed: {said[-1] if said else f'exit code {process.returncode}'}",
            where=f"COMET, {model}",
            remedy="see that the model is on the disk or can be fetched, or leave --metrics out",
        )
    value = typed(float, parse_json(answers[0].removeprefix(_ANSWER)), "COMET's score")
    return {"score": value, "signature": f"model:{model}"}


def main() -> None:
    """Score what standard input holds, in the process that `score_by_comet` starts."""
    import torch
    from comet import download_model, load_from_checkpoint

    task = parse_json(sys.stdin.buffer.read())
    name = task["model"]
    path = name if name.endswith(".ckpt") else download_model(name)
    gpus = 1 if torch.cuda.is_available() else 0
    result = load_from_checkpoint(path).predict(task["data"], batch_size=16, gpus=gpus)
    sys.stdout.flush()
    sys.stdout.buffer.write(_ANSWER + json.dumps(float(result["system_score"])).encode() + b"\n")


if __name__ == "__main__":
    main()

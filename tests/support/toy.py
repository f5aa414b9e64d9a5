"""The toy: a tiny model's settings, and its corpus of spelled-out digits."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from nmtasync.config.load import resolve
from nmtasync.config.schema import Config
from nmtasync.data.batches import Batch

TOY_MODEL = {
    "model.dimension": 16,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "data.batch_tokens": 120,
    "training.validate_bleu": False,
    "training.validate_metric": "cross_entropy",
    "training.precision": "fp32",  # "auto" measures, for longer than all batches of a test take
    "asynchronous.devices": "cpu",
    "asynchronous.threads": 1,  # tests run beside each other
}
"""Settings of a model so small that a batch takes a few milliseconds."""
TOY_FLAGS = [
    f"--set={name}={str(value).lower() if isinstance(value, bool) else value}"
    for name, value in TOY_MODEL.items()
]
"""The same for the command line."""


def write_toy_corpus(directory: Path, num_pairs: int = 300) -> None:
    """Write train and valid .src and .tgt: spelled-out digits, the target in reverse order."""
    words = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    rng = random.Random(1)
    for part, number in (("train", num_pairs), ("valid", 20)):
        lines = [[rng.randrange(10) for _ in range(rng.randint(1, 6))] for _ in range(number)]
        source = "".join(" ".join(words[d] for d in line) + "\n" for line in lines)
        target = "".join(" ".join(names[d] for d in line[::-1]) + "\n" for line in lines)
        (directory / f"{part}.src").write_text(source, "utf-8")
        (directory / f"{part}.tgt").write_text(target, "utf-8")


def toy_batch() -> Batch:
    """Sentences of three lengths, padded."""
    torch.manual_seed(4)
    rows = [torch.randint(4, 46, (length,)) for length in (9, 7, 3)]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    shifted = torch.cat((torch.full((3, 1), 2), padded[:, :-1]), dim=1)
    real = (padded != 0).flatten().nonzero().squeeze(1)
    return Batch(padded, padded != 0, shifted, padded, real, 19, 19)


def toy_config(**changes: object) -> Config:
    names = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve(TOY_MODEL, names)

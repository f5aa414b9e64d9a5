"""Plain parameters: model.safetensors with our names, and architecture.json."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from safetensors.torch import save_file

from nmtasync.data.vocabulary import BOS, EOS, PAD, UNK
from nmtasync.interchange.network import Network
from nmtasync.interchange.origin import Origin
from nmtasync.run_directory import write_json

FORMAT = 1


def write_safetensors(network: Network, origin: Origin, directory: Path) -> None:
    """Write a network of any kind.

    Args:
        network: The network.
        origin: What is told of it.
        directory: An empty one.
    """
    vocabularies, parameters = network.vocabularies, network.parameters
    save_file(parameters, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "vocab").mkdir()
    vocabularies.save(directory / "vocab")
    architecture = {
        "format": FORMAT,
        "origin": origin.to_json(),
        "model": dataclasses.asdict(network.config),
        "source_pieces": vocabularies.source.size,
        "target_pieces": vocabularies.target.size,
        "control_pieces": {"pad": PAD, "unk": UNK, "bos": BOS, "eos": EOS},
        "parameters": {name: list(tensor.shape) for name, tensor in parameters.items()},
    }
    write_json(directory / "architecture.json", architecture)

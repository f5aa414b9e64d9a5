"""Write a trained network in a format of other programs: whole, or not at all."""

from __future__ import annotations

from pathlib import Path

from nmtasync.errors import UserError
from nmtasync.interchange.ctranslate2_export import write_ctranslate2
from nmtasync.interchange.huggingface_export import write_huggingface
from nmtasync.interchange.marian_export import write_marian
from nmtasync.interchange.network import Network
from nmtasync.interchange.origin import Origin
from nmtasync.interchange.safetensors_export import write_safetensors
from nmtasync.run_directory import (
    directory_written_atomically,
    explain_write_errors,
    refuse_filled,
)


def export_network(
    network: Network, origin: Origin, kind: str, out: Path, quantization: str | None = None
) -> None:
    """Write a network to a new directory.

    Args:
        network: The network.
        origin: What is told of it.
        kind: The format.
        out: The directory.
        quantization: As of `write_ctranslate2`, for that format.

    Raises:
        UserError: The format can't hold the network, or the directory is taken.
    """
    if quantization is not None and kind != "ctranslate2":
        raise UserError(
            f"{kind} keeps parameters as they are",
            where=f"--quantization {quantization}",
            remedy="leave it out, or choose --format ctranslate2",
        )
    refuse_filled(out)
    with explain_write_errors(out), directory_written_atomically(out) as aside:
        match kind:
            case "safetensors":
                write_safetensors(network, origin, aside)
            case "ctranslate2":
                write_ctranslate2(network, origin, aside, quantization)
            case "huggingface":
                write_huggingface(network, origin, aside)
            case "marian":
                write_marian(network, origin, aside)
            case unknown:
                raise AssertionError(unknown)

"""`training.compile`: the Transformer's layers through torch.compile, in training only.

What is compiled is a layer, not the network: all layers of a kind share one result, however many
there are. The loss has its gradient written by hand and is made of large products, so there is
nothing to fuse in it. Lengths are symbols of the compiled code, which therefore serves batches of
every shape but those with a side of one, on which PyTorch would specialise: these run uncompiled,
and so does everything outside of training. So nothing is compiled a second time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from nmtasync.data.batches import Batch
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.models.transformer_layers import DecoderLayer, EncoderLayer


def compile_layers(model: SequenceToSequence, backend: str = "inductor") -> None:
    """Let a model's layers run compiled inside of `running_compiled`, and only there.

    Args:
        model: Its layers are changed in place.
        backend: What compiles, as torch.compile names it.
    """
    torch.compiler.set_stance("force_eager")
    for module in model.modules():
        if isinstance(module, EncoderLayer | DecoderLayer):
            module.compile(dynamic=True, backend=backend)


def running_compiled(batch: Batch) -> AbstractContextManager[None]:
    """While the context lasts, compiled layers run as such, if the batch's shape allows it."""
    sides = (*batch.source.shape, *batch.target.shape)
    stance: Any = torch.compiler.set_stance  # torch has no types for it
    context: AbstractContextManager[None] = stance("force_eager" if 1 in sides else "default")
    return context

"""A gradient of a single batch, apart from the sum over its window.

Shapes: P is the length of the parameter vector.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from nmtasync.models.sequence_to_sequence import SequenceToSequence
from nmtasync.optim.flat import FlatModel


class BatchGradient:
    """Room for the gradient of one batch, where more is done with it than to sum it up.

    Args:
        flat: The model, whose `gradients` [P] are those of the window.

    Attributes:
        gradient: [P].
    """

    def __init__(self, flat: FlatModel[SequenceToSequence]) -> None:
        self.flat = flat
        self.gradient = torch.zeros_like(flat.gradients)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """While the context lasts, gradients go to `gradient`, which is zero at first."""
        window_gradient = self.flat.gradients
        self.gradient.zero_()
        self.flat.bind(self.flat.parameters, self.gradient)
        yield
        self.flat.bind(self.flat.parameters, window_gradient)

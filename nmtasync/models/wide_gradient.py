"""Gradients in float32 of matrices in 16 bits, to which a batch adds thousands of rows.

Shapes: V pieces of a vocabulary, D dimension.
"""

from __future__ import annotations

from torch import Tensor, nn


class WideGradient:
    """Collects what backward passes would add to the gradient of a matrix [V, D] or [V].

    Look-ups and the output projection give their shares here where there is one, in place of
    rounding each to 16 bits and letting autograd add them.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._total: Tensor | None = None

    @classmethod
    def of(cls, matrix: Tensor) -> WideGradient | None:
        """Return that of a matrix, if it has one."""
        return getattr(matrix, "wide_gradient", None)

    @classmethod
    def give(cls, parameter: nn.Parameter) -> None:
        """Let a parameter have one."""
        parameter.wide_gradient = cls(parameter.shape)  # type: ignore[attr-defined]

    def add(self, gradient: Tensor) -> None:
        """Add a gradient in float32, which is handed over."""
        self._total = gradient if self._total is None else self._total.add_(gradient)

    def add_rows(self, ids: Tensor, rows: Tensor) -> None:
        """Add rows [..., D] in float32 to those of the pieces [...]."""
        if self._total is None:
            self._total = rows.new_zeros(self._shape)
        self._total.index_add_(0, ids.flatten(), rows.flatten(0, -2))

    def take(self) -> Tensor | None:
        """Return what has been collected since the last time, if anything has."""
        total, self._total = self._total, None
        return total

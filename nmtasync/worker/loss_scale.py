"""Dynamic loss scaling: what keeps small gradients above the least number of float16."""

from __future__ import annotations

import math

FIRST_EXPONENT = 7
MIN_EXPONENT, MAX_EXPONENT = -14, 24

WINDOWS_TO_GROW = 2000
"""The scale doubles after this many windows without an overflow, as `torch.amp.GradScaler`'s."""


class LossScale:
    """A power of two that the loss is multiplied by, and the gradient divided by afterwards.

    It is halved when a gradient overflows, and doubled when none has for a while. A worker looks
    at the norm of a whole window, which it needs anyway, so nothing waits for the device. The loss
    is a sum over words, so the scale begins lower than for a mean.
    Source: Micikevicius et al. 2018, "Mixed Precision Training" (arXiv 1710.03740), section 3.2;
    the beginning at 128: Ott et al. 2018, "Scaling Neural Machine Translation".

    Attributes:
        exponent: Of the power of two.
        windows: Since the exponent has changed.
    """

    def __init__(self) -> None:
        self.exponent = FIRST_EXPONENT
        self.windows = 0

    @property
    def factor(self) -> float:
        """What the loss is multiplied by."""
        return math.ldexp(1.0, self.exponent)

    def numbers(self) -> dict[str, int]:
        """What a checkpoint must keep."""
        return {"scale_exponent": self.exponent, "scale_windows": self.windows}

    def restore(self, numbers: dict[str, int]) -> None:
        """Go on from `numbers`, if they were kept: not by a run in another precision."""
        self.exponent = numbers.get("scale_exponent", self.exponent)
        self.windows = numbers.get("scale_windows", self.windows)

    def adapt(self, gradient_norm: float) -> bool:
        """Take note of a window's gradient.

        Args:
            gradient_norm: Of the window.

        Returns:
            Whether the gradient overflowed and a smaller scale may mend that.
        """
        if not math.isfinite(gradient_norm):
            self.windows = 0
            can_shrink = self.exponent > MIN_EXPONENT
            self.exponent -= can_shrink
            return can_shrink
        self.windows += 1
        if self.windows >= WINDOWS_TO_GROW and self.exponent < MAX_EXPONENT:
            self.exponent += 1
            self.windows = 0
        return False

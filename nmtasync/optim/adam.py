"""Adam on a slice of the flat vector, in one fused pass.

Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, through PyTorch's own fused kernel;
    the lead is quasi-hyperbolic momentum, Ma and Yarats 2019 (arXiv 1810.06801), section 4.

The lead is for late pushes, as far as they are late. The paper's method of asynchronous training
has no such thing; it is on because a staleness of one otherwise costs half of the progress. A push
that is not late makes the step of plain Adam, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.adamw import adamw as torch_adamw

from nmtasync.optim.update import Update

MAX_GRADIENT_SHARE = 0.5
"""A step is made of the gradient by no more than this, however long the lead."""


@dataclass(frozen=True)
class Adam:
    """Adam's state for a slice of parameters, and its update.

    Attributes:
        parameters: [n] of float32, updated in place.
        first_moment: [n], the moving average of gradients.
        second_moment: [n], the moving average of squared gradients.
        epsilon: Added to the denominator.
        weight_decay: Of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101): each update also
            shrinks the parameters by this share times the learning rate. 0 is plain Adam.
    """

    parameters: Tensor
    first_moment: Tensor
    second_moment: Tensor
    epsilon: float
    weight_decay: float = 0.0

    def update(self, gradient: Tensor, update: Update) -> None:
        """Apply one gradient.

        With a lead the step follows, instead of the first moment m, where m is going: m plus lead
        times its last change. That change is a multiple of gradient less moment, so such a step is
        a mean of both, in which the gradient has the share lead · (1 − β1) / β1.

        Args:
            gradient: [n]; it is overwritten by itself divided by `update.divisor`.
            update: Its size; with a lead of 0 this is plain Adam.
        """
        number, beta1, learning_rate = update.number, update.beta1, update.learning_rate
        share = min(update.lead * (1 - beta1) / beta1, MAX_GRADIENT_SHARE) if beta1 else 0.0
        kept = (1 - share) * beta1
        if share:  # the kernel corrects for a moment that decays by `kept`, but it does by β1
            learning_rate *= (1 - kept**number) / (1 - kept * beta1 ** (number - 1))

        def scalar(value: float) -> Tensor:  # filled on the device, which nobody waits for
            return torch.full((), value, dtype=torch.float32, device=self.parameters.device)

        kernel = torch_adamw if self.weight_decay else torch_adam
        kernel(
            [self.parameters],
            [gradient],
            [self.first_moment],
            [self.second_moment],
            [],
            # the kernel counts this one up itself
            [scalar(number - 1)],
            fused=True,
            grad_scale=scalar(update.divisor),
            amsgrad=False,
            beta1=kept,
            beta2=update.beta2,
            lr=learning_rate,
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            maximize=False,
        )
        if share:  # what the kernel left is the step's mean: take out the gradient's share
            self.first_moment.lerp_(gradient, 1 - 1 / (1 - share))

"""Adam on a slice of the flat vector, in one fused pass.

Source: Kingma and Ba 2015 (arXiv 1412.6980), algorithm 1, through PyTorch's own fused kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.adamw import adamw as torch_adamw


class Adam:
    """Adam's state for a slice of parameters, and its update.

    Args:
        parameters: [n] of float32, updated in place.
        first_moment: [n], the moving average of gradients.
        second_moment: [n], the moving average of squared gradients.
        epsilon: Added to the denominator.
        weight_decay: Of AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101): each update also
            shrinks the parameters by this share times the learning rate. 0 is plain Adam.
    """

    def __init__(
        self,
        parameters: Tensor,
        first_moment: Tensor,
        second_moment: Tensor,
        epsilon: float,
        weight_decay: float = 0.0,
    ) -> None:
        self.parameters = parameters
        self.first_moment = first_moment
        self.second_moment = second_moment
        self.epsilon = epsilon
        self.weight_decay = weight_decay

    def update(
        self,
        gradient: Tensor,
        *,
        divisor: float,
        number: int,
        learning_rate: float,
        beta1: float,
        beta2: float,
    ) -> None:
        """Apply one gradient.

        Args:
            gradient: [n]; it is overwritten by itself divided by `divisor`.
            divisor: What the gradient is divided by, for example its target words.
            number: Which update this is, from 1 on; for the bias correction.
            learning_rate: Size of the step.
            beta1: Decay of the first moment.
            beta2: Decay of the second moment.
        """

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
            grad_scale=scalar(divisor),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=learning_rate,
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            maximize=False,
        )

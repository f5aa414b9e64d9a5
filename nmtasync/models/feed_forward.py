"""The Transformer's feed-forward layer.

Shapes: D dimension, F width inside.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nmtasync.models.attention import initialise
from nmtasync.models.dropout import Dropout


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, of each position by itself.

    Source: Vaswani et al. 2017, "Attention Is All You Need", equation 2; Hendrycks and Gimpel
    2016, "Gaussian Error Linear Units"; Ramachandran et al. 2017, "Searching for Activation
    Functions"; Shazeer 2020, "GLU Variants Improve Transformer",
    equation 6, whose first layer makes values and gates, 2F in all.

    Args:
        dimension: D.
        width: F.
        activation: "relu", "gelu", "swish" or "swiglu".
        dropout: Probability, for what comes of the activation.
    """

    def __init__(self, dimension: int, width: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.activation = activation
        self.inner = nn.Linear(dimension, 2 * width if activation == "swiglu" else width)
        self.output = nn.Linear(width, dimension)
        self.dropout = Dropout(dropout)
        initialise(self.inner)
        initialise(self.output)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each position: [..., D] to [..., D]."""
        output: Tensor = self.output(self.dropout(self._activate(self.inner(x))))
        return output

    def _activate(self, inner: Tensor) -> Tensor:
        match self.activation:
            case "relu":
                return F.relu(inner)
            case "gelu":
                return F.gelu(inner)
            case "swish":
                return F.silu(inner)
            case "swiglu":
                gates, values = inner.chunk(2, dim=-1)
                return F.silu(gates) * values
            case unknown:
                raise AssertionError(unknown)

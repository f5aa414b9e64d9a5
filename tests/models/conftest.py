"""The networks that all tests of models run on."""

from __future__ import annotations

import pytest
import torch

from nmtasync.models.build import build_model
from nmtasync.models.sequence_to_sequence import SequenceToSequence
from tests.support.networks import MODELS, SIZE


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest) -> SequenceToSequence:
    torch.manual_seed(4)
    network = build_model(request.param, SIZE, SIZE).double().eval()
    with torch.no_grad():  # parameters that start at zero or one shall matter, too
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network

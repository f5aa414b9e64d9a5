"""Which tests need exact products of integers of 8 bits."""

from __future__ import annotations

import pytest

from nmtasync.models.narrow_linear import computes_int8

needs_int8 = pytest.mark.skipif(not computes_int8(), reason="this machine has no exact int8")

"""The types of numbers by the names that options have for them."""

from __future__ import annotations

import torch

NUMBER_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

"""Train neural machine translation models with asynchronous SGD."""

__version__ = "0.1.0"

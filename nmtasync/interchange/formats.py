"""The names of formats, which the command line knows without importing what writes them."""

EXPORTED = ("ctranslate2", "huggingface", "marian", "safetensors")
"""What a network can be written as."""

IMPORTED = ("huggingface", "marian")
"""What a network can be read from."""

QUANTIZATIONS = (
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
)
"""What CTranslate2 can keep weights in."""

"""A model card: what a network is, what it was trained on, how good it is, how to use it."""

from __future__ import annotations

import json

import nmtasync
from nmtasync.interchange.network import Network
from nmtasync.interchange.origin import Origin


def model_card(network: Network, origin: Origin) -> str:
    """Write the card in Markdown, with the front matter that Hugging Face reads."""
    languages = [each for each in (origin.source_language, origin.target_language) if each]
    blocks = [_front_matter(languages), f"# {origin.name}", _summary(network, origin)]
    if origin.corpora:
        blocks += ["## Training data", _data(origin)]
    if origin.results:
        blocks += ["## Scores", _scores(origin)]
    return "\n\n".join([*blocks, "## Use", _USE]) + "\n"


_USE = """```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

directory = "."
tokenizer = AutoTokenizer.from_pretrained(directory)
model = AutoModelForSeq2SeqLM.from_pretrained(directory)
batch = tokenizer(["Text to translate."], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(model.generate(**batch), skip_special_tokens=True))
```"""


def _front_matter(languages: list[str]) -> str:
    lines = ["library_name: transformers", "pipeline_tag: translation", "tags:", "- translation"]
    if languages:
        lines += ["language:", *(f"- {json.dumps(code)}" for code in languages)]
    return "\n".join(["---", *lines, "---"])


def _summary(network: Network, origin: Origin) -> str:
    config = network.config
    directions = f"from {origin.source_language} to {origin.target_language}"
    known = origin.source_language and origin.target_language
    parameters = sum(tensor.numel() for tensor in network.parameters.values())
    updates = ", ".join(f"{number:,}" for number in origin.checkpoints)
    return (
        f"A Transformer that translates{f' {directions}' if known else ''}: {parameters:,} "
        f"parameters, {config.encoder_layers} layers of the encoder and {config.decoder_layers} of "
        f"the decoder, {config.dimension} wide. Trained with nmtasync {nmtasync.__version__}; this "
        f"is update {updates}."
    )


def _data(origin: Origin) -> str:
    rows = [
        f"| {c.name} | {c.side} | {c.file} | {c.lines:,} | `{c.sha256[:16]}` |"
        for c in origin.corpora
    ]
    heads = ["| corpus | side | file | lines | SHA-256 |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*heads, *rows])


def _scores(origin: Origin) -> str:
    rows = [
        f"| {result.name} | {name} | {metric.score:.2f} | `{_in_table(metric.signature)}` |"
        for result in origin.results
        for name, metric in result.metrics.items()
    ]
    return "\n".join(
        ["| test set | metric | score | signature |", "| --- | --- | --- | --- |", *rows]
    )


def _in_table(text: str) -> str:
    """Keep the bars of a signature from beginning a new cell."""
    return text.replace("|", "\\|")

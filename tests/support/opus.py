"""Directories and files as those of OPUS-MT, with networks that have learned nothing."""

from __future__ import annotations

import io
import json
import string
from pathlib import Path
from typing import Any

import sentencepiece
import torch

TAGS = (">>fra<<", ">>sr_Latn<<")


def learn_models(out: Path, texts: list[Path], lacking: int = 3) -> list[str]:
    """Write source.spm and target.spm, and list their pieces, but for some of the last ones."""
    together = "".join(text.read_text("utf-8") for text in texts) + string.ascii_letters + "äöüß"
    pieces: dict[str, None] = {}
    for side, text in zip(("source", "target"), texts, strict=True):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.read_text("utf-8").splitlines()),
            model_writer=model,
            vocab_size=250,
            required_chars="".join(sorted(set(together) - set(" \n"))),
            hard_vocab_limit=False,
            minloglevel=3,
        )
        (out / f"{side}.spm").write_bytes(model.getvalue())
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        pieces |= dict.fromkeys(processor.id_to_piece(i) for i in range(3, len(processor)))
    return ["</s>", "<unk>", *sorted(pieces)[::-1][lacking:]]


def save_like_opus(transformers: Any, out: Path, texts: list[Path]) -> Path:
    """Write a directory that transformers has saved."""
    tokens = [*learn_models(out, texts), *TAGS, "<pad>"]
    pad = len(tokens) - 1
    (out / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}), "utf-8")
    tokenizer = {"tokenizer_class": "MarianTokenizer", "source_lang": "de", "target_lang": "en"}
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer), "utf-8")
    sizes = {f"{s}_{k}": v for s in ("encoder", "decoder") for k, v in _SIZES.items()}
    config = transformers.MarianConfig(
        vocab_size=len(tokens),
        d_model=32,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        max_position_embeddings=128,
        eos_token_id=0,
        **sizes,
    )
    torch.manual_seed(5)
    model = transformers.MarianMTModel(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        model.model.shared.weight[pad] = 0.0
        model.final_logits_bias.normal_()
    model.save_pretrained(out)
    return out


_SIZES = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}

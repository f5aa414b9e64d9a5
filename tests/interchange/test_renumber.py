"""Tags of languages among the pieces of other programs."""

from __future__ import annotations

import io

import pytest
import sentencepiece

from nmtasync.interchange.renumber import Control, renumber
from nmtasync.preprocessing.learn_vocabulary import text_pieces

TAG, LINE = ">>fra<<", ">>fra<< ein hund rennt >>fra<<"
CONTROL = Control(pad=None, unk=1, bos=None, eos=0)


def learn(kind: str, *symbols: str) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ein hund rennt", "eine katze rennt nicht < >"] * 9),
        model_writer=model,
        model_type=kind,
        vocab_size=40,
        hard_vocab_limit=False,
        user_defined_symbols=list(symbols),
        minloglevel=3,
    )
    return model.getvalue()


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_tag_that_the_model_lacks_is_one_piece_with_its_space(kind: str) -> None:
    model = learn(kind)
    tokens = ["</s>", "<unk>", TAG, *text_pieces(model)]
    (vocabulary,), rows = renumber(tokens, CONTROL, [model])
    plain, tagged = vocabulary.encode(["ein hund", f"{TAG} ein hund"])
    assert tagged[1:] == plain and rows.rows[tagged[0]] == tokens.index(TAG)
    assert vocabulary.decode([tagged]) == [f"{TAG} ein hund"]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_tag_that_the_model_has_is_cut_as_before(kind: str) -> None:
    model = learn(kind, TAG)
    tokens = ["</s>", "<unk>", *text_pieces(model)]
    (vocabulary,), rows = renumber(tokens, CONTROL, [model])
    before = sentencepiece.SentencePieceProcessor(model_proto=model).encode(LINE, out_type=str)
    assert vocabulary.spell(vocabulary.encode([LINE])[0]) == before and TAG in before
    assert rows.rows[vocabulary.pieces().index(TAG)] == tokens.index(TAG)


def test_a_tag_with_and_without_its_space_is_refused() -> None:
    model = learn("unigram")
    tokens = ["</s>", "<unk>", TAG, f"\u2581{TAG}", *text_pieces(model)]
    with pytest.raises(ValueError, match="twice"):
        renumber(tokens, CONTROL, [model])

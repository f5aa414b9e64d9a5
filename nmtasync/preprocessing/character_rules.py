"""How a vocabulary rewrites characters: a named normalisation, and a user's own rules after it.

Rules stand in a file as SentencePiece has them: on each line the code points of what is rewritten,
a tab, and those of what it becomes, in hexadecimal with spaces between them; what follows a # is a
remark. They are compiled into the model, so whoever uses it rewrites alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from nmtasync.data.corpus import TextReader
from nmtasync.data.vocabulary import RULES_WITHOUT_SPACES, Vocabulary
from nmtasync.errors import UserError

_CODE = re.compile(r"(?:U\+)?([0-9A-Fa-f]{1,6})", re.IGNORECASE)
_MOST_RULES = 100_000
_OTHER_RULES = "user_defined"


class CharacterRules:
    """A normalisation with rules of a user's own.

    Args:
        normalization: Its name, as SentencePiece has it.
        path: The file of the rules that come after it; None for none.

    Raises:
        UserError: The file can't be read, or a line is no rule.
    """

    def __init__(self, normalization: str, path: Path | None) -> None:
        rules = {} if path is None else read_rules(path)
        message: Any = sentencepiece_model_pb2
        if rules:
            base = _named(normalization)
            replace = _replacer(rules)
            rewritten = {source: replace(target) for source, target in base} | rules
            normalizer = sentencepiece.SentencePieceNormalizer(norm_map=sorted(rewritten.items()))
        else:
            normalizer = sentencepiece.SentencePieceNormalizer(rule_name=normalization)
        model = message.ModelProto.FromString(normalizer.serialized_model_proto())
        self._map: bytes = model.normalizer_spec.precompiled_charsmap
        spaces = any(" " in source for source in rules)
        self._name = _OTHER_RULES if spaces else RULES_WITHOUT_SPACES
        if not rules:
            self._name = normalization
        self._normalizer = sentencepiece.SentencePieceNormalizer(
            model_proto=model.SerializeToString(), escape_whitespaces=False, add_dummy_prefix=False
        )

    def rewrite(self, line: str) -> str:
        """Return a line as the vocabulary will see it."""
        rewritten: str = self._normalizer.Normalize(line)
        return rewritten

    def put_into(self, vocabulary: Vocabulary) -> Vocabulary:
        """Return a vocabulary of the same pieces that rewrites by these rules."""
        message: Any = sentencepiece_model_pb2
        content = message.ModelProto.FromString(vocabulary.model)
        content.normalizer_spec.name = self._name
        content.normalizer_spec.precompiled_charsmap = self._map
        return Vocabulary(content.SerializeToString())


def read_rules(path: Path) -> dict[str, str]:
    """Read a file of rules.

    Args:
        path: The file.

    Returns:
        What each sequence of characters becomes.

    Raises:
        UserError: It can't be read, or a line is no rule.
    """
    rules: dict[str, str] = {}
    for number, line in enumerate(TextReader(path), 1):
        content = line.partition("#")[0].rstrip()
        if not content:
            continue
        source, _, target = content.partition("\t")
        try:
            rule = _characters(source), _characters(target)
        except ValueError as error:
            raise UserError(
                str(error),
                where=f"{path}:{number}",
                remedy="write each rule as 015F<tab>0219: code points in hexadecimal",
            ) from None
        if not rule[0]:
            raise UserError("the rule rewrites nothing", where=f"{path}:{number}")
        if len(rules) >= _MOST_RULES:
            message = f"there are more than {_MOST_RULES:,} rules"
            raise UserError(message, where=f"{path}:{number}")
        rules[rule[0]] = rule[1]
    if not rules:
        raise UserError("holds no rules", where=path)
    return rules


def _named(normalization: str) -> list[tuple[str, str]]:
    if normalization == "identity":
        return []
    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=normalization)
    rules: list[tuple[str, str]] = normalizer.Decompile()
    return rules


def _characters(codes: str) -> str:
    characters = []
    for code in codes.split():
        match = _CODE.fullmatch(code)
        number = int(match[1], 16) if match else -1
        if not 0 < number <= 0x10FFFF or 0xD800 <= number <= 0xDFFF:
            raise ValueError(f"{code!r} is no code point")
        characters.append(chr(number))
    return "".join(characters)


def _replacer(rules: dict[str, str]) -> Callable[[str], str]:
    longest_first = sorted(rules, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))

    def replace(text: str) -> str:
        return pattern.sub(lambda found: rules[found[0]], text)

    return replace

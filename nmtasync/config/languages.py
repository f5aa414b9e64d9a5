"""Language codes: read as people write them, and what they say about spaces between words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from nmtasync.errors import UserError

Tokens = Literal["words", "zh", "ja", "ko", "characters"]
"""What BLEU counts: words between spaces, what sacrebleu cuts these languages into, characters."""

_CHINESE = {"Hans", "Hant", "Hani", "Hanb"}
_JAPANESE = {"Jpan", "Hira", "Kana", "Hrkt", "Hani"}
_KOREAN = {"Kore", "Hang", "Hani"}
_BY_CHARACTERS = _JAPANESE | {
    *("Thai", "Laoo", "Khmr", "Mymr", "Tibt", "Lana", "Tale", "Talu", "Tavt", "Yiii"),
}
"""Scripts without spaces between words, for which sacrebleu has no tokenizer: those whose lines
Unicode breaks by a dictionary (class SA of its annex 14), Tibetan, Yi, and the Japanese ones."""

_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\ua4cf\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
"""What Unicode has for these scripts and for Chinese, by its blocks."""

_TWO_SCRIPTS = {
    *(
        "az",
        "ber",
        "bm",
        "bs",
        "cr",
        "dyu",
        "ff",
        "ha",
        "iu",
        "kab",
        "kaa",
        "kk",
        "kmr",
        "ks",
        "ku",
    ),
    *("ky", "man", "mn", "ms", "ota", "pa", "sa", "sd", "sh", "shi", "sr", "tg", "tk", "tmh"),
    *("tt", "tzm", "ug", "uz", "zgh"),
}
"""Languages that more than one script is or was used for: a code without a script says nothing."""

_LONGEST_WORD = 4
"""Words of these scripts have no more letters than this on average where spaces part them."""


def parse_language(code: str) -> str:
    """Read a code as BCP 47, FLORES, NLLB, mtdata or a locale has it: zh-CN, zho_Hans, kor, de_DE.

    Returns:
        The tag of BCP 47: zh-CN, zh-Hans, ko, de-DE. A language that nobody knows stays as it is.

    Raises:
        ValueError: It has not the form of a code.
    """
    from langcodes import Language  # takes a tenth of a second, which `--help` need not wait for
    from langcodes.tag_parser import LanguageTagError

    try:
        return Language.get(code.strip(), normalize=True).to_tag()
    except LanguageTagError:
        raise ValueError(f"must be a language code, as de, zh or zho_Hans, not {code!r}") from None


def tokens_of(code: str | None) -> Tokens:
    """Decide what BLEU counts in a language, by its script, which a code names or implies.

    Args:
        code: As of `parse_language`; None if the language is not known.

    Raises:
        UserError: It is no code.
    """
    if code is None:
        return "words"
    from langcodes import Language

    try:
        language = Language.get(parse_language(code))
    except ValueError as error:
        raise UserError(str(error), where="target language") from None
    script = language.maximize().script
    match language.prefer_macrolanguage().language:
        case "ja" if script in _JAPANESE:
            return "ja"
        case "ko" if script in _KOREAN:
            return "ko"
    if script in _CHINESE:
        return "zh"
    return "characters" if script in _BY_CHARACTERS else "words"


def script_of(code: str | None) -> str | None:
    """Return the script that text of a language must be in, as ISO 15924 has it: Latn, Jpan.

    Args:
        code: As of `parse_language`; None if the language is not known.

    Returns:
        None if no code is given, if nobody knows it, or if it leaves the script open.

    Raises:
        ValueError: It is no code.
    """
    if code is None:
        return None
    from langcodes import Language

    language = Language.get(parse_language(code))
    if language.script is not None:
        return language.script
    if not language.is_valid() or language.prefer_macrolanguage().language in _TWO_SCRIPTS:
        return None
    return language.maximize().script


def warn_of_missing_spaces(lines: Iterable[str], code: str | None) -> str | None:
    """Say what is wrong where text without spaces would be scored word by word, which gives 0.

    Args:
        lines: References.
        code: Of their language, as of `tokens_of`.

    Returns:
        What the text has and what to do, to be put behind its name; None if nothing is wrong.

    Raises:
        UserError: It is no code.
    """
    if tokens_of(code) != "words" or not _lacks_spaces(lines):
        return None
    if code is None:
        why = "BLEU must know its language: add"
    else:
        why = f"In {code!r}, BLEU counts what stands between spaces; if it is another, give"
    return f"has hardly any spaces. {why} --target-language zh, ja, th or the like"


def _lacks_spaces(lines: Iterable[str]) -> bool:
    """Whether most letters are of scripts without spaces, and no spaces stand there either."""
    letters = of_these = words = 0
    for line in lines:
        letters += sum(map(str.isalpha, line))
        for word in line.split():
            here = sum(map(str.isalpha, _WITHOUT_SPACES.findall(word)))
            of_these += here
            words += here > 0
    return 2 * of_these > letters and of_these > _LONGEST_WORD * words

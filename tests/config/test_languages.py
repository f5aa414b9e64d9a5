"""Language codes in all the forms that corpora come with, and text without spaces."""

from __future__ import annotations

import pytest

from nmtasync.config.languages import parse_language, tokens_of, warn_of_missing_spaces
from nmtasync.errors import UserError

FLORES = {
    "zh": ["zho_Hans", "zho_Hant", "yue_Hant"],
    "ja": ["jpn_Jpan"],
    "ko": ["kor_Hang"],
    "characters": ["tha_Thai", "lao_Laoo", "khm_Khmr", "mya_Mymr", "shn_Mymr", "bod_Tibt"],
    "words": ["deu_Latn", "ron_Latn", "vie_Latn", "rus_Cyrl", "arb_Arab", "hin_Deva", "amh_Ethi"],
}
OTHERS = {
    "zh": [
        "zh",
        "ZH",
        "zh-CN",
        "zh_TW",
        "chi",
        "zho",
        "cmn",
        "yue",
        "wuu",
        "lzh",
        "nan",
        "zh-Hani",
    ],
    "ja": ["ja", "ja_JP", "jpn", "ja-Hira"],
    "ko": ["ko", "kor", "ko-KR", "ko_Kore"],
    "characters": ["th", "lo", "km_KH", "my", "tha", "bo", "dz"],
    "words": ["de", "ger", "deu", "ron", "rum", "vi", "xx", "und", "nan_Latn", "ja-Latn", "kr"],
}


@pytest.mark.parametrize("codes", [FLORES, OTHERS], ids=["flores", "others"])
def test_codes_say_what_is_counted(codes: dict[str, list[str]]) -> None:
    assert {
        tokens: [c for c in some if tokens_of(c) == tokens] for tokens, some in codes.items()
    } == codes
    assert tokens_of(None) == "words"


def test_codes_become_tags() -> None:
    tags = {"zho_Hans": "zh-Hans", "ron": "ro", "ger": "de", "PT_br": "pt-BR", "xx": "xx"}
    assert {code: parse_language(code) for code in tags} == tags
    for tag in tags.values():
        assert parse_language(tag) == tag


@pytest.mark.parametrize("code", ["", "german", "zh Hans", "de_DE.UTF-8", "中文", "-", "de-"])
def test_what_is_no_code_is_refused(code: str) -> None:
    with pytest.raises(UserError, match="must be a language code"):
        tokens_of(code)


WITHOUT_SPACES = {
    "Chinese": ["我喜欢在公园里散步，因为天气很好。", "他昨天 买了一本新书 Python 3。"],
    "Japanese": ["これは新しい本です。とても面白いです。"],
    "Thai": ["ฉันชอบเดินเล่นในสวนสาธารณะ เพราะอากาศดีมาก"],
    "Lao": ["ຂ້ອຍມັກຍ່າງຫຼິ້ນໃນສວນສາທາລະນະ"],
    "Khmer": ["ខ្ញុំចូលចិត្តដើរលេងនៅក្នុងសួនច្បារ"],
    "Burmese": ["ကျွန်တော်ပန်းခြံထဲမှာလမ်းလျှောက်ရတာကြိုက်တယ်"],
    "Tibetan": ["ང་སྤྱི་གླིང་ནང་འཆམ་འཆམ་བྱེད་པར་དགའ་པོ་ཡོད"],
}


@pytest.mark.parametrize("lines", WITHOUT_SPACES.values(), ids=WITHOUT_SPACES.keys())
def test_text_without_spaces_is_known_by_its_script(lines: list[str]) -> None:
    for code in (None, "en", "xx"):
        assert "--target-language zh" in str(warn_of_missing_spaces(lines, code))
    assert warn_of_missing_spaces(lines, "zho_Hans") is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "12,345 %",
        "Donaudampfschifffahrtsgesellschaft",
        "오늘은 날씨가 좋아서 공원에서 산책했습니다",
        "我 喜欢 在 公园 里 散步 ， 因为 天气 很 好 。",
        "ฉัน ชอบ เดินเล่น ใน สวน",
        "The word 散步因为天气 is Chinese, and most of this sentence is not.",
    ],
)
def test_text_with_spaces_is_left_alone(line: str) -> None:
    assert warn_of_missing_spaces([line], None) is None

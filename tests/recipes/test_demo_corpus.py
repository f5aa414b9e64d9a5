"""The demo's grammar: the same bytes every time, parts that are disjoint, German that is right."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.repository import REPOSITORY

RECIPE = REPOSITORY / "recipes" / "demo"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    sys.path.insert(0, str(RECIPE))
    try:
        import generate
    finally:
        sys.path.remove(str(RECIPE))
    return generate


@pytest.fixture(scope="module")
def corpus(demo: ModuleType) -> dict[str, list[tuple[str, str]]]:
    return demo.generate()


@pytest.mark.processes
def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    hashes = set()
    for hash_seed in ("1", "2"):  # of Python's own hash(), which orders sets
        out = tmp_path / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, RECIPE / "generate.py", out]
        subprocess.run(command, check=True, env=environment)
        names = sorted(path.name for path in out.iterdir())
        assert names == [f"{n}.{x}" for n in ("test", "train", "valid") for x in ("de", "en")]
        content = b"".join((out / name).read_bytes() for name in names)
        hashes.add(hashlib.sha256(content).hexdigest())
    assert len(hashes) == 1


def test_parts_share_no_source_and_are_of_their_size(
    demo: ModuleType, corpus: dict[str, list[tuple[str, str]]]
) -> None:
    assert {name: len(pairs) for name, pairs in corpus.items()} == demo.SIZES
    sources = [english for pairs in corpus.values() for english, _ in pairs]
    assert len(set(sources)) == len(sources) >= 21_000
    assert demo.generate(seed=1)["test"] != corpus["test"]


def test_test_words_are_all_known_from_training(
    corpus: dict[str, list[tuple[str, str]]],
) -> None:
    for side in (0, 1):
        known = {word for pair in corpus["train"] for word in pair[side].split()}
        words = [word for pair in corpus["test"] for word in pair[side].split()]
        assert sum(word not in known for word in words) / len(words) < 0.002


# Written out by hand, not by rule.
GERMAN_NUMBERS = """null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn
vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn zwanzig einundzwanzig zweiundzwanzig
dreiundzwanzig vierundzwanzig fünfundzwanzig sechsundzwanzig siebenundzwanzig achtundzwanzig
neunundzwanzig dreißig einunddreißig zweiunddreißig"""
GERMAN_DAYS = """erste zweite dritte vierte fünfte sechste siebte achte neunte zehnte elfte zwölfte
dreizehnte vierzehnte fünfzehnte sechzehnte siebzehnte achtzehnte neunzehnte zwanzigste
einundzwanzigste zweiundzwanzigste dreiundzwanzigste vierundzwanzigste fünfundzwanzigste
sechsundzwanzigste siebenundzwanzigste achtundzwanzigste neunundzwanzigste dreißigste
einunddreißigste"""
ENGLISH_DAYS = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth twenty-first
twenty-second twenty-third twenty-fourth twenty-fifth twenty-sixth twenty-seventh twenty-eighth
twenty-ninth thirtieth thirty-first"""


def test_numbers_against_tables(demo: ModuleType) -> None:
    assert [demo.german_number(n) for n in range(33)] == GERMAN_NUMBERS.split()
    assert [demo.german_ordinal(n) for n in range(1, 32)] == GERMAN_DAYS.split()
    assert [demo.english_ordinal(n) for n in range(1, 32)] == ENGLISH_DAYS.split()
    by_hand = {
        66: ("sixty-six", "sechsundsechzig"),
        70: ("seventy", "siebzig"),
        77: ("seventy-seven", "siebenundsiebzig"),
        91: ("ninety-one", "einundneunzig"),
        200: ("two hundred", "zweihundert"),
        316: ("three hundred and sixteen", "dreihundertsechzehn"),
        758: ("seven hundred and fifty-eight", "siebenhundertachtundfünfzig"),
    }
    for n, words in by_hand.items():
        assert (demo.english_number(n), demo.german_number(n)) == words
    assert len({demo.german_number(n) for n in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("hour", "minute", "english", "german"),
    [
        (1, 0, "at one o'clock", "um ein Uhr"),
        (12, 0, "at twelve o'clock", "um zwölf Uhr"),
        (3, 30, "at half past three", "um halb vier"),
        (12, 30, "at half past twelve", "um halb eins"),
        (1, 15, "at a quarter past one", "um Viertel nach eins"),
        (11, 45, "at a quarter to twelve", "um Viertel vor zwölf"),
        (12, 40, "at twenty to one", "um zwanzig vor eins"),
        (6, 5, "at five past six", "um fünf nach sechs"),
    ],
)
def test_times_of_day(demo: ModuleType, hour: int, minute: int, english: str, german: str) -> None:
    assert demo.clock(hour, minute) == (english, german)


@pytest.mark.parametrize(
    ("noun", "adjective", "number", "case", "english", "german"),
    [
        ("hat", "red", 1, "accusative", "a red hat", "einen roten Hut"),
        ("lamp", "red", 1, "accusative", "a red lamp", "eine rote Lampe"),
        ("book", "red", 1, "accusative", "a red book", "ein rotes Buch"),
        ("hat", "old", None, "accusative", "the old hat", "den alten Hut"),
        ("lamp", "old", None, "accusative", "the old lamp", "die alte Lampe"),
        ("book", "old", None, "accusative", "the old book", "das alte Buch"),
        ("hat", "old", None, "nominative", "the old hat", "der alte Hut"),
        ("hat", "expensive", 1, "nominative", "an expensive hat", "ein teurer Hut"),
        ("book", "expensive", 1, "nominative", "an expensive book", "ein teures Buch"),
        ("apple", None, 1, "accusative", "an apple", "einen Apfel"),
        ("apple", None, None, "nominative", "the apple", "der Apfel"),
        (
            "apple",
            "green",
            21,
            "accusative",
            "twenty-one green apples",
            "einundzwanzig grüne Äpfel",
        ),
        ("knife", None, 3, "nominative", "three knives", "drei Messer"),
    ],
)
def test_agreement(
    demo: ModuleType,
    noun: str,
    adjective: str | None,
    number: int | None,
    case: str,
    english: str,
    german: str,
) -> None:
    chosen = next(n for n in demo.NOUNS if n.english == noun)
    quality = next((a for a in demo.ADJECTIVES if a.english == adjective), None)
    assert demo.noun_phrase(chosen, quality, number, case) == (english, german)


def test_definite_plural(demo: ModuleType) -> None:
    hat, new = demo.NOUNS[0], next(a for a in demo.ADJECTIVES if a.english == "new")
    plural = demo.noun_phrase(hat, new, None, "accusative", plural=True)
    assert plural == ("the new hats", "die neuen Hüte")


def test_spans_and_prices(demo: ModuleType) -> None:
    spans = {span[0]: span for span in demo.SPANS}
    assert demo.span(3, spans["day"], "past") == ("three days ago", "vor drei Tagen")
    assert demo.span(1, spans["week"], "past") == ("a week ago", "vor einer Woche")
    assert demo.span(1, spans["hour"], "future") == ("in an hour", "in einer Stunde")
    assert demo.span(2, spans["month"], "future") == ("in two months", "in zwei Monaten")
    assert demo.price(1, 0) == ("one euro", "einen Euro")
    assert demo.price(21, 1) == (
        "twenty-one euros and one cent",
        "einundzwanzig Euro und einen Cent",
    )
    assert demo.year(1984) == ("nineteen eighty-four", "neunzehnhundertvierundachtzig")
    assert demo.year(2007) == ("two thousand and seven", "zweitausendsieben")
    assert demo.year(2012) == ("twenty twelve", "zweitausendzwölf")


def clause(demo: ModuleType, **changes: object) -> object:
    persons = {person.english: person for person in demo.PERSONS}
    given = demo.Clause(
        subject=persons["we"],
        english_verb="pick up",
        english_question="do",
        finite="holen",
        end="ab",
        time=demo.Phrase("every day", "jeden Tag"),
        place=None,
        receiver=None,
        thing=demo.Phrase("a red lamp", "eine rote Lampe"),
    )
    return given._replace(**changes)


def test_word_order_of_a_separable_verb(demo: ModuleType) -> None:
    daily = clause(demo)
    assert daily.main() == (
        "we pick up a red lamp every day",
        "wir holen jeden Tag eine rote Lampe ab",
    )
    assert daily.fronted() == (
        "every day, we pick up a red lamp",
        "jeden Tag holen wir eine rote Lampe ab",
    )
    assert daily.question("pick up") == (
        "do we pick up a red lamp every day",
        "holen wir jeden Tag eine rote Lampe ab",
    )
    frame = demo.Phrase("I know that", "ich weiß, dass")
    assert daily.subordinate(frame) == (
        "I know that we pick up a red lamp every day",
        "ich weiß, dass wir jeden Tag eine rote Lampe abholen",
    )


def test_word_order_of_a_perfect_with_receiver_and_place(demo: ModuleType) -> None:
    sister = next(person for person in demo.PERSONS if person.english == "my sister")
    given = clause(
        demo,
        english_verb="gave",
        finite="haben",
        end="gegeben",
        time=demo.Phrase("yesterday", "gestern"),
        place=demo.Phrase("at the market", "auf dem Markt"),
        receiver=sister,
    )
    assert given.main() == (
        "we gave my sister a red lamp at the market yesterday",
        "wir haben meiner Schwester gestern auf dem Markt eine rote Lampe gegeben",
    )
    assert given.subordinate(demo.Phrase("I know that", "ich weiß, dass")).german == (
        "ich weiß, dass wir meiner Schwester gestern auf dem Markt eine rote Lampe gegeben haben"
    )

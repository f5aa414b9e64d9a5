"""Generate the demo's parallel corpus: English to German, made from a small grammar.

    python recipes/demo/generate.py OUT

writes OUT/{train,valid,test}.{en,de}. The same seed gives the same bytes everywhere.

The task is little but real. German needs what English does not show: gender, case and adjective
endings ("a red hat" is "einen roten Hut", "a red lamp" is "eine rote Lampe"), numbers turned round
("twenty-one" is "einundzwanzig"), "half past three" is "halb vier", the verb in second place and
its other part at the end, in subordinate clauses all of it at the end. English always tells which
German sentence is right: no English sentence has two translations.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import NamedTuple

from lexicon import (
    ADJECTIVES,
    DAYS,
    DEFINITE,
    FORMS,
    FRAMES,
    FUTURE_TIMES,
    GIVING_VERBS,
    HAVE,
    INDEFINITE,
    MODALS,
    MONTH_DAYS,
    MONTHS,
    NOUNS,
    PAST_TIMES,
    PAY,
    PERSONS,
    PLACES,
    PREFIXES,
    REPEATED_TIMES,
    SPANS,
    VERBS,
    Noun,
    Person,
    Phrase,
    english_number,
    english_ordinal,
    german_number,
    german_ordinal,
    year,
)

SIZES = {"train": 24_000, "valid": 500, "test": 500}
SEED = 20_18


def noun_phrase(
    noun: Noun, adjective: Phrase | None, number: int | None, case: str, *, plural: bool = False
) -> Phrase:
    """Name one thing or several, in a German case.

    Args:
        noun: What.
        adjective: What it is like, or None.
        number: How many; None is "the".
        case: "nominative" or "accusative".
        plural: With "the": whether several are meant.
    """
    several = plural if number is None else number > 1
    english = [noun.english_plural if several else noun.english]
    if adjective:
        english.insert(0, adjective.english)
    if number is None:
        pattern = DEFINITE[case]["p" if several else noun.gender]
        english.insert(0, "the")
    elif number == 1:
        pattern = INDEFINITE[case][noun.gender]
        english.insert(0, "an" if english[0][0] in "aeiou" else "a")
    else:
        pattern = german_number(number) + " {}e"
        english.insert(0, english_number(number))
    german = pattern.format(adjective.german) if adjective else pattern.split()[0]
    return Phrase(" ".join(english), f"{german} {noun.german_plural if several else noun.german}")


def clock(hour: int, minute: int) -> Phrase:
    """Say a time of day: hour 1 to 12, minute a multiple of 5; German names the next hour at half.

    Args:
        hour: The hour that has begun.
        minute: Minutes since.
    """
    after = hour % 12 + 1
    if minute == 0:
        return Phrase(
            f"at {english_number(hour)} o'clock",
            f"um {'ein' if hour == 1 else german_number(hour)} Uhr",
        )
    if minute == 30:
        return Phrase(f"at half past {english_number(hour)}", f"um halb {german_number(after)}")
    is_past = minute < 30
    count, named = (minute, hour) if is_past else (60 - minute, after)
    if count == 15:
        english, german = "a quarter", "Viertel"
    else:
        english, german = english_number(count), german_number(count)
    return Phrase(
        f"at {english} {'past' if is_past else 'to'} {english_number(named)}",
        f"um {german} {'nach' if is_past else 'vor'} {german_number(named)}",
    )


def span(number: int, unit: list[str], direction: str) -> Phrase:
    """Say "three days ago" or "in three days": German puts "vor" or "in" before the dative."""
    word, one, dative_plural, _ = unit
    if number == 1:
        english, german = f"{'an' if word == 'hour' else 'a'} {word}", one
    else:
        english, german = (
            f"{english_number(number)} {word}s",
            f"{german_number(number)} {dative_plural}",
        )
    if direction == "past":
        return Phrase(f"{english} ago", f"vor {german}")
    return Phrase(f"in {english}", f"in {german}")


def price(euros: int, cents: int) -> Phrase:
    """Say a price, which is in the accusative."""
    english = f"{english_number(euros)} euro{'s' if euros > 1 else ''}"
    german = f"{'einen' if euros == 1 else german_number(euros)} Euro"
    if cents:
        english += f" and {english_number(cents)} cent{'s' if cents > 1 else ''}"
        german += f" und {'einen' if cents == 1 else german_number(cents)} Cent"
    return Phrase(english, german)


class Clause(NamedTuple):
    """What happens, before its words are put in order.

    In German the finite verb stands second in a main clause and last in a subordinate one; `end`,
    a participle, an infinitive or a prefix split off, closes the clause; the receiver comes before
    the time, the time before the place, the place before the thing.
    """

    subject: Person
    english_verb: str
    english_question: str | None
    finite: str
    end: str
    time: Phrase
    place: Phrase | None
    receiver: Person | None
    thing: Phrase

    def english(self, verb: str, *, with_time: bool = True) -> str:
        """Put the English words in order, beginning with the subject."""
        receiver = self.receiver.english if self.receiver else None
        place = self.place.english if self.place else None
        time = self.time.english if with_time else None
        words = (self.subject.english, verb, receiver, self.thing.english, place, time)
        return " ".join(word for word in words if word)

    def german_middle(self, *, with_time: bool = True) -> list[str | None]:
        """List what stands between the subject and the end of the clause."""
        receiver = self.receiver.dative if self.receiver else None
        place = self.place.german if self.place else None
        return [receiver, self.time.german if with_time else None, place, self.thing.german]

    def main(self) -> Phrase:
        """Make it a main clause that begins with the subject."""
        german = [self.subject.nominative, self.finite, *self.german_middle(), self.end]
        return Phrase(self.english(self.english_verb), _join(german))

    def fronted(self) -> Phrase:
        """Make it a main clause that begins with the time: in German the subject moves."""
        german = [self.time.german, self.finite, self.subject.nominative]
        german += [*self.german_middle(with_time=False), self.end]
        english = self.english(self.english_verb, with_time=False)
        return Phrase(f"{self.time.english}, {english}", _join(german))

    def subordinate(self, frame: Phrase) -> Phrase:
        """Make it depend on a frame: in German the finite verb goes to the end."""
        end = [self.end + self.finite] if self.end in PREFIXES else [self.end, self.finite]
        german = [frame.german, self.subject.nominative, *self.german_middle(), *end]
        return Phrase(f"{frame.english} {self.english(self.english_verb)}", _join(german))

    def question(self, base: str) -> Phrase:
        """Make it a question: in German the finite verb goes to the front."""
        german = [self.finite, self.subject.nominative, *self.german_middle(), self.end]
        return Phrase(f"{self.english_question} {self.english(base)}", _join(german))


def _join(words: list[str | None]) -> str:
    return " ".join(word for word in words if word)


def _count(rng: random.Random) -> int:
    return rng.randint(2, 12) if rng.random() < 0.7 else rng.randint(13, 99)


def _thing(rng: random.Random, case: str = "accusative") -> tuple[Phrase, bool]:
    """Choose a noun phrase; also say whether it is plural."""
    adjective = rng.choice(ADJECTIVES) if rng.random() < 0.6 else None
    noun, kind = rng.choice(NOUNS), rng.random()
    if kind < 0.45:
        plural = kind < 0.15
        return noun_phrase(noun, adjective, None, case, plural=plural), plural
    number = 1 if kind < 0.7 else _count(rng)
    return noun_phrase(noun, adjective, number, case), number > 1


def _price(rng: random.Random) -> Phrase:
    euros = (
        rng.randint(1, 99) if rng.random() < 0.8 else rng.randint(2, 9) * 100 + rng.randint(2, 99)
    )
    return price(euros, rng.choice((0, 0, rng.randint(1, 99))))


def _date(rng: random.Random) -> Phrase:
    month = rng.choice(MONTHS)
    day = rng.randint(1, MONTH_DAYS[MONTHS.index(month)])
    english = f"on the {english_ordinal(day)} of {month.english}"
    return Phrase(english, f"am {german_ordinal(day)}n {month.german}")


def _clock(rng: random.Random) -> Phrase:
    return clock(rng.randint(1, 12), rng.randrange(0, 60, 5))


def _time(rng: random.Random, tense: str) -> Phrase:
    """Choose when it happens: "past", "present" (again and again) or "future"."""
    day = rng.choice(DAYS)
    if tense == "present":
        return _repeated_time(rng, day)
    choice = rng.random()
    if choice < 0.3:
        number = 1 if rng.random() < 0.2 else _count(rng)
        return span(number, rng.choice(SPANS), tense)
    if choice < 0.5:
        return _with_clock(rng, _date(rng))
    if choice < 0.65:
        return _clock(rng)
    if choice < 0.75 and tense == "past":
        written = year(rng.choice((rng.randint(1910, 1999), rng.randint(2001, 2025))))
        return Phrase(f"in {written.english}", f"im Jahr {written.german}")
    if tense == "past":
        named = [*PAST_TIMES, Phrase(f"last {day.english}", f"letzten {day.german}")]
    else:
        named = [*FUTURE_TIMES, Phrase(f"next {day.english}", f"nächsten {day.german}")]
    return _with_clock(rng, rng.choice(named))


def _repeated_time(rng: random.Random, day: Phrase) -> Phrase:
    if rng.random() < 0.3:
        word, _, _, plural = rng.choice(SPANS[2:])
        n = _count(rng)
        return Phrase(f"every {english_number(n)} {word}s", f"alle {german_number(n)} {plural}")
    times = [*REPEATED_TIMES, Phrase(f"every {day.english}", f"jeden {day.german}")]
    return _with_clock(rng, rng.choice(times))


def _with_clock(rng: random.Random, time: Phrase) -> Phrase:
    if rng.random() < 0.7:
        return time
    hour = _clock(rng)
    return Phrase(f"{time.english} {hour.english}", f"{time.german} {hour.german}")


def _clause(rng: random.Random) -> tuple[Clause, str]:
    """Choose a clause; also give the English verb as questions need it."""
    subject, kind = rng.choice(PERSONS), rng.random()
    thing, receiver = _thing(rng)[0], None
    if kind < 0.65:
        verb = rng.choice(VERBS)
    elif kind < 0.85:
        verb = rng.choice(GIVING_VERBS)
        receiver = rng.choice([p for p in PERSONS if p.dative and p != subject])
    else:
        verb, cost = PAY, _price(rng)
        thing = Phrase(f"{cost.english} for {thing.english}", f"{cost.german} für {thing.german}")
    place = rng.choice(PLACES) if rng.random() < 0.3 else None
    is_third = subject.form == "er"
    form = FORMS.index(subject.form)
    tense = rng.choice(("past", "past", "present", "future"))
    end, question = verb.infinitive, None
    if tense == "past":
        english, finite, end = verb.english_past, HAVE[form], verb.participle
        question = "did"
    elif tense == "present":
        english = verb.english_present if is_third else verb.english
        finite = (verb.present_ich, verb.present_er, verb.present_wir)[form]
        end, question = verb.prefix, "does" if is_third else "do"
    else:
        plain, third, *finites = rng.choice(MODALS)
        english, finite = f"{third if is_third else plain} {verb.english}", finites[form]
        question = plain if plain == third else None
    time = _time(rng, tense)
    clause = Clause(subject, english, question, finite, end, time, place, receiver, thing)
    return clause, verb.english


def sentence(rng: random.Random) -> Phrase:
    """Choose one sentence."""
    kind = rng.random()
    if kind < 0.06:
        (english, german), plural = _thing(rng, "nominative")
        cost = _price(rng)
        verb = Phrase("cost", "kosten") if plural else Phrase("costs", "kostet")
        return _finish(
            Phrase(
                f"{english} {verb.english} {cost.english}", f"{german} {verb.german} {cost.german}"
            ),
            ".",
        )
    clause, base = _clause(rng)
    if kind < 0.14 and clause.english_question:
        return _finish(clause.question(base), "?")
    if kind < 0.35:
        return _finish(clause.fronted(), ".")
    if kind < 0.6:
        return _finish(clause.subordinate(rng.choice(FRAMES)), ".")
    return _finish(clause.main(), ".")


def _finish(phrase: Phrase, mark: str) -> Phrase:
    english, german = phrase
    return Phrase(english[0].upper() + english[1:] + mark, german[0].upper() + german[1:] + mark)


def generate(seed: int = SEED) -> dict[str, list[Phrase]]:
    """Make the three parts of the corpus; no English sentence is in two of them, or twice in one.

    Args:
        seed: Another one gives other sentences.
    """
    rng = random.Random(seed)
    translations: dict[str, str] = {}
    while len(translations) < sum(SIZES.values()):
        english, german = sentence(rng)
        assert translations.setdefault(english, german) == german, english
    pairs = [Phrase(*item) for item in translations.items()]
    corpus, start = {}, 0
    for name, size in SIZES.items():
        corpus[name] = pairs[start : start + size]
        start += size
    return corpus


def write(directory: Path, corpus: dict[str, list[Phrase]]) -> None:
    """Write NAME.en and NAME.de for each part."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, pairs in corpus.items():
        for i, language in enumerate(("en", "de")):
            text = "".join(pair[i] + "\n" for pair in pairs)
            (directory / f"{name}.{language}").write_bytes(text.encode("utf-8"))


def main() -> None:
    """Read the command line and write the corpus."""
    parser = argparse.ArgumentParser(description="Generate the demo's parallel corpus.")
    parser.add_argument("directory", type=Path, metavar="OUT", help="where to write it")
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    arguments = parser.parse_args()
    write(arguments.directory, generate(arguments.seed))


if __name__ == "__main__":
    main()

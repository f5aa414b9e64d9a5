"""The words of the demo's language: numbers, nouns, verbs, times, in English and German."""

from __future__ import annotations

from typing import NamedTuple


class Phrase(NamedTuple):
    """The same in both languages."""

    english: str
    german: str


class Noun(NamedTuple):
    """A thing: singular and plural of both languages, and the German gender: m, f or n."""

    english: str
    english_plural: str
    german: str
    german_plural: str
    gender: str


class Person(NamedTuple):
    """Who acts, or is given something if there is a dative; `form` is one of `FORMS`."""

    english: str
    nominative: str
    dative: str
    form: str


class Verb(NamedTuple):
    """A verb whose perfect is made with "haben"; the present splits the prefix off, if any."""

    english: str
    english_present: str
    english_past: str
    infinitive: str
    participle: str
    present_ich: str
    present_er: str
    present_wir: str
    prefix: str = ""


def _words(text: str) -> list[str]:
    return text.split()


_ENGLISH_SMALL = _words("""zero one two three four five six seven eight nine ten eleven twelve
    thirteen fourteen fifteen sixteen seventeen eighteen nineteen""")
_ENGLISH_TENS = _words("""- - twenty thirty forty fifty sixty seventy eighty ninety""")
_GERMAN_SMALL = _words("""null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf
    dreizehn vierzehn fünfzehn sechzehn siebzehn achtzehn neunzehn""")
_GERMAN_TENS = _words("""- - zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig""")
_ENGLISH_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
    "nine": "ninth", "twelve": "twelfth",
}  # fmt: skip
_GERMAN_ORDINALS = {1: "erste", 3: "dritte", 7: "siebte", 8: "achte"}


def english_number(n: int) -> str:
    """Write 0 to 999 in English words."""
    if n < 20:
        return _ENGLISH_SMALL[n]
    if n < 100:
        unit = f"-{_ENGLISH_SMALL[n % 10]}" if n % 10 else ""
        return _ENGLISH_TENS[n // 10] + unit
    rest = f" and {english_number(n % 100)}" if n % 100 else ""
    return f"{_ENGLISH_SMALL[n // 100]} hundred{rest}"


def german_number(n: int) -> str:
    """Write 0 to 9999 in German words, as in counting ("eins")."""
    if n < 20:
        return _GERMAN_SMALL[n]
    if n < 100:
        unit = {0: "", 1: "einund"}.get(n % 10, f"{_GERMAN_SMALL[n % 10]}und")
        return unit + _GERMAN_TENS[n // 10]
    size, word = (100, "hundert") if n < 1000 else (1000, "tausend")
    head = "ein" if n // size == 1 else german_number(n // size)
    return head + word + (german_number(n % size) if n % size else "")


def english_ordinal(n: int) -> str:
    """Write 1st to 31st in English words."""
    head, hyphen, last = english_number(n).rpartition("-")
    last = _ENGLISH_ORDINALS.get(
        last, last.removesuffix("y") + ("ieth" if last[-1] == "y" else "th")
    )
    return head + hyphen + last


def german_ordinal(n: int) -> str:
    """Write 1st to 31st in German words, with the ending of "der erste"."""
    return _GERMAN_ORDINALS.get(n) or german_number(n) + ("te" if n < 20 else "ste")


def year(n: int) -> Phrase:
    """Write a year from 1910 to 1999, or from 2001 to 2029."""
    if n < 2000:
        german = f"{german_number(n // 100)}hundert{german_number(n % 100)}"
        return Phrase(f"{english_number(n // 100)} {english_number(n % 100)}", german)
    if n < 2010:
        return Phrase(f"two thousand and {english_number(n % 100)}", german_number(n))
    return Phrase(f"twenty {english_number(n % 100)}", german_number(n))


def _rows(table: str, separator: str | None = None) -> list[list[str]]:
    """Cut a table into rows and columns."""
    lines = table.strip().splitlines()
    return [[cell.strip() for cell in line.split(separator)] for line in lines]


def _phrases(table: str) -> list[Phrase]:
    """Read "red = rot, blue = blau" and so on."""
    cells = [cell.split("=") for cell in table.replace("\n", ",").split(",") if "=" in cell]
    return [Phrase(english.strip(), german.strip()) for english, german in cells]


NOUNS = [Noun(*row) for row in _rows("""
    hat       hats       Hut       Hüte       m
    table     tables     Tisch     Tische     m
    chair     chairs     Stuhl     Stühle     m
    key       keys       Schlüssel Schlüssel  m
    letter    letters    Brief     Briefe     m
    ball      balls      Ball      Bälle      m
    coat      coats      Mantel    Mäntel     m
    suitcase  suitcases  Koffer    Koffer     m
    apple     apples     Apfel     Äpfel      m
    spoon     spoons     Löffel    Löffel     m
    lamp      lamps      Lampe     Lampen     f
    bag       bags       Tasche    Taschen    f
    watch     watches    Uhr       Uhren      f
    bottle    bottles    Flasche   Flaschen   f
    cup       cups       Tasse     Tassen     f
    flower    flowers    Blume     Blumen     f
    fork      forks      Gabel     Gabeln     f
    doll      dolls      Puppe     Puppen     f
    book      books      Buch      Bücher     n
    picture   pictures   Bild      Bilder     n
    shirt     shirts     Hemd      Hemden     n
    dress     dresses    Kleid     Kleider    n
    bicycle   bicycles   Fahrrad   Fahrräder  n
    knife     knives     Messer    Messer     n
    glass     glasses    Glas      Gläser     n
    car       cars       Auto      Autos      n
    pillow    pillows    Kissen    Kissen     n
    boat      boats      Boot      Boote      n
""")]  # fmt: skip
ADJECTIVES = _phrases("""
    red = rot, blue = blau, green = grün, old = alt, new = neu, small = klein, big = groß
    beautiful = schön, cheap = billig, expensive = teur, heavy = schwer, white = weiß
    black = schwarz, yellow = gelb
""")
"""The German stem, which takes the endings."""
PERSONS = [Person(*row) for row in _rows("""
    Anna        | Anna            | Anna            | er
    Peter       | Peter           | Peter           | er
    the woman   | die Frau        | der Frau        | er
    the man     | der Mann        | dem Mann        | er
    the child   | das Kind        | dem Kind        | er
    the children| die Kinder      | den Kindern     | wir
    my brother  | mein Bruder     | meinem Bruder   | er
    my sister   | meine Schwester | meiner Schwester| er
    my parents  | meine Eltern    | meinen Eltern   | wir
    the teacher | der Lehrer      | dem Lehrer      | er
    the doctor  | die Ärztin      | der Ärztin      | er
    I           | ich             |                 | ich
    he          | er              |                 | er
    she         | sie             |                 | er
    we          | wir             |                 | wir
    they        | sie             |                 | wir
""", "|")]  # fmt: skip
VERBS = [Verb(*row) for row in _rows("""
    buy        |buys        |bought       |kaufen    |gekauft    |kaufe    |kauft    |kaufen
    sell       |sells       |sold         |verkaufen |verkauft   |verkaufe |verkauft |verkaufen
    find       |finds       |found        |finden    |gefunden   |finde    |findet   |finden
    lose       |loses       |lost         |verlieren |verloren   |verliere |verliert |verlieren
    see        |sees        |saw          |sehen     |gesehen    |sehe     |sieht    |sehen
    need       |needs       |needed       |brauchen  |gebraucht  |brauche  |braucht  |brauchen
    forget     |forgets     |forgot       |vergessen |vergessen  |vergesse |vergisst |vergessen
    repair     |repairs     |repaired     |reparieren|repariert  |repariere|repariert|reparieren
    pick up    |picks up    |picked up    |abholen   |abgeholt   |hole     |holt     |holen    |ab
    bring along|brings along|brought along|mitbringen|mitgebracht|bringe|bringt|bringen|mit
""", "|")]  # fmt: skip
GIVING_VERBS = [Verb(*row) for row in _rows("""
    give | gives | gave   | geben    | gegeben   | gebe    | gibt    | geben
    show | shows | showed | zeigen   | gezeigt   | zeige   | zeigt   | zeigen
    send | sends | sent   | schicken | geschickt | schicke | schickt | schicken
""", "|")]  # fmt: skip
PAY = Verb("pay", "pays", "paid", "bezahlen", "bezahlt", "bezahle", "bezahlt", "bezahlen")
PREFIXES = {verb.prefix for verb in VERBS if verb.prefix}
PLACES = _phrases("""
    in the garden = im Garten, in the kitchen = in der Küche, at the station = am Bahnhof
    at the market = auf dem Markt, in the city = in der Stadt, at school = in der Schule
    at home = zu Hause
""")
MONTHS = _phrases("""
    January = Januar, February = Februar, March = März, April = April, May = Mai, June = Juni
    July = Juli, August = August, September = September, October = Oktober, November = November
    December = Dezember
""")
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
DAYS = _phrases("""
    Monday = Montag, Tuesday = Dienstag, Wednesday = Mittwoch, Thursday = Donnerstag
    Friday = Freitag, Saturday = Samstag, Sunday = Sonntag
""")
PAST_TIMES = _phrases("yesterday = gestern, the day before yesterday = vorgestern")
FUTURE_TIMES = _phrases("tomorrow = morgen, the day after tomorrow = übermorgen")
REPEATED_TIMES = _phrases("every day = jeden Tag, every morning = jeden Morgen")
SPANS = _rows("""
    minute | einer Minute | Minuten | Minuten
    hour   | einer Stunde | Stunden | Stunden
    day    | einem Tag    | Tagen   | Tage
    week   | einer Woche  | Wochen  | Wochen
    month  | einem Monat  | Monaten | Monate
    year   | einem Jahr   | Jahren  | Jahre
""", "|")  # fmt: skip
"""English; German: one in the dative, several in the dative, several in the nominative."""
FORMS = ("ich", "er", "wir")
HAVE = ("habe", "hat", "haben")
MODALS = _rows("""
    will    | will     | werde | wird | werden
    must    | must     | muss  | muss | müssen
    can     | can      | kann  | kann | können
    want to | wants to | will  | will | wollen
""", "|")  # fmt: skip
FRAMES = [Phrase(*row) for row in _rows("""
    I know that          = ich weiß, dass
    we think that        = wir denken, dass
    Maria says that      = Maria sagt, dass
    it is good that      = es ist gut, dass
    he is happy because  = er ist froh, weil
    they are sad because = sie sind traurig, weil
""", "=")]  # fmt: skip

# German endings: article and adjective by case and gender; p is the plural.
DEFINITE = {
    "nominative": {"m": "der {}e", "f": "die {}e", "n": "das {}e", "p": "die {}en"},
    "accusative": {"m": "den {}en", "f": "die {}e", "n": "das {}e", "p": "die {}en"},
}
INDEFINITE = {
    "nominative": {"m": "ein {}er", "f": "eine {}e", "n": "ein {}es"},
    "accusative": {"m": "einen {}en", "f": "eine {}e", "n": "ein {}es"},
}

"""Normalise Romanian text: cedillas to commas below, then no diacritics at all.

    python recipes/wmt16-ro-en/normalise.py < text.ro | nmtasync translate RUN
    python recipes/wmt16-ro-en/normalise.py FILE... DIRECTORY

In much Romanian text s and t have a cedilla (Turkish letters, which old fonts had) or no mark
where they should have a comma below, so that a word has several spellings. Without diacritics it
has one; on the source side little is lost. Letters of other languages stay as they are.

DIRECTORY appears when all of it has been written, and not before.

Source:
    Sennrich et al. 2016, Edinburgh Neural Machine Translation Systems for WMT 16, section 3.2.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from nmtasync.errors import NmtasyncError
from nmtasync.run_directory import explain_write_errors

COMMA_BELOW = str.maketrans("ŞşŢţ", "ȘșȚț")
"""The letters with a cedilla, to the same with a comma below."""
PLAIN = str.maketrans("ȘșȚțĂăÂâÎî", "SsTtAaAaIi")
"""The Romanian letters with diacritics, to the same without."""


def comma_below(line: str) -> str:
    """Spell s and t with a comma below instead of a cedilla, each as one character."""
    return unicodedata.normalize("NFC", line).translate(COMMA_BELOW)


def normalise(line: str) -> str:
    """Remove the diacritics of Romanian, however they are spelled."""
    return comma_below(line).translate(PLAIN)


def normalise_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Normalise lines of UTF-8; what is no UTF-8 passes as it is."""
    for line in lines:
        yield normalise(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")


def normalise_files(files: Iterable[Path], directory: Path) -> None:
    """Write the normalised files into a directory, which replaces an older one."""
    part = directory.with_name(directory.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in files:
        with path.open("rb") as text, (part / path.name).open("wb") as out:
            out.writelines(normalise_lines(text))
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)


def main() -> None:
    """Filter the standard input, or copy files into a directory."""
    if len(sys.argv) == 1:
        sys.stdout.buffer.writelines(normalise_lines(sys.stdin.buffer))
        return
    if len(sys.argv) == 2:
        print("usage: normalise.py [FILE... DIRECTORY]", file=sys.stderr)
        sys.exit(2)
    *files, directory = map(Path, sys.argv[1:])
    try:
        with explain_write_errors(directory):
            normalise_files(files, directory)
    except NmtasyncError as error:
        print(f"normalise: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

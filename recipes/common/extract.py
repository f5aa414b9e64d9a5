"""Take the texts out of a recipe's downloads: plain UTF-8, one sentence a line.

    python recipes/common/extract.py SOURCES.toml DOWNLOADS OUT [--max-lines N]

Reads .tgz, .zip and .gz. Of WMT's test sets in SGML, the segments become the lines, as sacrebleu
reads them. OUT appears when all of it has been written, and not before.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from sources import Source, read_sources

from nmtasync.errors import NmtasyncError, UserError
from nmtasync.run_directory import explain_write_errors

_SEGMENT = re.compile(r"<seg .*?>(.*)</seg>")


def extract_all(
    sources: Iterable[Source], downloads: Path, out: Path, max_lines: int | None = None
) -> None:
    """Write all texts into a new directory.

    Args:
        sources: What was downloaded.
        downloads: Where it lies.
        out: The directory to make; an older one is replaced.
        max_lines: Take only so many lines from the start of each text; None takes all.

    Raises:
        UserError: A file is damaged, or does not hold a text that it should.
        OSError: It can't be read, or the texts can't be written.
    """
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for source in sources:
        missing = set(source.texts)
        path = downloads / source.name
        try:
            for name, text in members(path):
                if name in missing:
                    with (part / source.texts[name]).open("wb") as file:
                        file.writelines(itertools.islice(lines(name, text), max_lines))
                    missing.remove(name)
                if not missing:
                    break
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # it is the system's, not the archive's
            message = f"can't be unpacked: {error}"
            raise UserError(message, where=path, remedy="download it again") from None
        if missing:
            raise UserError(f"holds no {' and no '.join(sorted(missing))}", where=path)
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the files inside a .tgz, .zip or .gz: name without folders, and content."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    yield PurePosixPath(name).name, file
    elif path.suffix == ".tgz":
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None, "it is a file"
                    yield PurePosixPath(member.name).name, content
    else:
        assert path.suffix == ".gz", path
        with gzip.open(path) as unzipped:
            yield path.stem, unzipped


def lines(name: str, text: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the sentences of a text, with their line ends."""
    if not name.endswith(".sgm"):
        yield from text
        return
    for line in text:
        if segment := _SEGMENT.match(line.decode("utf-8")):
            yield " ".join(segment[1].split()).encode("utf-8") + b"\n"


def main() -> None:
    """Read the command line and extract."""
    parser = argparse.ArgumentParser(description="Take the texts out of a recipe's downloads.")
    parser.add_argument("sources", type=Path, metavar="SOURCES.toml")
    parser.add_argument("downloads", type=Path, metavar="DOWNLOADS")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--max-lines", type=int, metavar="N", help="of each text; default: all")
    arguments = parser.parse_args()
    sources = read_sources(arguments.sources)
    try:
        with explain_write_errors(arguments.out):
            extract_all(sources, arguments.downloads, arguments.out, arguments.max_lines)
    except NmtasyncError as error:
        print(f"extract: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

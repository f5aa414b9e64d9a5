"""Download a recipe's corpora, resuming what was cut off.

    python recipes/common/fetch.py SOURCES.toml DOWNLOADS [--mirror URL]
    python recipes/common/fetch.py SOURCES.toml FOLDER --offline

A file has its name in DOWNLOADS only when it is whole; until then it is NAME.part, with which the
next call goes on. DOWNLOADS/SHA256SUMS, which `sha256sum -c` reads, records each file when it
comes for the first time; a later download must be the same. With --offline, FOLDER is the user's
own: what is there is taken as it is, and only looked for.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from sources import Source, read_sources

from nmtasync.errors import NmtasyncError, UserError
from nmtasync.run_directory import explain_write_errors

TIMEOUT_SECONDS = 15
"""For a connection to come about, and for the next bytes to arrive."""

_BLOCK_BYTES = 1 << 20
_MAGIC = {".gz": b"\x1f\x8b", ".tgz": b"\x1f\x8b", ".zip": b"PK"}


def look_for(sources: Sequence[Source], folder: Path) -> None:
    """Refuse a folder in which files are missing.

    Raises:
        UserError: It names them.
    """
    missing = [source.name for source in sources if not (folder / source.name).is_file()]
    if missing:
        raise UserError(f"there is no {_listed(missing)}", where=folder, remedy="put it there")


def fetch_all(sources: Sequence[Source], downloads: Path, mirror: str | None = None) -> None:
    """Download what is not there yet.

    Args:
        sources: What to download.
        downloads: Where to.
        mirror: A URL under which all files lie by their names, instead of where they are published.

    Raises:
        UserError: A file can't be had, or is not the one that was published or recorded.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    recorded = read_sums(downloads)
    for i, source in enumerate(sources):
        path = downloads / source.name
        if path.exists() and source.name in recorded:
            print(f"{source.name}: there")
            continue
        url = source.url if mirror is None else f"{mirror.rstrip('/')}/{source.name}"
        part = path.with_name(path.name + ".part")
        if not path.exists():
            print(f"{source.name}: {source.what}, from {url}", flush=True)
            try:
                download(url, part)
            except (OSError, http.client.HTTPException) as error:
                names = [s.name for s in sources[i:] if not (downloads / s.name).exists()]
                raise UserError(
                    f"there is no {_listed(names)}, and {url} can't be downloaded ({_why(error)})",
                    where=downloads,
                    remedy="put it there, or name a folder or a mirror that has it with DATA=",
                ) from None
            _refuse_other_kind(part, path.suffix, url)
        content = part if not path.exists() else path
        recorded[source.name] = verified(source, content, recorded.get(source.name))
        content.rename(path)
        write_sums(downloads, recorded)


def download(url: str, part: Path) -> None:
    """Download to a file, going on where an earlier call or a broken connection has ended.

    Raises:
        OSError: It can't be had; after a break as soon as an attempt brings nothing new.
        http.client.HTTPException: The server's answer is no HTTP.
    """
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part, before)
            return
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not before:
                raise
            part.unlink()  # it is not the beginning of what is there now
        except (OSError, http.client.HTTPException):
            if not part.exists() or part.stat().st_size <= before:
                raise


def _continue(url: str, part: Path, offset: int) -> None:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        partial = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers["Content-Length"]
        with part.open("ab" if partial else "wb") as file:
            start = file.tell()
            while block := response.read(_BLOCK_BYTES):
                file.write(block)
            if length is not None and file.tell() - start < int(length):
                raise ConnectionError("the connection broke")


def _refuse_other_kind(part: Path, suffix: str, url: str) -> None:
    """Delete what is no such archive, as the login page of a network, before it is recorded."""
    magic = _MAGIC.get(suffix, b"")
    with part.open("rb") as file:
        begin = file.read(len(magic))
    if begin != magic:
        part.unlink()
        raise UserError(
            f"has sent something else than a {suffix} file, which begins with {begin!r}",
            where=url,
            remedy="open the address in a browser to see what it is, then run the step again",
        )


def verified(source: Source, path: Path, recorded: str | None) -> str:
    """Return the SHA-256 of a downloaded file.

    Args:
        source: What it should be.
        path: The file.
        recorded: The SHA-256 of an earlier download, if there was one.

    Raises:
        UserError: It is another than was published or recorded.
    """
    sha256 = _digest(path, "sha256")
    record = path.with_name("SHA256SUMS")
    expected = [(source.checksum, "delete it and run the step again")] if source.checksum else []
    if recorded:
        remedy = f"delete it, or its line in {record} if it is right, and run the step again"
        expected.append((f"sha256:{recorded}", remedy))
    for checksum, remedy in expected:
        algorithm, _, digest = checksum.partition(":")
        there = _digest(path, algorithm)
        if there != digest:
            raise UserError(
                f"is not the {source.what} that is expected: its {algorithm} is {there}, not "
                f"{digest}",
                where=path,
                remedy=remedy,
            )
    return sha256


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_sums(downloads: Path) -> dict[str, str]:
    """Read SHA256SUMS: the hash of each file by its name."""
    path = downloads / "SHA256SUMS"
    if not path.exists():
        return {}
    lines = (line.split("  ", 1) for line in path.read_text("utf-8").splitlines())
    return {name: digest for digest, name in lines}


def write_sums(downloads: Path, sums: dict[str, str]) -> None:
    """Write SHA256SUMS."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    aside = downloads / "SHA256SUMS.part"
    aside.write_text(text, "utf-8")
    aside.rename(downloads / "SHA256SUMS")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _why(error: Exception) -> object:
    reason = getattr(error, "reason", None) or error
    return getattr(reason, "strerror", None) or reason


def main() -> None:
    """Read the command line and fetch."""
    parser = argparse.ArgumentParser(description="Download a recipe's corpora.")
    parser.add_argument("sources", type=Path, metavar="SOURCES.toml")
    parser.add_argument("downloads", type=Path, metavar="DOWNLOADS")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--mirror", metavar="URL", help="take all files from there, by name")
    where.add_argument("--offline", action="store_true", help="only look if all files are there")
    arguments = parser.parse_args()
    sources = read_sources(arguments.sources)
    try:
        with explain_write_errors(arguments.downloads):
            if arguments.offline:
                look_for(sources, arguments.downloads)
            else:
                fetch_all(sources, arguments.downloads, arguments.mirror)
    except NmtasyncError as error:
        print(f"fetch: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

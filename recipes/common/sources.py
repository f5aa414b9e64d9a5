"""Where a recipe's corpora come from: its `sources.toml`.

One `[[file]]` for each file to download:

    [[file]]
    name = "ro-en.tgz"                      # under this name it lies in the download folder
    what = "Europarl v7"
    url = "https://www.statmt.org/europarl/v7/ro-en.tgz"
    checksum = "sha256:..."                 # or "md5:..."; left out where nobody has published one
    texts = { "europarl-v7.ro-en.ro" = "europarl.ro", "europarl-v7.ro-en.en" = "europarl.en" }

`texts` names the text files inside, without folders, and what they become. A file NAME.gz holds
one, which is called NAME.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One file to download.

    Attributes:
        name: What it is called in the download folder.
        what: What it is, for people.
        url: Where it is published.
        texts: The text files inside, by name without folders, and what each becomes.
        checksum: "sha256:..." or "md5:..." as published; None if it is not known.
    """

    name: str
    what: str
    url: str
    texts: dict[str, str]
    checksum: str | None = None


def read_sources(path: Path) -> list[Source]:
    """Read a `sources.toml`."""
    with path.open("rb") as file:
        return [Source(**table) for table in tomllib.load(file)["file"]]

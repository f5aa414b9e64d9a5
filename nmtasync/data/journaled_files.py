"""Files that grow together, chunk by chunk, and can be gone on with after a kill.

Now and then what has been written is synced to the disk, and then a journal says how long each
file is, and what its writer has to know to go on. Whoever opens them again finds them as they
were then; what was written later is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from nmtasync.run_directory import write_atomically
from nmtasync.untrusted import parse_json, typed

COMMIT_CHUNKS = 16


class JournaledFiles:
    """Files of one directory that are appended to. A context manager that closes them.

    Args:
        directory: Where they are, or shall be.
        names: Their names.
        journal: The name of the journal, which is there from the first commit on.

    Attributes:
        state: What the last `commit` was given; None for new files.
        sizes: How long each file is: what was committed, and what was written since.
    """

    def __init__(self, directory: Path, names: Sequence[str], journal: str) -> None:
        self._directory = directory
        self._journal = directory / journal
        self.state, self.sizes = self._read(names)
        self._files: dict[str, BinaryIO] = {}
        self._chunks = 0
        for name in names:
            file = (directory / name).open("ab")
            self._files[name] = file
            file.truncate(self.sizes[name])

    def _read(self, names: Sequence[str]) -> tuple[Any, dict[str, int]]:
        """Read the journal; without one, or with one that does not fit, nothing counts."""
        try:
            content = typed(dict[str, Any], parse_json(self._journal.read_bytes()), "journal")
            sizes = typed(dict[str, int], content["sizes"], "sizes")
            there = all((self._directory / name).stat().st_size >= sizes[name] for name in names)
            if there and sizes.keys() == set(names) and min(sizes.values()) >= 0:
                return content["state"], sizes
        except (OSError, ValueError, KeyError):
            pass
        return None, dict.fromkeys(names, 0)

    def __enter__(self) -> JournaledFiles:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def append(self, contents: Mapping[str, bytes], state: object) -> None:
        """Append to files what belongs together, and commit if enough has come together.

        Args:
            contents: What to append, by the files' names.
            state: What the writer has to know to go on after it, as JSON.
        """
        for name, content in contents.items():
            self._files[name].write(content)
            self.sizes[name] += len(content)
        self._chunks += 1
        if self._chunks % COMMIT_CHUNKS == 0:
            self.commit(state)

    def commit(self, state: object) -> None:
        """Sync everything, and let the next one begin here."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_atomically(self._journal, json.dumps({"sizes": self.sizes, "state": state}))
        self.state = state

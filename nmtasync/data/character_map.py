"""Whether the map of characters in a SentencePiece model stays within itself.

SentencePiece normalises text by a trie of bytes whose values are places in a list of texts, and
follows the trie's references without looking at their bounds. So a damaged or hostile one would
read memory that is not its own; here all that can be reached is walked through before.

Source: the double array of Darts-clone (Yata), `darts.h`; `normalizer.cc` of SentencePiece.
"""

from __future__ import annotations

import functools

import numpy as np

_BLOCK = 256
_LONGEST_TEXT = 1000
_LABEL = 0x800000FF


@functools.lru_cache(maxsize=4)
def check_character_map(content: bytes) -> None:
    """See that no text leads out of a map of characters.

    Args:
        content: `precompiled_charsmap`: the trie's length in bytes, the trie, and texts that each
            end with a zero.

    Raises:
        ValueError: One does, or it is none.
    """
    if not content:
        return
    size = int.from_bytes(content[:4], "little")
    texts = content[4 + size :]
    if size % (4 * _BLOCK) or not size or len(content) < 4 + size or not texts.endswith(b"\0"):
        raise ValueError("its map of characters is cut off")
    ends = np.flatnonzero(np.frombuffer(texts, np.uint8) == 0)
    if np.diff(ends, prepend=-1).max() > _LONGEST_TEXT:
        raise ValueError("its map of characters makes very long texts")
    units = np.frombuffer(content, "<u4", size // 4, 4)
    offsets = ((units >> 10) << ((units & (1 << 9)) >> 6)).astype(np.int32)
    labels, seen = units & _LABEL, np.zeros(len(units), dtype=bool)
    characters = np.arange(_BLOCK, dtype=np.int32)
    bases = offsets[:1]
    while len(bases):
        if (bases | (_BLOCK - 1)).max() >= len(units):
            raise ValueError("its map of characters leads out of itself")
        seen[bases] = True
        children = bases[:, None] ^ characters
        reached = children[labels[children] == characters]
        bases = reached ^ offsets[reached]
        leaves = bases[(units[reached] >> 8) & 1 == 1]
        inside = leaves[leaves < len(units)]
        if len(inside) < len(leaves) or (units[inside] & 0x7FFFFFFF >= len(texts)).any():
            raise ValueError("its map of characters leads out of itself")
        bases = np.unique(bases[(bases >= len(units)) | ~seen[np.minimum(bases, len(units) - 1)]])

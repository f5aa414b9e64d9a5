"""The last pass of preprocessing: segment a staged corpus, judge its pieces, write its shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from nmtasync.config.schema import DataConfig
from nmtasync.data.shards import CorpusPart, ParallelShards, check_corpora
from nmtasync.data.shards_writer import ShardsWriter
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.machine.ordered_pool import OrderedPool
from nmtasync.preprocessing.binary_block import BlockBinariser, Task
from nmtasync.preprocessing.dropped import Dropped, add_to_state, from_state, merged
from nmtasync.preprocessing.report import CorpusReport
from nmtasync.preprocessing.staging import OnProgress, StagedCorpus

REJECTED_LATER = "rejected-later"


def binarise(
    corpus: StagedCorpus,
    data: Path,
    vocabularies: VocabularyPair,
    filters: DataConfig | None,
    *,
    keep_rejected: bool,
    pool: OrderedPool,
    on_progress: OnProgress,
) -> CorpusReport:
    """Segment a corpus and write its shards to data/NAME; goes on where an earlier call ended.

    Args:
        corpus: What to write.
        data: The parent of the shards' directory.
        vocabularies: How to segment.
        filters: Drop pairs by their pieces; None keeps all, as validation needs it, and keeps
            their text beside the shards.
        keep_rejected: Whether to write the text of what was dropped to the staged directory.
        pool: The processes that work on it.
        on_progress: Told how far it is.
    """
    directory = data / corpus.name
    sizes = vocabularies.source.size, vocabularies.target.size
    with (
        ShardsWriter(directory, *sizes, aligned=corpus.aligned, text=filters is None) as shards,
        (corpus.directory / REJECTED_LATER).open("ab") as rejected,
    ):
        state = shards.state or {
            "done": 0,
            "pairs": [0] * len(corpus.paths),
            "words": [0, 0],
            "dropped": [],
            "rejected": 0,
        }
        rejected.truncate(min(state["rejected"], rejected.tell()))
        binariser = BlockBinariser(
            corpus, vocabularies, filters, shards.dtypes, keep_rejected=keep_rejected
        )
        for block in pool.map(binariser, _tasks(corpus, state["done"])):
            rejected.write(block.rejected)
            rejected.flush()
            pairs = list(state["pairs"])
            pairs[block.piece.corpus] += len(block.sequences[0].lengths)
            state = {
                "done": block.piece.pairs.stop,
                "pairs": pairs,
                "words": [a + b for a, b in zip(state["words"], block.words, strict=True)],
                "dropped": add_to_state(state["dropped"], block.dropped),
                "rejected": rejected.tell(),
            }
            shards.append(block.sequences, state, block.texts)
            on_progress(f"binarising ({corpus.name})", state["done"], len(corpus))
        shards.finish(state, _parts(corpus, state["pairs"]))
    dropped = from_state(state["dropped"])
    return _report(corpus, ParallelShards.open(directory), state["words"], dropped)


def _parts(corpus: StagedCorpus, pairs: Sequence[int]) -> list[CorpusPart] | None:
    """The corpora as training mixes them; None for a single one that is used once an epoch."""
    weights = [paths.weight for paths in corpus.paths]
    if len(weights) == 1 and weights[0] == 1.0:
        return None
    names = [corpus.name_of(number) for number in range(len(weights))]
    parts = list(map(CorpusPart, names, pairs, weights))
    try:
        check_corpora(parts, sum(pairs))
    except ValueError as error:
        raise UserError(str(error), where="--corpus", remedy="give larger weights") from None
    return parts


def _tasks(corpus: StagedCorpus, done: int) -> Iterator[Task]:
    for piece in corpus.texts.pieces():
        if piece.pairs.stop > done:
            pairs = slice(piece.pairs.start, piece.pairs.stop)
            path = corpus.paths[piece.corpus].source
            yield Task(piece, corpus.verdicts[pairs].copy(), path, corpus.lines[pairs].copy())


def _report(
    corpus: StagedCorpus, shards: ParallelShards, words: Sequence[int], dropped: list[Dropped]
) -> CorpusReport:
    return CorpusReport(
        num_read=corpus.num_read,
        num_kept=len(shards),
        dropped=merged([corpus.dropped, corpus.dropped_later(), dropped]),
        source_words=words[0],
        target_words=words[1],
        source_pieces=len(shards.source_tokens),
        target_pieces=len(shards.target_tokens),
        longest=max(shards.longest()),
    )

"""All that reads files, each reader with valid files for it, and what it makes of other ones."""

from __future__ import annotations

import gzip
import json
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nmtasync.checkpoints.history import ValidationHistory
from nmtasync.checkpoints.load import find_checkpoint, load_model, read_state, read_vectors
from nmtasync.config.experiment import experiment_config
from nmtasync.config.load import resolve
from nmtasync.config.schema import AsynchronousConfig, Config, DataConfig, ModelConfig
from nmtasync.data.alignment import parse_alignment
from nmtasync.data.batches import collate
from nmtasync.data.corpus import TextReader, read_together
from nmtasync.data.epochs import plan_corpus
from nmtasync.data.shards import CorpusPart, ParallelShards
from nmtasync.data.vocabulary import Vocabulary, VocabularyPair
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.interchange.export import export_network
from nmtasync.interchange.huggingface_import import read_huggingface
from nmtasync.interchange.imported_run import fill
from nmtasync.interchange.marian_import import read_marian
from nmtasync.interchange.network import Network
from nmtasync.interchange.origin import Origin
from nmtasync.models.build import build_model
from nmtasync.optim.flat import Layout
from nmtasync.preprocessing.borrowed_vocabulary import borrow_vocabulary
from nmtasync.report.figures import read_report
from nmtasync.run_directory import RunDirectory
from nmtasync.server.decaying_mean import DecayingMean
from nmtasync.server.noise_scale import GradientSums, NoiseScale
from nmtasync.training.assembly import data_digest
from nmtasync.training.delay import Delay
from nmtasync.training.divergence import Divergence
from nmtasync.training.simulation.recording import check_recording, read_exchange_log
from recipes.paper.measure import measure
from tests.support.reports import add_result
from tests.support.repository import REPOSITORY
from tests.support.runs import train_with
from tests.support.shards import write_shards

EXAMPLES = REPOSITORY / "tests/checkpoints/format_1"
LOG = "exchanges.jsonl"
CHECKPOINT = "checkpoints/5"
LINES = ["null eins", "zwei  drei\t", "\u00e4\ufb01\u2581 <s> \u3000x", "", "9" * 50]


@dataclass(frozen=True)
class Loader:
    """Something that reads files.

    Attributes:
        files: The files of RUN that are damaged for it, one at a time.
        load: Reads them.
        weight: How often it is tried, beside the others.
        slow: Whether it takes longer than milliseconds.
    """

    files: tuple[str, ...]
    load: Callable[[RunDirectory], object]
    weight: float = 1.0
    slow: bool = False


def prepare(root: Path) -> RunDirectory:
    """Make a RUN in which there is a valid file of each kind."""
    run = RunDirectory(Path(shutil.copytree(EXAMPLES / "run", root)))
    shutil.copy(EXAMPLES / LOG, root / LOG)
    _write_metrics(run)
    _add_measured(run)
    _write_result(run)
    parts = CorpusPart("news", 2, 1.5), CorpusPart("web", 1, 0.5)
    links = [[(0, 0), (2, 1)], [], [(0, 0)]]
    write_shards(
        root / "aligned", [[5, 6], [7], []], [[8], [9, 10, 11], [4]], 46, links=links, corpora=parts
    )
    shutil.copy(run.data / "valid/source.txt", root / "text.src")
    packed = gzip.compress((run.data / "valid/target.txt").read_bytes())
    (root / "text.tgt.gz").write_bytes(packed)
    (root / "text.align").write_text("0-0\n" * 20, "utf-8")
    _write_foreign(run)
    return run


_SIZES: dict[str, Any] = {"dimension": 8, "encoder_layers": 1, "decoder_layers": 1}
_TRANSFORMER = ModelConfig(**_SIZES, heads=2, feed_forward=4, norm="post", zero_start=True)
_RECURRENT = replace(resolve({"model.preset": "marian-s2s"}).model, **_SIZES, state_dimension=6)


def _write_foreign(run: RunDirectory) -> None:
    """Write networks as other programs have them, once with the vocabulary of OPUS-MT's style."""
    vocabularies = VocabularyPair.load(run.vocab)
    sizes = vocabularies.source.size, vocabularies.target.size
    origin = Origin("run", (5,), "de", "en", (), ())
    for config, kind, name in (
        (_TRANSFORMER, "huggingface", "huggingface"),
        (_TRANSFORMER, "marian", "marian"),
        (_RECURRENT, "marian", "recurrent"),
    ):
        network = Network(config, build_model(config, *sizes), vocabularies)
        export_network(network, origin, kind, run.root / name)
    pieces = vocabularies.target.pieces()
    lines = (f"{json.dumps(piece)}: {i}\n" for i, piece in enumerate(pieces))
    shutil.copytree(run.root / "marian", run.root / "opus")
    (run.root / "opus/vocab.yml").write_text("".join(lines), "utf-8")


def _add_measured(run: RunDirectory) -> None:
    """Add what the version that wrote the example did not measure yet."""
    path = run.root / _STATE
    measured = {
        "lateness": asdict(DecayingMean(200, 1.0, 5.0)),
        "noise": NoiseScale([], False, None, 3, by_worker={0: GradientSums()}).to_json(),
        "delay": Delay(AsynchronousConfig(), 2).to_json(),
        "divergence": Divergence(None, ignored=False).to_json(),
    }
    state = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**state, "measured": measured, "rollbacks": 1}), "utf-8")


def _write_metrics(run: RunDirectory) -> None:
    lines = []
    for updates in range(1, 6):
        clocks = {"time_seconds": 2.0 * updates, "updates": updates, "epoch": 0.5 * updates}
        paces = {"target_words_per_second": 9.0, "target_words_per_update": 18.0}
        lines.append({"event": "train", **clocks, **paces, "staleness_mean": 1.0})
        lines.append({"event": "valid", **clocks, "bleu": 3.0 * updates, "cross_entropy": 2.0})
    lines.append({"event": "end", "reason": "reached", "time_seconds": 11.0, "updates": 5})
    run.logs.mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.logs / "metrics.jsonl").write_text(text, "utf-8")


def _write_result(run: RunDirectory) -> None:
    texts = run.data / "valid/source.txt", run.data / "valid/target.txt"
    add_result(run, "toy", texts[1].read_text("utf-8").splitlines(), texts)


def _manifest(run: RunDirectory) -> None:
    experiment_config(run, {"training.seed": 1, "data.max_length": 200})
    data_digest(run)
    borrow_vocabulary(DataConfig(), str(run.root))


def _state(run: RunDirectory) -> None:
    json.dumps(read_state(run, 5, VOCABULARY_DIGEST).to_json(), default=str)


def _vocabulary(run: RunDirectory) -> None:
    vocabulary = Vocabulary.load(run.vocab / "joint.model")
    vocabulary.decode(vocabulary.encode(LINES))
    vocabulary.segment(LINES)
    vocabulary.learned_pieces()


def _log(run: RunDirectory) -> None:
    recording = read_exchange_log(run.root / LOG)
    check_recording(recording, CONFIG, DATA_DIGEST, None)


def _validations(run: RunDirectory) -> None:
    history = ValidationHistory(run, "bleu", 10**9)
    assert history.num_since_best >= 0


def _shards(directory: str) -> Callable[[RunDirectory], None]:
    def load(run: RunDirectory) -> None:
        corpus = ParallelShards.open(run.root / directory)
        corpus.refuse_other_vocabulary(46, 46)
        for sentences in plan_corpus(corpus, CONFIG)[:3]:
            collate(corpus, sentences, aligned=corpus.alignment is not None)

    return load


def _text(run: RunDirectory) -> None:
    sides = run.root / "text.src", run.root / "text.tgt.gz", run.root / "text.align"
    readers = [TextReader(path) for path in sides]
    for source, target, links in read_together(*readers):
        parse_alignment(links, source, target, f"{sides[-1]}:{readers[-1].num_lines}")


def _huggingface(run: RunDirectory) -> None:
    fill(read_huggingface(run.root / "huggingface"))


def _marian(name: str) -> Callable[[RunDirectory], None]:
    return lambda run: _fill_marian(run.root / name / "model.npz")


def _fill_marian(path: Path) -> None:
    fill(read_marian(path, None))


def _pointers(run: RunDirectory) -> None:
    find_checkpoint(run, "best")
    find_checkpoint(run, "latest")


def _resume(run: RunDirectory) -> None:
    train_with(run, {"training.max_updates": 7})


def _replay(run: RunDirectory) -> None:
    settings = {
        "asynchronous.rule": "immediate",
        "asynchronous.local_optimizer_batches": 0,
        "simulation.speeds": "1",
        "simulation.failures": None,
        "training.max_updates": 4,
        "simulation.replay": str(run.root / LOG),
    }
    train_with(run, settings, resume=False)


def _report(run: RunDirectory) -> None:
    json.dumps(read_report([run.root], 3).to_json(), allow_nan=False).encode("utf-8")


_SHARDS = ("shards.json", "source.tokens", "source.offsets", "target.tokens", "target.offsets")
_OF_TRAINING = tuple(f"data/train/{name}" for name in _SHARDS)
_ALIGNED = (*_SHARDS, "alignment.links", "alignment.offsets")
_STATE, _MODEL, _VECTORS = (
    f"{CHECKPOINT}/{name}" for name in ("state.json", "model.safetensors", "training.safetensors")
)
_HUGGINGFACE = tuple(
    f"huggingface/{name}"
    for name in (
        "config.json",
        "vocab.json",
        "tokenizer_config.json",
        "source.spm",
        "model.safetensors",
        "model.safetensors",
    )
)
_DESCRIBING = ("manifest.json", "config.toml", "vocab/joint.model", *_OF_TRAINING)
_RESULTS = ("evaluation/toy.json", "evaluation/toy.json", "evaluation/toy.hyp")
_REPORTED = ("logs/metrics.jsonl", "logs/metrics.jsonl", "config.toml", *_RESULTS)

LOADERS = {
    "manifest.json": Loader(("manifest.json",), _manifest),
    "state.json": Loader((_STATE,), _state, 2),
    "model.safetensors": Loader((_MODEL, _STATE), lambda run: load_model(run, "5"), 0.1),
    "training.safetensors": Loader((_VECTORS,), lambda run: read_vectors(run, 5, NUM_PARAMETERS)),
    "vocabulary": Loader(("vocab/joint.model",), _vocabulary, 0.1),
    "config.toml": Loader(("config.toml",), lambda run: experiment_config(run, {})),
    "exchange log": Loader((LOG,), _log),
    "validations.json": Loader(("checkpoints/validations.json",), _validations),
    "metrics.jsonl": Loader(("logs/metrics.jsonl",), measure),
    "report": Loader(_REPORTED, _report),
    "shards": Loader(_OF_TRAINING, _shards("data/train"), 2),
    "shards with links": Loader(tuple(f"aligned/{n}" for n in _ALIGNED), _shards("aligned")),
    "huggingface": Loader(_HUGGINGFACE, _huggingface, 0.3),
    "marian": Loader(
        ("marian/model.npz", "marian/model.npz", "marian/source.spm"), _marian("marian"), 0.3
    ),
    "marian s2s": Loader(
        ("recurrent/model.npz", "recurrent/model.npz", "recurrent/source.spm"),
        _marian("recurrent"),
        0.3,
    ),
    "marian with yml": Loader(("opus/vocab.yml", "opus/target.spm"), _marian("opus"), 0.2),
    "text": Loader(("text.src", "text.tgt.gz", "text.align"), _text, 2),
    "pointers": Loader(("checkpoints/best", "checkpoints/latest"), _pointers, 0.3),
    "resume": Loader((_STATE, _STATE, _VECTORS, *_DESCRIBING), _resume, 0.003, slow=True),
    "replay": Loader((LOG, *_DESCRIBING), _replay, 0.003, slow=True),
}

_EXAMPLE = RunDirectory(EXAMPLES / "run")
VOCABULARY_DIGEST = VocabularyPair.load(_EXAMPLE.vocab).digest()
DATA_DIGEST = data_digest(_EXAMPLE)
CONFIG: Config = read_state(_EXAMPLE, 5, VOCABULARY_DIGEST).config
NUM_PARAMETERS = Layout.of(load_model(_EXAMPLE, "5")[0]).size


def verdict(load: Callable[[RunDirectory], object], run: RunDirectory) -> str | None:
    """Read the files of a RUN that may be damaged.

    Returns:
        The line that refuses it, or None where it is read.

    Raises:
        Exception: What a user must never see.
    """
    try:
        load(run)
    except UserError as error:
        line = str(error)
        assert error.where, f"says not where: {line}"
        assert len(line) < 3000 and "\n" not in line, line
        assert not any(unicodedata.category(character) == "Cc" for character in line), line
        return line
    except NmtasyncError as error:  # a sound file whose training comes to nothing
        return str(error)
    return None


def replaced(path: Path, content: bytes) -> None:
    """Write a file anew, whatever has become of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or not path.is_file():
        path.unlink(missing_ok=True)
    path.write_bytes(content)

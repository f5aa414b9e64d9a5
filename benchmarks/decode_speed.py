"""Sentences and target pieces a second of translating, and BLEU beside them.

Ours, a plain beam search and, where its package is installed, CTranslate2 take
turns with the same weights; CTranslate2 in processes of its own, as two runtimes of OpenMP in one
slow PyTorch down. The plain one is what a textbook has: batches of
sorted sentences that stay whole to the end, cached keys and values, float32. All are given text and
return text. Times are of the clock, medians of the turns with the least and the most.

    python benchmarks/decode_speed.py --run RUN --test test.de test.en --threads 1 2 --beams 1 5

RUN needs a Transformer as it is by default, trained long enough to end its sentences:

    nmtasync preprocess RUN --config recipes/multi30k/multi30k.toml \
        --train train.de train.en --valid val.de val.en
    nmtasync train RUN --config recipes/multi30k/multi30k.toml
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from common import describe
from torch import Tensor

from nmtasync.config.schema import DecodingConfig, ModelConfig
from nmtasync.data.vocabulary import BOS, EOS, PAD, UNK, VocabularyPair
from nmtasync.evaluation.batches import pad, plan_batches
from nmtasync.evaluation.metrics import bleu
from nmtasync.evaluation.trained_model import load_trained
from nmtasync.interchange.export import export_network
from nmtasync.interchange.origin import load_network
from nmtasync.models.attention import SelfAttention
from nmtasync.models.positions import sinusoids
from nmtasync.models.transformer import Transformer
from nmtasync.models.transformer_layers import DecoderLayer
from nmtasync.run_directory import RunDirectory

BATCH_SENTENCES = 64
LONGEST = 200
DEFAULT_VARIANT = "pre", "relu", "sinusoidal", "attention"
"""What the peers can compute."""

Translate = Callable[[list[str]], list[str]]


class PlainBeam:
    """A batched beam search with cached keys and values, and nothing besides.

    Args:
        model: Whose weights are taken.
        vocabularies: Its subwords.
        beam_size: Hypotheses of each sentence.
    """

    def __init__(self, model: Transformer, vocabularies: VocabularyPair, beam_size: int) -> None:
        self.model = model
        self.vocabularies = vocabularies
        self.beam_size = beam_size
        self.positions = sinusoids(LONGEST, model.embeddings.target.shape[1])

    @torch.no_grad()
    def __call__(self, lines: list[str]) -> list[str]:
        """Translate lines."""
        sources = [[*ids, EOS] for ids in self.vocabularies.source.encode(lines)]
        lengths = {line: len(ids) for line, ids in enumerate(sources)}
        found: dict[int, list[int]] = {}
        for batch in plan_batches(lengths, BATCH_SENTENCES):
            ids = pad([sources[line] for line in batch])
            found |= zip(batch, self.search(ids), strict=True)
        return self.vocabularies.target.decode([found[line] for line in range(len(lines))])

    def search(self, source: Tensor) -> list[list[int]]:
        """Find the best translation of each sentence [B, S]."""
        size, num_beams = source.shape[0], self.beam_size
        source = source.repeat_interleave(num_beams, 0)
        memory, mask = self.model.encode(source, source != PAD).states, source != PAD
        read = [self.split(layer.cross.keys_values(memory), 2) for layer in self.layers()]
        past = [(k[:, :, :0], v[:, :, :0]) for k, v in read]
        history = torch.full((size * num_beams, 1), BOS)
        scores = torch.full((size, num_beams), -math.inf)
        scores[:, 0] = 0.0
        finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(size)]
        for length in range(1, LONGEST):
            logits = self.step(history[:, -1], length - 1, past, read, mask)
            logits[:, [PAD, UNK, BOS]] = -math.inf
            total = (scores.view(-1, 1) + logits.log_softmax(1)).view(size, -1)
            best, places = total.topk(2 * num_beams, dim=1)
            parents, pieces = places // logits.shape[1], places % logits.shape[1]
            rows = []
            for sentence in range(size):
                going = []
                for rank in range(2 * num_beams):
                    row = sentence * num_beams + int(parents[sentence, rank])
                    piece, score = int(pieces[sentence, rank]), float(best[sentence, rank])
                    if piece != EOS:
                        going.append((row, piece, score))
                    elif rank < num_beams:
                        finished[sentence].append((score / length, history[row, 1:].tolist()))
                rows += going[:num_beams]
            if all(len(each) >= num_beams for each in finished):
                break
            order = torch.tensor([row for row, _, _ in rows])
            last = torch.tensor([piece for _, piece, _ in rows])
            scores = torch.tensor([score for _, _, score in rows]).view(size, num_beams)
            history = torch.cat((history[order], last[:, None]), dim=1)
            past = [(k[order], v[order]) for k, v in past]
        return [max(each)[1] if each else [] for each in finished]

    def step(
        self,
        tokens: Tensor,
        position: int,
        past: list[tuple[Tensor, Tensor]],
        read: list[tuple[Tensor, Tensor]],
        mask: Tensor,
    ) -> Tensor:
        """Compute the logits of the next piece [R, V], and add to `past`."""
        x = self.model.embeddings.embed_target(tokens)[:, None] + self.positions[position]
        for index, layer in enumerate(self.layers()):
            attention = layer.attention
            assert isinstance(attention, SelfAttention)
            inputs = attention.inputs(layer.attention_norm(x))
            queries, keys, values = self.split(inputs, 3)
            keys = torch.cat((past[index][0], keys), dim=2)
            values = torch.cat((past[index][1], values), dim=2)
            past[index] = keys, values
            x = x + attention.output(self.attend(queries, keys, values))
            (queries,) = self.split(layer.cross.queries(layer.cross_norm(x)), 1)
            attended = self.attend(queries, *read[index], mask[:, None, None])
            x = x + layer.cross.output(attended)
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        return self.model.logits(self.model.decoder_norm(x))[:, 0]

    def layers(self) -> list[DecoderLayer]:
        """The decoder's."""
        return [layer for layer in self.model.decoder if isinstance(layer, DecoderLayer)]

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split [R, L, parts * D] into parts and heads [R, H, L, E]."""
        heads = self.layers()[0].cross.heads
        return x.unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    @staticmethod
    def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend, and join the heads [R, 1, D]."""
        energies = queries @ keys.transpose(2, 3) / math.sqrt(keys.shape[3])
        if mask is not None:
            energies = energies.masked_fill(~mask, -math.inf)
        return (energies.softmax(3) @ values).transpose(1, 2).flatten(2)


class CTranslate2Peer:
    """CTranslate2 with our weights, in a process of its own.

    Args:
        run: Where they are.
        beam_size: Hypotheses of each sentence.
        threads: Of the processor; each computes batches of its own, which its documentation
            advises for throughput.
        kind: The type in which it computes.
    """

    def __init__(self, run: Path, beam_size: int, threads: int, kind: str) -> None:
        context = multiprocessing.get_context("spawn")
        arguments = run, beam_size, threads, kind
        self._executor = ProcessPoolExecutor(1, context, _load_peer, arguments)

    def __call__(self, lines: list[str]) -> list[str]:
        """Translate lines."""
        return self._executor.submit(_translate_by_peer, lines).result()


_peer: list[Translate] = []
"""What this process translates with, if it is one of `CTranslate2Peer`."""


def _translate_by_peer(lines: list[str]) -> list[str]:
    return _peer[0](lines)


def _load_peer(run: Path, beam_size: int, threads: int, kind: str) -> None:
    import ctranslate2

    network, origin = load_network(RunDirectory(run), "best", 1)
    vocabularies = network.vocabularies
    source_pieces = vocabularies.source.pieces()
    ids_of = {piece: id for id, piece in enumerate(vocabularies.target.pieces())}
    with tempfile.TemporaryDirectory() as directory:
        exported = Path(directory) / "exported"
        export_network(network, origin, "ctranslate2", exported)
        translator = ctranslate2.Translator(
            str(exported), compute_type=kind, inter_threads=threads, intra_threads=1
        )

    def translate(lines: list[str]) -> list[str]:
        encoded = vocabularies.source.encode(lines)
        found = translator.translate_batch(
            [[source_pieces[id] for id in ids] for ids in encoded],
            beam_size=beam_size,
            max_batch_size=BATCH_SENTENCES,
            max_decoding_length=LONGEST,
            disable_unk=True,
        )
        ids = [[ids_of[piece] for piece in each.hypotheses[0]] for each in found]
        return vocabularies.target.decode(ids)

    _peer.append(translate)


def load(run: Path) -> tuple[Transformer, ModelConfig, VocabularyPair]:
    """Load a network that the peers know.

    Raises:
        SystemExit: They don't know it.
    """
    trained = load_trained(run, "best", 1, "cpu", DecodingConfig())
    model, config = trained.translator.ensemble.models[0], trained.config.model
    variant = config.norm, config.activation, config.positions, config.decoder
    if not isinstance(model, Transformer) or variant != DEFAULT_VARIANT:
        raise SystemExit("the peers know the default Transformer only")
    return model, config, trained.translator.vocabularies


def candidates(run: Path, beam: int, threads: int) -> dict[str, Translate]:
    """Build all that take turns."""
    model, _, vocabularies = load(run)
    decoding = DecodingConfig(beam_size=beam, batch_sentences=BATCH_SENTENCES)
    found: dict[str, Translate] = {"plain beam": PlainBeam(model, vocabularies, beam)}
    for kind in ("fp32", "bf16", "int8"):
        how = dataclasses.replace(decoding, precision=kind)
        found[f"ours {kind}"] = load_trained(run, "best", 1, "cpu", how).translator.translate
    if importlib.util.find_spec("ctranslate2"):
        for kind in ("float32", "int8"):
            found[f"CTranslate2 {kind}"] = CTranslate2Peer(run, beam, threads, kind)
    return found


def measure(
    found: dict[str, Translate], lines: list[str], turns: int
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Let all take turns; return the seconds and the translations."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    texts = {name: translate(lines[:BATCH_SENTENCES]) for name, translate in found.items()}
    for _ in range(turns):
        for name, translate in found.items():
            start = time.perf_counter()
            texts[name] = translate(lines)
            seconds[name].append(time.perf_counter() - start)
    return seconds, texts


def report(
    seconds: dict[str, list[float]],
    texts: dict[str, list[str]],
    references: Sequence[str],
    vocabularies: VocabularyPair,
) -> None:
    """Print a line for each candidate."""
    print(f"{'':22}{'sentences/s':26}{'target pieces/s':24}{'seconds':22}BLEU")
    for name, times in seconds.items():
        pieces = sum(len(ids) + 1 for ids in vocabularies.target.encode(texts[name]))
        print(
            f"{name:22}"
            f"{describe([len(references) / s for s in times]):26}"
            f"{describe([pieces / s for s in times]):24}"
            f"{describe(times, '{:.2f}'):22}"
            f"{bleu(texts[name], list(references), None):.2f}",
            flush=True,
        )


def main() -> None:
    """Measure all candidates with each number of threads and each beam."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path)
    parser.add_argument("--test", type=Path, nargs=2, metavar=("SOURCE", "REFERENCE"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--beams", type=int, nargs="+", default=[5, 1])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sentences", type=int, help="only so many of the test set's first")
    parser.add_argument("--only", nargs="+", help="candidates whose names contain one of these")
    arguments = parser.parse_args()
    if not arguments.run or not arguments.test:
        print(
            "decode_speed needs --run RUN and --test SOURCE REFERENCE; --help says how to get RUN"
        )
        return
    number = arguments.sentences
    sides = [path.read_text("utf-8").splitlines()[:number] for path in arguments.test]
    vocabularies = load(arguments.run)[2]
    if not importlib.util.find_spec("ctranslate2"):
        print("CTranslate2 is left out: `pip install ctranslate2` to compare with it")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for beam in arguments.beams:
            found = candidates(arguments.run, beam, threads)
            if arguments.only:
                kept = [n for n in found if any(part in n for part in arguments.only)]
                found = {name: found[name] for name in kept}
            print(f"\nbeam {beam}, {threads} thread(s), {len(sides[0])} sentences")
            report(*measure(found, sides[0], arguments.turns), sides[1], vocabularies)


if __name__ == "__main__":
    main()

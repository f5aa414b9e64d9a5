"""Files of strangers: whatever is in them, they are read, or refused in one line.

`make fuzz` tries many more, in processes of their own (tests/fuzz/many.py).
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nmtasync.checkpoints import store
from nmtasync.checkpoints.load import find_checkpoint
from nmtasync.data.vocabulary import sentencepiece_model_pb2
from nmtasync.errors import UserError
from nmtasync.models.build import ModelSpec
from nmtasync.run_directory import RunDirectory
from nmtasync.untrusted import MAX_DOCUMENT_BYTES, typed
from tests.support.damage import damaged, with_other_value
from tests.support.loaders import CHECKPOINT, LOADERS, LOG, prepare, replaced, verdict
from tests.support.networks import MODELS, SIZE

TRIES = 150
FAST = [name for name, loader in LOADERS.items() if not loader.slow]
STATE, MODEL = f"{CHECKPOINT}/state.json", f"{CHECKPOINT}/model.safetensors"

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
seeded = settings(
    max_examples=TRIES,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return prepare(tmp_path_factory.mktemp("sound") / "run")


@pytest.fixture
def run(_prepared: RunDirectory, tmp_path: Path) -> RunDirectory:
    return RunDirectory(Path(shutil.copytree(_prepared.root, tmp_path / "run")))


def told(run: RunDirectory, reader: str) -> str:
    """The line that refuses the files of a reader."""
    line = verdict(LOADERS[reader].load, run)
    assert line is not None, "they are read"
    return line


@pytest.mark.parametrize("name", LOADERS)
def test_sound_files_are_read(run, name):
    assert verdict(LOADERS[name].load, run) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_damaged_files_are_read_or_refused(run, name):
    loader = LOADERS[name]
    sound = {file: (run.root / file).read_bytes() for file in loader.files}

    @seeded
    @given(st.sampled_from(loader.files), st.integers(0, 2**32))
    def try_one(file: str, seed: int) -> None:
        replaced(run.root / file, damaged(sound[file], random.Random(seed)))
        try:
            verdict(loader.load, run)
        finally:
            replaced(run.root / file, sound[file])

    try_one()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("manifest.json", "manifest.json"),
        ("state.json", STATE),
        ("exchange log", LOG),
        ("validations.json", "checkpoints/validations.json"),
        ("metrics.jsonl", "logs/metrics.jsonl"),
        ("shards", "data/train/shards.json"),
        ("shards with links", "aligned/shards.json"),
    ],
)
def test_anything_in_the_place_of_a_value(run, name, file):
    path = run.root / file
    sound = path.read_bytes()
    by_lines = file.endswith("jsonl")

    @seeded
    @given(st.integers(0, 2**32), ANYTHING)
    def try_one(seed: int, value: object) -> None:
        rng = random.Random(seed)
        if by_lines:
            lines = sound.split(b"\n")
            at = rng.randrange(len(lines) - 1)
            lines[at] = with_other_value(lines[at], rng, value)
            path.write_bytes(b"\n".join(lines))
        else:
            path.write_bytes(with_other_value(sound, rng, value))
        verdict(LOADERS[name].load, run)

    try_one()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resume", "replay"])
@pytest.mark.parametrize("seed", range(12))
def test_training_on_damaged_files(run, name, seed):
    rng, loader = random.Random(seed), LOADERS[name]
    file = rng.choice(loader.files)
    replaced(run.root / file, damaged((run.root / file).read_bytes(), rng))
    verdict(loader.load, run)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": 1, "format": 1}', "a key twice"),
        (b"\xff\xfe{}", "can't decode"),
        (b'{"format": ' + b"9" * 5000 + b"}", "4300"),
    ],
)
def test_json_that_is_none(run, content, words):
    run.manifest.write_bytes(content)
    assert words in told(run, "manifest.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = " + "[" * 100_000, "nested too deeply"),
        (f"[training]\nseed = {'9' * 5000}", "is no valid TOML"),
        (f"[schedule]\nlearning_rate = {'9' * 400}", "must be a number"),
        (f"[asynchronous]\nbuffer_pushes = {10**30}", "too large a number"),
        ('["\\u001b[2J\\u202e"]\nx = 1', r"unknown section [\x1b[2J\u202e]"),
    ],
)
def test_configurations_that_are_none(run, content, words):
    run.config.write_text(content, "utf-8")
    assert words in told(run, "config.toml")


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "data//x", "data/../x"])
def test_a_manifest_names_nothing_outside_of_its_run(run, name):
    manifest = json.loads(run.manifest.read_text("utf-8"))
    manifest["outputs"][name] = "0"
    run.manifest.write_text(json.dumps(manifest), "utf-8")
    assert "which is not in RUN" in told(run, "manifest.json")


def test_what_is_no_regular_file_is_not_waited_for(run):
    run.manifest.unlink()
    os.mkfifo(run.manifest)
    assert "no regular file" in told(run, "manifest.json")
    (run.root / STATE).unlink()
    (run.root / STATE).symlink_to("/dev/zero")
    assert "leads elsewhere" in told(run, "state.json")


def test_a_document_that_is_too_long_is_not_read(run):
    with run.manifest.open("wb") as file:
        file.truncate(MAX_DOCUMENT_BYTES + 1)
    assert "are the most" in told(run, "manifest.json")


def test_links_out_of_the_checkpoints_are_left_alone(run, tmp_path):
    """What they lead to is neither deleted nor read."""
    outside = tmp_path / "outside"
    shutil.copytree(run.root / CHECKPOINT, outside)
    (run.checkpoints / "3").symlink_to(outside)
    assert store.list_checkpoints(run) == [5]
    with pytest.raises(UserError, match="holds no checkpoint 3"):
        find_checkpoint(run, "3")
    store.discard_all(run)
    assert sorted(path.name for path in outside.iterdir()) == [
        "model.safetensors",
        "state.json",
        "training.safetensors",
    ]


@pytest.mark.parametrize("name", ["007", "\u0663", "1_0", "-1", "9" * 200])
def test_other_names_are_no_checkpoints(run, name):
    shutil.copytree(run.root / CHECKPOINT, run.checkpoints / name)
    assert store.list_checkpoints(run) == [5]
    (run.checkpoints / "latest").write_text(name, "utf-8")
    assert "does not name a checkpoint" in told(run, "pointers")


def change_config(run: RunDirectory, **changes: object) -> None:
    state = json.loads((run.root / STATE).read_text("utf-8"))
    state["config"]["model"].update(changes)
    (run.root / STATE).write_text(json.dumps(state), "utf-8")


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": 100_000},
        {"encoder_layers": 1000},
        {"feed_forward": 100_000},
        {"positions": "learned", "max_positions": 100_000},
    ],
)
def test_no_network_is_built_that_is_larger_than_its_file(run, monkeypatch, changes):
    change_config(run, **changes)
    monkeypatch.setattr(ModelSpec, "build", lambda spec: pytest.fail("it is built"))
    assert "does not hold the parameters" in told(run, "model.safetensors")


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_every_network_may_have_the_parameters_that_it_has(config):
    spec = ModelSpec(config, SIZE, SIZE)
    shapes = [tuple(p.shape) for p in spec.build().parameters()]
    assert spec.may_have(len(shapes), sum(map(math.prod, shapes)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: {n: t.half() for n, t in tensors.items()}, "does not hold float32"),
        (lambda tensors: {n: t[:-1].clone() for n, t in tensors.items()}, "does not hold vectors"),
        (lambda tensors: {"average": tensors["parameters"]}, "does not hold vectors"),
    ],
)
def test_vectors_of_another_kind(run, change, words):
    path = run.root / CHECKPOINT / "training.safetensors"
    save_file(change(load_file(path)), path)
    assert words in told(run, "training.safetensors")


def test_tensors_whose_header_is_huge_or_that_overlap(run):
    path = run.root / MODEL
    content = path.read_bytes()
    path.write_bytes(struct.pack("<Q", 1 << 40) + content[8:])
    assert "its header would have" in told(run, "model.safetensors")
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    changed = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + size :])
    assert "can't be read" in told(run, "model.safetensors")


def model_of(run: RunDirectory):
    path = run.vocab / "joint.model"
    return path, sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())


@pytest.mark.parametrize("place", [4, 8, 2000, 4000])
def test_a_map_of_characters_that_leads_out_of_itself(run, place):
    """SentencePiece would read there."""
    path, model = model_of(run)
    charsmap = bytearray(model.normalizer_spec.precompiled_charsmap)
    charsmap[place : place + 256] = b"\xfd\xff\xff\x7f" * 64
    model.normalizer_spec.precompiled_charsmap = bytes(charsmap)
    path.write_bytes(model.SerializeToString())
    line = verdict(LOADERS["vocabulary"].load, run)
    assert line is None or "map of characters" in line
    charsmap[4:8] = b"\xff\xff\xff\x7f"
    model.normalizer_spec.precompiled_charsmap = bytes(charsmap)
    path.write_bytes(model.SerializeToString())
    assert "map of characters leads out of itself" in told(run, "vocabulary")


def test_pieces_that_are_none(run):
    for change, words in (
        (lambda m: m.pieces.add(piece=m.pieces[9].piece), "there twice"),
        (lambda m: m.pieces.add(piece="x" * 5000), "very long"),
        (lambda m: setattr(m.pieces[9], "score", math.nan), "score"),
        (lambda m: setattr(m.trainer_spec, "byte_fallback", True), "bytes are not complete"),
        (lambda m: setattr(m.trainer_spec, "model_type", 4), "another type"),
        (lambda m: setattr(m.trainer_spec, "unk_surface", "x" * 5000), "very long"),
    ):
        path, model = model_of(run)
        sound = path.read_bytes()
        change(model)
        path.write_bytes(model.SerializeToString())
        assert words in told(run, "vocabulary")
        path.write_bytes(sound)


@pytest.mark.parametrize(
    ("file", "offset", "number", "words"),
    [
        ("data/train/source.offsets", 8, 2**62, "begin before"),
        ("data/train/source.offsets", 0, 1, "begin before"),
        ("data/train/source.offsets", 8, 2**63 + 2**62, "begin before"),
        ("data/train/target.tokens", 0, 2**62, "does not have"),
        ("aligned/alignment.links", 0, 9, "leads out of its source sentence"),
    ],
)
def test_shards_whose_numbers_lead_outside(run, file, offset, number, words):
    content = bytearray((run.root / file).read_bytes())
    content[offset : offset + 8] = struct.pack("<Q", number)
    (run.root / file).write_bytes(content)
    reader = "shards" if file.startswith("data") else "shards with links"
    assert words in told(run, reader)


@pytest.mark.parametrize("dtype", ["|O", "<f8", "V9999999", "x", "<u8"])
def test_shards_of_another_type(run, dtype):
    path = run.data / "train/shards.json"
    description = json.loads(path.read_text("utf-8"))
    description["source"]["dtype"] = dtype
    path.write_text(json.dumps(description), "utf-8")
    assert "dtype can't be" in told(run, "shards")


def test_a_line_that_never_ends(run):
    with gzip.open(run.root / "text.tgt.gz", "wb", compresslevel=1) as file:
        for _ in range(20):
            file.write(b"x" * (1 << 20))
    assert "longer than 16 MiB" in told(run, "text")


def changed_log(run: RunDirectory, number: int, **changes: object) -> None:
    path = run.root / LOG
    lines = path.read_text("utf-8").splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), **changes})
    path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.mark.parametrize(
    ("number", "changes", "words"),
    [
        (1, {"worker": 10**6}, "names worker 1000000"),
        (-1, {"worker": -1}, "worker can't be -1"),
        (-1, {"versions": []}, "versions can't be empty"),
        (-1, {"seconds": math.nan}, "seconds can't be nan"),
        (0, {"threads": 10**9}, "threads can't be"),
        (0, {"settings": {"training.seed": "x"}}, "must be a whole number"),
    ],
)
def test_lines_of_a_log_that_can_t_be(run, number, changes, words):
    changed_log(run, number, **changes)
    assert words in told(run, "exchange log")


@pytest.mark.parametrize("batches", [[[10**15, 0]], [[0, 10**15]]])
def test_a_log_whose_batches_are_never_reached(run, batches):
    """They are not counted up to."""
    changed_log(run, 3, batches=batches)
    told(run, "replay")


@pytest.mark.parametrize(
    "cursor",
    [
        {"epoch": 0, "position": 10**12, "returned": []},
        {"epoch": 1, "position": 0, "returned": [[1, 1]]},
        {"epoch": 1, "position": 1, "returned": [[0, 10**12]]},
        {"epoch": 1, "position": 1, "returned": [[0, 1], [0, 1]]},
    ],
)
def test_places_in_the_corpus_that_there_are_not(run, cursor):
    state = json.loads((run.root / STATE).read_text("utf-8"))
    state["cursor"] = cursor
    (run.root / STATE).write_text(json.dumps(state), "utf-8")
    assert "state.json: is damaged" in told(run, "resume")


def test_events_that_do_not_belong_to_the_windows(run):
    state = json.loads((run.root / STATE).read_text("utf-8"))
    state["simulation"]["events"] *= 2
    (run.root / STATE).write_text(json.dumps(state), "utf-8")
    assert "are not those that will end" in told(run, "resume")


def test_what_a_run_measured_may_be_no_number(run):
    """A cross-entropy that has diverged was noted like any other."""
    path = run.checkpoints / "validations.json"
    entries = json.loads(path.read_text("utf-8"))
    entries[0]["cross_entropy"] = math.nan
    path.write_text(json.dumps(entries), "utf-8")
    assert verdict(LOADERS["validations.json"].load, run) is None


def test_a_state_that_was_never_a_file_is_typed_alike():
    """Snapshots in memory go back to the server as they are: with numbers as keys, and tuples."""
    state = {0: [[1, 2], (3, 4)]}
    kind = dict[int, list[tuple[int, int]]]
    assert typed(kind, state) == typed(kind, json.loads(json.dumps(state))) == {0: [(1, 2), (3, 4)]}

"""Files that would have a reader run something, or fill the memory: each is refused in one line."""

from __future__ import annotations

import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nmtasync.errors import UserError
from nmtasync.interchange.huggingface_import import read_huggingface
from nmtasync.interchange.marian_import import read_marian
from nmtasync.interchange.marian_yaml import parse_options, parse_vocabulary
from nmtasync.interchange.npz import NpzFile
from nmtasync.run_directory import RunDirectory
from tests.support.loaders import prepare


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return prepare(tmp_path_factory.mktemp("sound") / "run")


class Evil:
    """What would run, were it unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def archive(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_pickled_objects_are_not_made(tmp_path):
    trap = tmp_path / "trap"
    np.savez(tmp_path / "model.npz", Wemb=np.array([Evil(trap)], dtype=object))
    with pytest.raises(ValueError, match=r"another header|of type"):
        NpzFile(tmp_path / "model.npz").take("Wemb", (1,))
    assert not trap.exists()


def test_a_small_archive_does_not_become_a_large_one(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(10**8, np.int8))
    members = {"Wemb.npy": content.getvalue()}
    path = archive(tmp_path / "model.npz", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    tracemalloc.start()
    with pytest.raises(ValueError, match="larger than the file is"):
        NpzFile(path).take("Wemb", (10**8,))
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()


@pytest.mark.parametrize(
    "shape", ["(99999999999, 99999999999)", f"({'9' * 60000},)", "(-1,)", "(1, 2", "(((((((1,)"]
)
def test_a_size_that_an_array_names_is_not_believed(shape, tmp_path):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    path = archive(tmp_path / "model.npz", {"Wemb.npy": start + header + bytes(64)})
    with pytest.raises(ValueError, match="Wemb"):
        NpzFile(path).take("Wemb", (99999999999, 99999999999))


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as file:
        file.writestr("Wemb.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("Wemb.npy", b"")
    with pytest.raises(ValueError, match="twice"):
        NpzFile(tmp_path / "model.npz")


def test_yaml_that_grows_is_none_of_marians():
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\n"
    assert parse_options(bomb) == {"a": "&a [x, x]", "b": "&b [*a, *a]"}
    for text in ("a:\n  b:\n    c: 1\n", "!!python/object:os.system x\n", "- x\n"):
        with pytest.raises(ValueError, match="none of Marian's"):
            parse_options(text)


@pytest.mark.parametrize(
    "text", ["x: 99999999\n", "x: 0\ny: 0\n", "x: 1\n", "x\n", "", "x: ١\n", '"\\ud800": 0\n']
)
def test_a_vocabulary_has_each_number_once(text):
    with pytest.raises(ValueError, match=r"number|line|character"):
        parse_vocabulary(text)


def test_vocabularies_are_read_as_yaml_writes_them():
    text = '"</s>": 0\n<unk>: 1\n\'it\'\'s\': 2\n"\\"": 3\n"\\x85": 4\n'
    text += '":": 5\n? long\n: 6\n"\\\\": 7\n'
    assert parse_vocabulary(text) == ["</s>", "<unk>", "it's", '"', "\x85", ":", "long", "\\"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"),
        ("vocab.json", json.dumps({"</s>": 10**12}).encode()),
        ("vocab.json", json.dumps({f"x{i}": i + 1 for i in range(46)}).encode()),
        ("config.json", b'{"model_type": "marian", "d_model": 1e999}'),
        ("config.json", b"[" * 10**6),
        ("source.spm", b"\x00" * 100),
    ],
)
def test_what_a_directory_promises_is_not_believed(name, content, sound, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for path in (sound.root / "huggingface").iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    (out / name).write_bytes(content)
    with pytest.raises(UserError, match=r"can't be used"):
        read_huggingface(out)


def test_a_pipe_is_not_read(sound, tmp_path):
    os.mkfifo(tmp_path / "model.npz")
    for side in ("source", "target"):
        model = (sound.root / f"marian/{side}.spm").read_bytes()
        (tmp_path / f"{side}.spm").write_bytes(model)
    with pytest.raises(UserError, match="no regular file"):
        read_marian(tmp_path / "model.npz", None)

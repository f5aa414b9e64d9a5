"""The recipes: what they fetch, how they clean it, and that their steps are done once."""

import gzip
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sacrebleu.dataset.fake_sgml import FakeSGMLDataset

from nmtasync.config.load import read_toml, resolve
from nmtasync.data.vocabulary import VocabularyPair
from nmtasync.errors import UserError
from nmtasync.preprocessing.character_rules import CharacterRules
from tests.support.repository import REPOSITORY

RECIPES = REPOSITORY / "recipes"
SETTINGS = sorted(path for path in RECIPES.glob("*/*.toml") if path.name != "sources.toml")
Pairs = list[tuple[str, str]]


def of_recipe(path: Path) -> str:
    return path.relative_to(RECIPES).as_posix()


def load(monkeypatch: pytest.MonkeyPatch, directory: str, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPES / directory))
    return __import__(name)


@pytest.fixture
def fetch(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(monkeypatch, "common", "fetch")


@pytest.fixture
def extract(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(monkeypatch, "common", "extract")


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load(monkeypatch, "common", "sources")


@pytest.mark.parametrize("path", SETTINGS, ids=of_recipe)
def test_settings_are_accepted(path):
    settings = read_toml(path)
    is_cost_model = all(name.startswith("simulation.") for name in settings)
    resolve({"asynchronous.driver": "simulated"} if is_cost_model else {}, settings)


def test_the_demo_also_trains_a_recurrent_network():
    resolve(read_toml(RECIPES / "demo" / "demo.toml"), {"model.type": "rnn"})


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/sources.toml")), ids=of_recipe)
def test_a_recipe_uses_every_text_that_it_fetches(path, sources):
    run = (path.parent / "run").read_text("utf-8")
    for source in sources.read_sources(path):
        assert source.url.startswith("https://")
        for text in source.texts.values():
            assert f"/{Path(text).stem}." in run, text


# The Romanian rules


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("Fostul şef al ţării", "Fostul sef al tarii"),  # cedillas
        ("Fostul șef al țării", "Fostul sef al tarii"),  # commas below
        ("S\N{COMBINING COMMA BELOW}t\N{COMBINING CEDILLA}", "St"),  # marks of their own
        ("ÎN ÂNTÂI, ĂȘȚ ŞŢ îâă", "IN ANTAI, AST ST iaa"),
        ("café über naïve ñ ç", "café über naïve ñ ç"),  # of other languages
    ],
)
def test_romanian_is_normalised(written, normalised):
    rules = CharacterRules("nmt_nfkc", RECIPES / "wmt16-ro-en" / "romanian.tsv")
    assert rules.rewrite(written) == normalised


# Downloads


class CuttingHandler(http.server.BaseHTTPRequestHandler):
    """Serves `content`, but hangs up half-way unless it is asked for the rest."""

    content = b""
    ranges: list[str | None]

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        end = len(self.content) if asked else len(self.content) // 2
        self.wfile.write(self.content[start:end])

    def log_message(self, *arguments: object) -> None:
        """Be silent."""


@pytest.fixture
def server() -> Iterator[tuple[str, type[CuttingHandler]]]:
    class Handler(CuttingHandler):
        content = b"\x1f\x8b" + random.Random(1).randbytes(3_000_000)
        ranges = []  # noqa: RUF012 # of this class alone

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", Handler
        running.shutdown()


def test_a_download_goes_on_where_the_connection_broke(tmp_path, fetch, sources, server):
    url, handler = server
    source = sources.Source("a.gz", "text", f"{url}/a.gz", {})
    fetch.fetch_all([source], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == handler.content
    assert handler.ranges == [None, f"bytes={len(handler.content) // 2}-"]
    digest = hashlib.sha256(handler.content).hexdigest()
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  a.gz\n"
    fetch.fetch_all([source], tmp_path)
    assert len(handler.ranges) == 2, "what is there is not fetched again"


def test_a_download_goes_on_after_an_interruption(tmp_path, fetch, sources, server):
    url, handler = server
    source = sources.Source("a.gz", "text", f"{url}/a.gz", {})
    (tmp_path / "a.gz.part").write_bytes(handler.content[:1000])
    fetch.fetch_all([source], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == handler.content
    assert handler.ranges == ["bytes=1000-"]


def test_leftovers_longer_than_the_file_are_dropped(tmp_path, fetch, sources, server):
    url, handler = server
    (tmp_path / "a.gz.part").write_bytes(handler.content + b"x")
    fetch.fetch_all([sources.Source("a.gz", "text", f"{url}/a.gz", {})], tmp_path)
    assert (tmp_path / "a.gz").read_bytes() == handler.content


@pytest.mark.parametrize("checksum", ["sha256:0", "md5:0"])
def test_another_file_than_the_published_one_is_refused(tmp_path, fetch, sources, server, checksum):
    source = sources.Source("a.gz", "text", f"{server[0]}/a.gz", {}, checksum)
    with pytest.raises(UserError, match="is not the text that is expected") as refusal:
        fetch.fetch_all([source], tmp_path)
    assert "delete it" in str(refusal.value)
    assert not (tmp_path / "a.gz").exists()


def test_another_file_than_the_recorded_one_is_refused(tmp_path, fetch, sources, server):
    url, handler = server
    source = sources.Source("a.gz", "text", f"{url}/a.gz", {})
    fetch.fetch_all([source], tmp_path)
    (tmp_path / "a.gz").unlink()
    handler.content = handler.content[:-1]
    with pytest.raises(UserError, match=r"its sha256 is.*its line in .*SHA256SUMS"):
        fetch.fetch_all([source], tmp_path)


@pytest.mark.parametrize("name", ["a.gz", "a.tgz", "a.zip"])
def test_a_login_page_is_no_download(tmp_path, fetch, sources, server, name):
    url, handler = server
    right, handler.content = handler.content, b"<html>Please pay for this network.</html>"
    source = sources.Source(name, "text", f"{url}/{name}", {})
    with pytest.raises(UserError, match=r"something else than a .*<"):
        fetch.fetch_all([source], tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is recorded or gone on with"
    handler.content = b"PK" + right if name == "a.zip" else right
    fetch.fetch_all([source], tmp_path)
    assert (tmp_path / name).read_bytes() == handler.content


def test_without_a_network_all_that_is_missing_is_named(tmp_path, fetch, sources):
    missing = [sources.Source(n, n, f"http://127.0.0.1:9/{n}", {}) for n in ("a.tgz", "b.zip")]
    with pytest.raises(UserError) as refusal:
        fetch.fetch_all(missing, tmp_path)
    assert str(refusal.value).startswith(f"{tmp_path}: there is no a.tgz and b.zip, and http://")
    assert "DATA=" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


# What is inside


def sgml(sentences: list[str]) -> str:
    segments = "".join(f'<seg id="{i}">{text}</seg>\n' for i, text in enumerate(sentences, 1))
    return f'<srcset setid="x" srclang="any">\n<doc docid="d">\n<p>\n{segments}</p>\n</doc>\n'


def test_test_sets_are_read_as_sacrebleu_reads_them(tmp_path, extract):
    text = sgml(["One &amp; two", "  much \u00a0 space  ", "a <seg> inside", "", "ș"])
    (tmp_path / "a.sgm").write_text(text, "utf-8")
    sacrebleu = FakeSGMLDataset("x", [], langpairs={})
    sacrebleu._convert_format(str(tmp_path / "a.sgm"), str(tmp_path / "a"))
    with (tmp_path / "a.sgm").open("rb") as file:
        ours = b"".join(extract.lines("a.sgm", file))
    assert ours == (tmp_path / "a").read_bytes()
    assert ours.count(b"\n") == 5


def test_damaged_and_incomplete_files_are_told(tmp_path, extract, sources):
    with gzip.open(tmp_path / "b.gz", "wt") as file:
        file.write("text\n" * 1000)
    (tmp_path / "a.gz").write_bytes((tmp_path / "b.gz").read_bytes()[:-20])
    for name, message in (("a.gz", "can't be unpacked"), ("b.gz", "holds no other")):
        source = sources.Source(name, "", "", {"a" if name == "a.gz" else "other": "text"})
        with pytest.raises(UserError, match=message):
            extract.extract_all([source], tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.processes
def test_what_the_system_refuses_is_not_blamed_on_the_download(tmp_path, extract):
    with gzip.open(tmp_path / "a.gz", "wt") as file:
        file.write("text\n")
    sources = tmp_path / "sources.toml"
    sources.write_text('[[file]]\nname = "a.gz"\nwhat = ""\nurl = ""\ntexts = { a = "a" }\n')
    (tmp_path / "file").touch()
    command = [sys.executable, extract.__file__, sources, tmp_path, tmp_path / "file" / "out"]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 2
    assert (
        run.stderr == f"extract: {tmp_path / 'file' / 'out.part'}: is in the way: Not a directory\n"
    )


# All steps


def add(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    archive.addfile(member, io.BytesIO(text.encode()))


def joined(sentences: list[str]) -> str:
    return "".join(sentence + "\n" for sentence in sentences)


def make_mirror(mirror: Path, train: Pairs, valid: Pairs, test: Pairs) -> None:
    """Write what the recipe downloads, with the names and the layout of the originals."""
    mirror.mkdir()
    europarl, setimes, translated = (list(zip(*train[i::3], strict=True)) for i in range(3))
    with tarfile.open(mirror / "ro-en.tgz", "w:gz") as archive:
        for language, side in zip(("ro", "en"), europarl, strict=True):
            add(archive, f"europarl-v7.ro-en.{language}", joined(side))
    with zipfile.ZipFile(mirror / "en-ro.txt.zip", "w") as archive:
        archive.writestr("README", "SETIMES")
        for language, side in zip(("ro", "en"), setimes, strict=True):
            archive.writestr(f"SETIMES.en-ro.{language}", joined(side))
    for language, side in zip(("ro", "en"), translated, strict=True):
        with gzip.open(mirror / f"corpus.bt.ro-en.{language}.gz", "wt", encoding="utf-8") as file:
            file.write(joined(side))
    for folder, name, pairs in (("dev", "newsdev2016", valid), ("test", "newstest2016", test)):
        ro, en = zip(*pairs, strict=True)
        with tarfile.open(mirror / f"{folder}.tgz", "w:gz") as archive:
            add(archive, f"{folder}/newstest2015-deen-src.de.sgm", sgml(["nichts"]))
            add(archive, f"{folder}/{name}-roen-src.ro.sgm", sgml(ro))
            add(archive, f"{folder}/{name}-roen-ref.en.sgm", sgml(en))


@pytest.fixture(scope="module")
def news() -> Pairs:
    """The sentences of newsdev2016, half of them spelled with cedillas."""
    if "NMTASYNC_TEST_DATA" not in os.environ:
        pytest.skip("NMTASYNC_TEST_DATA names no data")
    directory = Path(os.environ["NMTASYNC_TEST_DATA"]) / "wmt16-ro-en"
    sides = [(directory / f"newsdev2016.{x}").read_text("utf-8").splitlines() for x in ("ro", "en")]
    cedillas = str.maketrans("ȘșȚț", "ŞşŢţ")
    return [
        (ro.translate(cedillas) if i % 2 else ro, en)
        for i, (ro, en) in enumerate(zip(*sides, strict=True))
    ]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the repository with an environment that runs it."""
    copy = tmp_path / "copy"
    for name in ("nmtasync", "cli", "recipes"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, copy / name, ignore=ignore)
    for name in ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, copy)
    commands = copy / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, command in (("python", ""), ("nmtasync", " -m cli")):
        (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable}{command} "$@"\n')
        (commands / name).chmod(0o755)
    (copy / ".venv" / ".installed").touch()
    return copy


def make(copy: Path, *arguments: str, timeout: float = 280) -> "subprocess.CompletedProcess[str]":
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"}  # of the make that runs the tests
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    environment |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["make", *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.processes
def test_missing_data_is_told_in_a_sentence(copy, tmp_path):
    (tmp_path / "ro-en.tgz").touch()
    result = make(copy, "wmt-recipe", "SMALL=1", f"DATA=file://{tmp_path}")
    assert result.returncode == 2
    sentence, verdict = result.stderr.splitlines()
    assert sentence == (
        f"fetch: {tmp_path}: there is no en-ro.txt.zip, corpus.bt.ro-en.ro.gz, "
        "corpus.bt.ro-en.en.gz, dev.tgz and test.tgz; put it there"
    )
    assert verdict.startswith("make: ***")


@pytest.mark.processes
def test_an_unknown_recipe_is_told(copy):
    result = make(copy, "recipe", "NAME=wmt99")
    assert result.returncode == 2
    assert "there are demo multi30k wmt16-ro-en wmt17-en-de" in result.stderr


@pytest.mark.processes
def test_all_steps_are_done_once(copy, tmp_path, news):
    make_mirror(tmp_path / "mirror", news[:300], news[300:310], news[310:316])
    run, corpus = copy / "runs/wmt16-ro-en-small", copy / "runs/wmt16-ro-en-small-corpus"
    (corpus / "raw.part").mkdir(parents=True)
    (corpus / "raw.part" / "of an interrupted call").touch()
    arguments = (
        "wmt-recipe",
        "SMALL=1",
        f"DATA=file://{tmp_path}/mirror",
        "DEVICES=cpu",
        "SET=--max-updates 2",
    )
    first = make(copy, *arguments)
    assert first.returncode == 0, first.stderr
    assert "# done:" not in first.stdout
    assert len(list((corpus / "raw").iterdir())) == 10
    for part, pairs in (("europarl", news[:300:3]), ("newsdev2016", news[300:310])):
        english = (corpus / "raw" / f"{part}.en").read_text("utf-8")
        assert english == joined([en for _, en in pairs])
        romanian = (corpus / "raw" / f"{part}.ro").read_text("utf-8")
        assert romanian == joined([ro for ro, _ in pairs])
    source = VocabularyPair.load(run / "vocab").source
    assert source.decode(source.encode(["Îşi ştiţi țară"])) == ["Isi stiti tara"]
    result = run / "evaluation/newstest2016.json"
    assert "tok:13a" in json.loads(result.read_text("utf-8"))["bleu"]["signature"]

    times = {path: path.stat().st_mtime_ns for path in (corpus / "raw", result)}
    again = make(copy, *arguments)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in times} == times
    steps = [line.split()[1:3] for line in first.stdout.splitlines() if line.startswith("$ ")]
    assert steps == [
        ["python", "recipes/common/fetch.py"],
        ["python", "recipes/common/extract.py"],
        ["nmtasync", "preprocess"],
        ["nmtasync", "train"],
        ["nmtasync", "evaluate"],
    ]
    done = [line.split()[2:4] for line in again.stdout.splitlines() if line.startswith("# done:")]
    assert done == [steps[i] for i in (1, 2, 4)], "the others know by themselves"


@pytest.mark.system
def test_the_small_recipe_goes_all_the_way(copy, tmp_path, news):
    make_mirror(tmp_path / "mirror", news[:1600], news[1600:1800], news[1800:])
    mirror = f"DATA=file://{tmp_path}/mirror"
    result = make(copy, "wmt-recipe", "SMALL=1", mirror, timeout=600)
    assert result.returncode == 0, result.stderr
    run = copy / "runs/wmt16-ro-en-small"
    assert (run / "evaluation/newstest2016.json").exists()
    events = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").open()]
    trained = [event for event in events if event["event"] == "train"]
    assert max(event["staleness_max"] for event in trained) >= 1, "two workers"
    assert trained[-1]["loss"] < trained[0]["loss"] - 1

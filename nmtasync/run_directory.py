"""RUN: the one directory that holds an experiment, its paths, manifest, lock and atomic writes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nmtasync
from nmtasync.errors import NmtasyncError, UserError
from nmtasync.untrusted import is_inner_name, parse_json, read_document, typed

MANIFEST_FORMAT = 1
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)


class RunDirectory:
    """The paths of one experiment.

    Args:
        root: The directory that the user names.

    Attributes:
        config: The resolved configuration.
        manifest: What preprocessing read and wrote, with SHA-256 of both.
        vocab: The SentencePiece models.
        data: The binarised corpora.
        checkpoints: One directory for each checkpoint, and the pointers `latest` and `best`.
        logs: TensorBoard's event files, metrics.jsonl and the workers' logs.
        evaluation: Hypotheses and scores of the test sets.
        ready: What preprocessing has decided to put in their place; gone when it stands there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.toml"
        self.manifest = root / "manifest.json"
        self.vocab = root / "vocab"
        self.data = root / "data"
        self.checkpoints = root / "checkpoints"
        self.logs = root / "logs"
        self.evaluation = root / "evaluation"
        self.ready = root / ".preprocess.ready"

    def read_manifest(self) -> dict[str, Any]:
        """Read what preprocessing has recorded.

        Raises:
            UserError: RUN has not been preprocessed, or not to the end, or by another format of
                this toolkit.
        """
        preprocessed = self.manifest.exists()
        if self.ready.exists():
            raise UserError(
                "preprocessing was cut off while it put its results in their places",
                where=self.root,
                remedy="run `nmtasync preprocess` again, which finishes that first",
            )
        if not preprocessed:
            raise UserError(
                "has not been preprocessed",
                where=self.root,
                remedy=f"run `nmtasync preprocess {self.root} --train SRC TGT --valid SRC TGT`",
            )
        try:
            manifest = parse_json(read_document(self.manifest))
        except OSError as error:
            message = f"can't be read: {error.strerror}"
            raise UserError(message, where=self.manifest, remedy="copy RUN again") from None
        except ValueError as error:
            raise _damaged(self.manifest, error) from None
        if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
            raise UserError(
                f"was written in another format than {MANIFEST_FORMAT}, which nmtasync "
                f"{nmtasync.__version__} reads",
                where=self.manifest,
                remedy="preprocess again into a new directory",
            )
        try:
            return _checked(manifest)
        except ValueError as error:
            raise _damaged(self.manifest, error) from None

    def refuse_imported(self) -> None:
        """Refuse a RUN that holds another program's model, and nothing to train on.

        Raises:
            UserError: It is one, or the manifest can't be read.
        """
        if "imported" in self.read_manifest():
            raise UserError(
                "holds a model of another program, and no corpus",
                where=self.root,
                remedy=f"preprocess another RUN with --vocab-from {self.root}, and train that with "
                f"--init-from {self.root}",
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold RUN for one process; the lock ends with the process, however that ends.

        Raises:
            UserError: Another process holds it, or RUN can't be written.
        """
        with explain_write_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            file = (self.root / ".lock").open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    "is in use by another nmtasync process",
                    where=self.root,
                    remedy="wait for it or stop it",
                ) from None
            except OSError as error:
                raise UserError(
                    f"is on a file system that can't lock files: {error.strerror}",
                    where=self.root,
                    remedy="choose a place on another one, or mount it with locks",
                ) from None
            yield


def _checked(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest if what is read out of one has its type, and names nothing outside RUN."""
    typed(dict[str, Any], manifest.get("options"), "options")
    vocabulary = typed(dict[str, Any], manifest.get("vocabulary"), "vocabulary")
    typed(str, vocabulary.get("digest"), "vocabulary.digest")
    for name in typed(dict[str, str], manifest.get("outputs"), "outputs"):
        if not is_inner_name(name):
            raise ValueError(f"outputs names {name!r}, which is not in RUN")
    return manifest


def _damaged(path: Path, error: ValueError) -> UserError:
    message = f"is damaged: {error}"
    return UserError(message, where=path, remedy="preprocess again into a new directory")


def refuse_dead_link(directory: Path) -> None:
    """Refuse a link to a directory that is not there.

    Raises:
        UserError: It is one.
    """
    if directory.is_symlink() and not directory.exists():
        raise UserError(
            f"is a link to {directory.readlink()}, where no directory is",
            where=directory,
            remedy="make that, or mount its disk, or remove the link",
        )


def refuse_unwritable(directory: Path) -> None:
    """Find out whether results can be written to a directory that need not be there yet.

    It is tried with a file that has no name, so nothing is left behind.

    Raises:
        UserError: It can't be written because of what or where it is.
        NmtasyncError: The disk is full or broken.
    """
    refuse_dead_link(directory)
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    with explain_write_errors(directory):
        try:
            with tempfile.TemporaryFile(dir=nearest, buffering=0) as file:
                file.write(bytes(4096))
        except OSError as error:
            error.filename = None  # it would be that of the file without a name
            raise


@contextlib.contextmanager
def explain_write_errors(place: Path | str) -> Iterator[None]:
    """Turn what the file system refuses into an error of one line.

    Raises:
        UserError: The place can't be written because of what or where it is.
        NmtasyncError: The disk is full or broken.
    """
    try:
        yield
    except OSError as error:
        remedy = None
        match error.errno:
            case None:
                raise  # it is not the file system's
            case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
                kind, message = NmtasyncError, "the disk or its quota is full"
                remedy = "free some and run the same command again"
            case errno.EACCES | errno.EPERM | errno.EROFS:
                kind, message, remedy = UserError, "can't be written", "choose another place"
            case errno.EEXIST | errno.ENOTDIR | errno.EISDIR:
                kind, message = UserError, "is in the way"
            case errno.ENAMETOOLONG | errno.ELOOP:
                kind, message, remedy = UserError, "can't be used", "choose another place"
            case _:
                kind, message = NmtasyncError, "input or output failed"
        reason, where = error.strerror or os.strerror(error.errno), error.filename or place
        raise kind(f"{message}: {reason}", where=where, remedy=remedy) from None


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    payload = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with aside.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def refuse_filled(directory: Path) -> None:
    """Refuse a place for a new directory that has something already.

    Raises:
        UserError: There is a file, or a directory with something in it.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError("is there already", where=directory, remedy="choose another directory")


@contextlib.contextmanager
def directory_written_atomically(path: Path) -> Iterator[Path]:
    """Open a directory to fill; it takes its name, replacing what had it, only when it is whole.

    Where a link has that name, the link stays, and what it leads to is replaced.

    Yields:
        The directory to write to, beside the final one.
    """
    path = path.resolve()
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    discarded = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        sync_tree(aside)
        if path.exists():
            path.rename(discarded)
        aside.rename(path)
        shutil.rmtree(discarded, ignore_errors=True)
        sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some file systems can't do it for directories, and keep names in order without
        if not path.is_dir() or error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Bring everything in a directory to the disk, itself included."""
    for path in (*directory.rglob("*"), directory):
        sync(path)


def sha256(path: Path) -> str:
    """Hash a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(content: object) -> str:
    """Write an object as indented JSON; what a path has that is no UTF-8 is escaped."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write_json(path: Path, content: object) -> None:
    """Write an object as indented JSON, atomically."""
    write_atomically(path, json_text(content) + "\n")

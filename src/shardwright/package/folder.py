"""A package folder while it is made: a temporary folder beside the target, renamed into place when it is complete.

What goes wrong (a full disk, an error) leaves nothing behind. What is interrupted (Ctrl-C, a killed process, a power
cut) leaves the temporary folder; work that allows it goes on from there, with the files whose checksums were noted.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from safetensors import SafetensorError

from shardwright.errors import PackageError
from shardwright.layout.values import check_free
from shardwright.package.manifest import FileEntry, check_regular, file_sha256
from shardwright.program.atomic import written_whole

NOTES_NAME = "notes.json"


class Notes(msgspec.Struct, forbid_unknown_fields=True):
    """What is finished in an interrupted folder; ``work``: a digest of everything that decides its contents."""

    work: str
    files: list[FileEntry] = []


class WorkFolder:
    """A folder being filled. ``work``: a digest of the job; '' when it cannot be taken up again."""

    def __init__(self, path: Path, work: str = "") -> None:
        self.path = path
        self._notes = Notes(work)

    def finished(self, name: str) -> FileEntry | None:
        """The entry of a file that an earlier run finished, if it is still what it was."""
        entry = next((entry for entry in self._notes.files if entry.name == name), None)
        path = self.path / name
        if entry is None or not check_regular(path) or path.stat().st_size != entry.num_bytes:
            return None
        return entry if file_sha256(path) == entry.sha256 else None

    def note(self, entry: FileEntry) -> None:
        """Note a finished file, so that an interrupted run need not write it again."""
        if self._notes.work:
            self._notes.files = [old for old in self._notes.files if old.name != entry.name] + [entry]
            with written_whole(self.path / NOTES_NAME) as draft:
                draft.write_bytes(msgspec.json.encode(self._notes))
                flush(draft)

    def take_up(self) -> None:
        """Read the notes of an earlier run of the same job; files of another job are removed."""
        try:
            notes = msgspec.json.decode((self.path / NOTES_NAME).read_bytes(), type=Notes)
        except (OSError, msgspec.DecodeError):
            notes = Notes("")
        if notes.work == self._notes.work:
            self._notes = notes
        kept = {entry.name for entry in self._notes.files} | {NOTES_NAME}
        for path in self.path.iterdir():
            if path.name not in kept:
                path.unlink()

    def finish(self, target: Path) -> None:
        """Flush everything to disk and rename the folder to ``target``."""
        (self.path / NOTES_NAME).unlink(missing_ok=True)
        for file in self.path.iterdir():
            flush(file)
        flush(self.path)
        self.path.chmod(0o755)
        self.path.rename(target)
        flush(target.parent)


@contextmanager
def work_folder(target: Path, work: str = "") -> Iterator[WorkFolder]:
    """A temporary folder that becomes ``target`` when the block ends well, and disappears when it fails.

    ``work``: a digest of the job; the folder of an interrupted run of the same job is then taken up again, and kept
    when this run is interrupted. Raises `PackageError` when ``target`` exists or cannot be written.
    """
    check_free(target, "the output folder", error=PackageError)
    keep = False
    path = target.parent / f".{target.name}.partial"
    try:
        if work:
            path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise PackageError(f"{path} is a link\n  try: remove it")
        else:
            path = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        with _locked(path, target):
            folder = WorkFolder(path, work)
            if work:
                folder.take_up()
            yield folder
            folder.finish(target)
    except (OSError, SafetensorError) as error:
        # safetensors reports a failed write as an error of its own.
        raise PackageError(f"cannot write the package {target}: {error}\n  nothing was left behind") from error
    except _BusyError as busy:
        keep = True
        raise PackageError(str(busy)) from None
    except KeyboardInterrupt:
        keep = bool(work)
        raise
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def file_entry(path: Path) -> FileEntry:
    """The manifest's entry of a finished file, which is on the disk when this returns."""
    flush(path)
    return FileEntry(path.name, path.stat().st_size, file_sha256(path))


def flush(path: Path) -> None:
    """Make sure that a file's contents, or a folder's entries, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _BusyError(Exception):
    """Another process holds the folder."""


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[None]:
    """Hold the folder: two runs that write the same package would spoil each other's files."""
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _BusyError(f"another process is writing {target}\n  try: wait for it, or another name") from None
        yield
    finally:
        os.close(handle)

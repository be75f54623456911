"""Files that are either wholly there or not there at all, and stay there when the power goes.

Keys, pinned identities, tokens, artifacts and the hub's envelopes all come through `write_durably`. A file is
written beside its place, synced, given its name in one step, and then the folder is synced: a reader never
sees half of it, and whoever was told "stored" is not made a liar by a crash a moment later.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from qaios.core.errors import Conflict

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700
UNFINISHED = ".unfinished-"  # how the names of files begin that have not got their own name yet


def write_durably(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write `content` to `path`, readable by the owner alone, whole and durable when this returns.

    With `replace=False` an existing file wins: `FileExistsError` is raised and it is left as it was, which is how
    two processes that create the same key at once agree on one. Raises `OSError` when the disk refuses; nothing
    is left behind then.
    """
    make_folder(path.parent)
    beside = path.parent / f"{UNFINISHED}{secrets.token_hex(8)}"
    try:
        _write_synced(beside, content)
        if replace:
            beside.replace(path)
        else:
            path.hardlink_to(beside)
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make the folder and those above it, each durable in its parent, open to the owner alone."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable: a synced file whose name is lost is a lost file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held_alone(path: Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path` for as long as the block runs; it tells others the pid of its holder.

    The operating system lets go of it however this process ends. Raises `Conflict` when another has it.
    """
    import fcntl  # Only where it is used: the rest of this module is imported where there is no POSIX, too.

    make_folder(path.parent)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE), "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"{what} is in use by process {file.read().strip() or 'unknown'}",
                hint="One at a time: stop that process, or choose another QAIOS_HOME.",
            ) from None
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _write_synced(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

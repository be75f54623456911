"""The content-addressed store: results as files that are named by what is in them.

Devices put results here through `Attempt.artifacts`; tasks, doors and the hub's driver get them by address.
A content lies at `artifacts/ab/cdef…`, where `abcdef…` is its SHA-256: the same content is stored once, and
what is read is checked against its name, so a rotten disk is noticed and never believed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from qaios.core.errors import JournalBroken, NotFound
from qaios.core.values import Artifact
from qaios.security.files import make_folder, sync_folder, write_durably

_ADDRESS = re.compile(r"[0-9a-f]{64}")


class FileArtifacts:
    """`contracts.Artifacts` in a folder. May be used from several threads and processes at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        make_folder(folder)

    def put(self, name: str, content: bytes, media_type: str) -> Artifact:
        """Store durably; storing the same content twice is one file. A damaged file is replaced by the good one.

        Raises `JournalBroken` when the disk will not take it.
        """
        address = hashlib.sha256(content).hexdigest()
        path = self._path(address)
        try:
            if self._holds(path, address):
                sync_folder(path.parent)  # Whoever stored it first may have died before its name was durable.
            else:
                write_durably(path, content)
        except OSError as error:
            raise JournalBroken(
                f"artifact {name!r} ({len(content)} bytes) cannot be stored at {path}: {error}",
                hint="Make room on the disk, or check that it can be written, and boot again.",
            ) from error
        return Artifact(name=name, sha256=address, size_bytes=len(content), media_type=media_type)

    def get(self, sha256: str) -> bytes:
        """Raises `NotFound` when it is not here, `JournalBroken` when the content no longer matches its address."""
        if not _ADDRESS.fullmatch(sha256):
            raise NotFound(f"{sha256!r} is no address of an artifact", hint="An address is 64 hexadecimal digits.")
        path = self._path(sha256)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"no artifact has the address {sha256}") from None
        except OSError as error:
            raise JournalBroken(f"artifact {path} cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise JournalBroken(
                f"artifact {path} no longer matches its address",
                hint="The disk has changed it: restore the file from a backup, or run the task again.",
            )
        return content

    def _path(self, address: str) -> Path:
        return self._folder / address[:2] / address[2:]

    @staticmethod
    def _holds(path: Path, address: str) -> bool:
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() == address
        except FileNotFoundError:
            return False

"""How far the journal had reached: a second opinion, for the one damage SQLite keeps silent about.

SQLite ends its write-ahead log at the first frame whose checksum is wrong. After a crash that is right; after a
flipped bit it makes acknowledged blocks vanish without a word. So the writer notes number and hash of each block
in `journal.db.head` once the block is durable, and opening compares. The note costs no sync: after a power cut it
may be old or empty, never ahead of the journal, and an old note still proves what it says.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha256
from pathlib import Path

from qaios.core.errors import JournalBroken

_NOTE = struct.Struct(">8sQ32s")  # magic, block number, block hash; SHA-256 of these follows
_MAGIC = b"QAIHEAD1"
_SIZE_BYTES = _NOTE.size + 32


class Head:
    """The note beside one journal."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(journal.name + ".head")
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalBroken(f"{self._path} cannot be opened: {error}") from error

    def read(self) -> tuple[int, bytes]:
        """Number and hash of a durable block, (0, zeros) if nothing is known. Raises `JournalBroken` when damaged."""
        content = os.pread(self._descriptor, _SIZE_BYTES + 1, 0)
        if not content.strip(b"\0"):
            return 0, bytes(32)
        if len(content) == _SIZE_BYTES and sha256(content[: _NOTE.size]).digest() == content[_NOTE.size :]:
            magic, number, digest = _NOTE.unpack(content[: _NOTE.size])
            if magic == _MAGIC:
                return number, digest
        raise JournalBroken(
            f"{self._path} is damaged, so it cannot vouch for the end of the journal",
            hint="Check journal.db against a backup; then remove the .head file and boot again.",
        )

    def write(self, number: int, digest: bytes) -> None:
        note = _NOTE.pack(_MAGIC, number, digest)
        os.pwrite(self._descriptor, note + sha256(note).digest(), 0)

    def close(self) -> None:
        os.close(self._descriptor)

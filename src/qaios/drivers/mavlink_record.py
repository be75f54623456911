"""What a drone's driver remembers of each key, on disk: so that a kernel that crashed can ask what became of it.

One small file per key under `home/devices/<name>/`, replaced atomically and synced at every stage:

    begun     the key is known; nothing has reached the vehicle that could start motion
    uploaded  the vehicle holds the plan with our id; it has not been told to fly
    started   it was told to fly; from here on the effect may have happened
    stopped   it was cancelled in flight, and the vehicle confirmed that it holds
    ended     `result` is what came of it

The highest kernel epoch ever served is kept beside them, so that a kernel that was replaced cannot command.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from qaios.core.errors import DeviceFault, Refused

BEGUN, UPLOADED, STARTED, STOPPED, ENDED = "begun", "uploaded", "started", "stopped", "ended"


class Record(msgspec.Struct):
    """What is known of one key. `ends` pairs each swath of the uploaded plan with the item that finishes it."""

    key: str
    action: str
    stage: str = BEGUN
    begun_s: float = 0.0
    plan: int = 0  # opaque id of the plan in the vehicle
    uploads: int = 0
    ends: list[tuple[str, int]] = []
    flown: list[str] = []
    distance_m: float = 0.0
    result: Any = None
    provenance: dict[str, Any] = {}


def plan_id(key: str, upload: int = 0) -> int:
    """The opaque id under which a key's plan is uploaded: CRC-32 of the key, of key and number for a later upload.

    A resumed flight has other items, so it must not be mistaken for the first. Never 0, which means "no id".
    """
    return zlib.crc32((f"{key}#{upload}" if upload else key).encode()) or 1


class Records:
    """The files of one device. Small and synced: a few milliseconds a call."""

    def __init__(self, home: str, name: str) -> None:
        self._folder = Path(home) / "devices" / name

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.task"

    def find(self, key: str) -> Record | None:
        """The record of `key`; None when the device never began it. Raises `DeviceFault` when it is unreadable."""
        try:
            record = msgspec.msgpack.decode(self._path(key).read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise DeviceFault(f"the record of {key} cannot be read: {error}", retryable=False) from error
        return record if record.key == key else None

    def save(self, record: Record) -> None:
        self._write(self._path(record.key), msgspec.msgpack.encode(record))

    def admit(self, epoch: int) -> None:
        """Raise `Refused` for a kernel older than one already served; remember a newer one."""
        path = self._folder / "epoch"
        seen = int(path.read_text()) if path.exists() else 0
        if epoch < seen:
            raise Refused(f"kernel epoch {epoch} was replaced by {seen}", hint="Only the newest kernel may command.")
        if epoch > seen:
            self._write(path, str(epoch).encode())

    def _write(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """A result as plain data, tuples as lists: the same before and after it was on disk."""
    encoded: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(document))
    return encoded

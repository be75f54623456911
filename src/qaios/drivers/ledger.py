"""What a device did, on disk: the answer to `recall` after a crash, for devices that do not remember themselves.

    absent ──began──▶ began ──done──▶ done          recall: Never │ Unknown │ Done
                        └──failed──▶ failed                         │ Unknown

One small file per idempotency key, written to the end (fsync of file and folder) before the effect may begin.
A key found `began` after a crash is `Unknown`: the effect may have happened in whole, in part or not at all.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec

from qaios.core.values import Done, Never, Recall, Result, Unknown

State = Literal["began", "done", "failed"]
KEPT_MAX = 4096


class Entry(msgspec.Struct, frozen=True):
    key: str
    state: State
    result: Result | None = None
    reason: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


class Ledger:
    """One folder of entries. All methods block on the disk: call them from a thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Make the folder; forget the oldest entries beyond the last 4096."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        entries = sorted(self._folder.glob("*.entry"), key=lambda path: path.stat().st_mtime_ns)
        for path in entries[:-KEPT_MAX]:
            path.unlink()

    def began(self, key: str) -> None:
        self._write(Entry(key, "began"))

    def done(self, key: str, result: Result) -> None:
        self._write(Entry(key, "done", result))

    def failed(self, key: str, reason: str) -> None:
        self._write(Entry(key, "failed", reason=reason))

    def recall(self, key: str) -> Recall:
        try:
            entry = _decoder.decode(self._path(key).read_bytes())
        except FileNotFoundError:
            return Never()
        except msgspec.DecodeError as error:
            return Unknown(f"its ledger entry is damaged: {error}")
        if entry.state == "done" and entry.result is not None:
            return Done(entry.result)
        return Unknown(entry.reason or "it had begun when the kernel ended, and ended with it")

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.entry"

    def _write(self, entry: Entry) -> None:
        path = self._path(entry.key)
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file:
            os.chmod(draft, 0o600)  # noqa: PTH101 - before anything is in it
            file.write(_encoder.encode(entry))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        if os.name == "posix":  # the name is durable only with its folder
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

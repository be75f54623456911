"""What a device did, on disk: the answer to `recall` after a crash, for devices that do not remember themselves.

                         recall
    absent               Never
      └─began──▶ began   Running while its process lives, then Unknown; Never when nothing outlives that process
          ├─done────▶    Done
          ├─failed──▶    Unknown: it ended, and may have done part of it
          └─void────▶    Never: nothing came of it, so it may be done again

One small file per idempotency key, durable when the call returns, so before the effect may begin. Beside them lies
the highest kernel epoch that was served: a kernel that was replaced begins nothing, also after a restart. A ledger
that cannot be read is `Unknown`, one that cannot be written stops the effect. The compute pool keeps its programs
here, the quantum machines their runs, the simulated world the drills it was asked for.

The MAVLink driver keeps records of its own (`drivers.mavlink_record`): it must know more of a flight than whether it
ended, because a vehicle flies on without us, and which part was flown decides what is asked of it next.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Literal

import msgspec

from qaios.core.errors import DeviceFault, Refused
from qaios.core.values import Done, Never, Recall, Result, Running, Unknown
from qaios.drivers.worker import started_s as process_started_s
from qaios.security.files import UNFINISHED, make_folder, write_durably

KEPT_MAX = 4096
_SAME_START_S = 0.02  # the clock of the process table ticks 100 times a second

State = Literal["began", "done", "failed", "void"]


class Entry(msgspec.Struct, frozen=True):
    """What is known of one key. `pid` and `started_s` name the process that carries it out, 0 where none does."""

    key: str
    state: State
    result: Result | None = None
    reason: str = ""
    pid: int = 0
    started_s: float = 0.0
    where: str = ""  # the device's own word on where it happens


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


class Ledger:
    """One folder of entries, made with the first. Every method blocks on the disk: call it from a thread."""

    def __init__(self, folder: Path, *, outlives: bool = True) -> None:
        """`outlives=False`: what a process had begun is gone with it and left nothing behind (an emulation)."""
        self._folder = folder
        self._outlives = outlives
        self._lock = threading.Lock()

    def open(self) -> None:
        """Forget the oldest entries beyond the last 4096, and what a crash left unfinished."""
        try:
            make_folder(self._folder)
            for path in self._folder.glob(f"{UNFINISHED}*"):
                path.unlink()
            entries = sorted(self._folder.glob("*.entry"), key=lambda path: path.stat().st_mtime_ns)
            for path in entries[:-KEPT_MAX]:
                path.unlink()
        except OSError as error:
            raise self._unwritable(error) from error

    def began(self, key: str, *, epoch: int, pid: int = 0, started_s: float = 0.0, where: str = "") -> None:
        """Note that it begins now. Raises `Refused` for an epoch older than one seen, `DeviceFault` when it cannot."""
        with self._lock:
            self._admit(epoch)
        self._write(Entry(key, "began", pid=pid, started_s=started_s, where=where))

    def done(self, key: str, result: Result) -> None:
        """Note what came of it. Raises `DeviceFault` when it cannot be written."""
        self._write(Entry(key, "done", result))

    def failed(self, key: str, reason: str) -> None:
        """Note that it ended without a result. Raises `DeviceFault` when it cannot be written."""
        self._write(Entry(key, "failed", reason=reason))

    def void(self, key: str, reason: str) -> None:
        """Note that nothing came of it. Raises `DeviceFault` when it cannot be written."""
        self._write(Entry(key, "void", reason=reason))

    def find(self, key: str) -> Entry | None:
        """The entry of `key`, None when it never began. Raises `OSError` or `msgspec.MsgspecError` when damaged."""
        try:
            return _decoder.decode(self.path(key).read_bytes())
        except FileNotFoundError:
            return None

    def recall(self, key: str) -> Recall:
        """What became of `key`. Never raises: what cannot be read is an `Unknown` with its reason."""
        try:
            entry = self.find(key)
        except (OSError, msgspec.MsgspecError) as error:
            return Unknown(f"its ledger entry is damaged: {error}")
        if entry is None or entry.state == "void":
            return Never()
        if entry.state == "done" and entry.result is not None:
            return Done(entry.result)
        if entry.state == "began" and self._alive(entry):
            return Running(str(entry.pid))
        if entry.state == "began" and not self._outlives:
            return Never()
        return Unknown(entry.reason or "it had begun when the kernel ended, and ended with it")

    def path(self, key: str) -> Path:
        """Where the entry of `key` lies."""
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.entry"

    @staticmethod
    def _alive(entry: Entry) -> bool:
        """Whether the very process that carries it out still lives; a pid used again is another process."""
        now_s = process_started_s(entry.pid) if entry.pid else 0.0
        return now_s != 0.0 and abs(now_s - entry.started_s) < _SAME_START_S

    def _admit(self, epoch: int) -> None:
        path = self._folder / "epoch"
        try:
            seen = int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            seen = 0
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error
        if epoch < seen:
            raise Refused(f"kernel epoch {epoch} is over, {seen} has used this device since")
        if epoch > seen:
            self._store(path, str(epoch).encode("ascii"))

    def _write(self, entry: Entry) -> None:
        self._store(self.path(entry.key), _encoder.encode(entry))

    def _store(self, path: Path, content: bytes) -> None:
        try:
            write_durably(path, content)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> DeviceFault:
        return DeviceFault(
            f"the ledger {self._folder} cannot be kept: {error}",
            hint="Check the disk; nothing is done without it.",
            retryable=False,
        )

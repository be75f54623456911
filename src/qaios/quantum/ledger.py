"""The submission ledger: what a quantum machine was asked to run, and what came of it, durable on disk.

A run on a quantum machine is an effect: it is paid for, and after a crash the kernel must know whether it
happened before it may ask again. The driver writes a line before a run starts and one when it ends; `recall`
reads them. In comes the idempotency key of an attempt, out comes `Done`, `Running`, `Never` or `Unknown`.

A run is bound to the process that carries it out. When that process is dead and no result was written, an
emulated run left nothing behind, so the answer is `Never` and it may be run again; with a real machine behind the
same ledger, whose runs go on without us, the driver passes `outlives=True` and the answer is `Unknown` unless the
machine itself can be asked. Every write is on disk when the call returns (SQLite, WAL, synchronous=FULL).
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qaios.core.errors import DeviceFault, Refused
from qaios.core.values import Done, Never, Recall, Result, Running, Unknown

RUNS_MAX = 10_000  # finished runs that are remembered; a kernel asks about the last ones only

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    key TEXT PRIMARY KEY, epoch INTEGER NOT NULL, state TEXT NOT NULL, pid INTEGER NOT NULL,
    started_s REAL NOT NULL, at_s REAL NOT NULL, result BLOB, reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (at_s);
CREATE TABLE IF NOT EXISTS fence (id INTEGER PRIMARY KEY CHECK (id = 0), epoch INTEGER NOT NULL);
INSERT OR IGNORE INTO fence VALUES (0, 0);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger. `state` is "submitted", "done" or "void"."""

    key: str
    epoch: int
    state: str
    pid: int
    started_s: float
    result: Result | None
    reason: str


class Ledger:
    """The runs of one device. Safe to use from several threads; the file is made with the first run."""

    def __init__(self, path: Path, *, process_started_s: Callable[[int], float], outlives: bool = False) -> None:
        """`process_started_s(pid)` tells when a process started (boot clock), 0.0 when there is none."""
        self._path = path
        self._process_started_s = process_started_s
        self._outlives = outlives
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def submit(self, key: str, *, epoch: int, pid: int, started_s: float, at_s: float) -> None:
        """Note that a run begins now in process `pid`.

        Raises `Refused` for an epoch older than one seen before, and `DeviceFault` when it cannot be written.
        """
        with self._writing() as database:
            (seen,) = database.execute("SELECT epoch FROM fence").fetchone()
            if epoch < seen:
                raise Refused(f"the attempt is of epoch {epoch}, a kernel of epoch {seen} has used this device since")
            database.execute("UPDATE fence SET epoch = ?", (epoch,))
            database.execute(
                "INSERT OR REPLACE INTO runs (key, epoch, state, pid, started_s, at_s) "
                "VALUES (?, ?, 'submitted', ?, ?, ?)",
                (key, epoch, pid, started_s, at_s),
            )

    def finish(self, key: str, result: Result) -> None:
        """Note what came of it. Raises `DeviceFault` when it cannot be written."""
        with self._writing() as database:
            database.execute(
                "UPDATE runs SET state = 'done', result = ? WHERE key = ?", (msgspec.msgpack.encode(result), key)
            )
            database.execute(
                "DELETE FROM runs WHERE state != 'submitted' AND key IN "
                "(SELECT key FROM runs ORDER BY at_s DESC LIMIT -1 OFFSET ?)",
                (RUNS_MAX,),
            )

    def void(self, key: str, reason: str) -> None:
        """Note that it was stopped or failed and that nothing came of it. Raises `DeviceFault`."""
        with self._writing() as database:
            database.execute("UPDATE runs SET state = 'void', reason = ? WHERE key = ?", (reason, key))

    def find(self, key: str) -> Entry | None:
        """The line of `key`, or None. Raises `sqlite3.Error` when the ledger cannot be read."""
        with self._lock:
            if self._database is None and not self._path.exists():
                return None
            with self._open() as database:
                row = database.execute(
                    "SELECT key, epoch, state, pid, started_s, result, reason FROM runs WHERE key = ?", (key,)
                ).fetchone()
        if row is None:
            return None
        result = None if row[5] is None else msgspec.msgpack.decode(row[5], type=Result)
        return Entry(row[0], row[1], row[2], row[3], row[4], result, row[6])

    def recall(self, key: str) -> Recall:
        """What became of `key`. Never raises: a ledger that cannot be read is an `Unknown` with its reason."""
        try:
            entry = self.find(key)
        except (sqlite3.Error, OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
            return Unknown(f"the ledger {self._path.name} cannot be read: {error}")
        if entry is None or entry.state == "void":
            return Never()
        if entry.state == "done" and entry.result is not None:
            return Done(entry.result)
        if self._alive(entry):
            return Running(str(entry.pid))
        if self._outlives:
            return Unknown("it was submitted, and the process that watched it died before it saw the outcome")
        return Never()

    def close(self) -> None:
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _alive(self, entry: Entry) -> bool:
        """Whether the very process that carried out the run still lives; a pid used again is another process."""
        now_s = self._process_started_s(entry.pid)
        return now_s != 0.0 and abs(now_s - entry.started_s) < 0.02

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, self._open() as database:
                yield database
        except (sqlite3.Error, OSError) as error:
            raise DeviceFault(
                f"the ledger {self._path} cannot be written: {error}", hint="check the disk; nothing is run without it"
            ) from error

    def _open(self) -> sqlite3.Connection:
        """The database; as a context it commits, or rolls back what raised. Call with the lock held."""
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, check_same_thread=False)
            try:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = FULL")
                database.executescript(_TABLES)
            except sqlite3.Error:
                database.close()
                raise
            self._database = database
        return self._database

"""The journal: every event, in order, durable before anyone acts on it. Recovery is reading it from the start.

The kernel awaits `append`; what several callers have queued by then becomes one block, one row and one sync to
disk (group commit). A thread of its own writes, so the kernel's loop never waits for the disk. Each block's
SHA-256 covers the block before it, so that a changed, lost or swapped block is found and named by `read`.

Three files: `journal.db` (SQLite in WAL mode, `synchronous=FULL`), `journal.db.lock` (one kernel at a time, by
`flock`), and `journal.db.head` (`journal.head`: says how far the journal reached, because SQLite itself takes a
damaged write-ahead log for a shorter one). Once a write has failed the journal is broken for good: what is on
disk is no longer known, so every later append fails and the process must end. See docs/decisions/0003.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from qaios.core.errors import JournalBroken
from qaios.journal.head import Head
from qaios.security.files import held_alone

if TYPE_CHECKING:
    from qaios.core.events import Event

SCHEMA_VERSION = 1
APPLICATION_ID = 0x51414A31  # "QAJ1": `file` and SQLite tell this database from any other
GROUP_MAX_BYTES = 16 * 1024 * 1024  # a group is closed at this size; a single larger append is still one block

_SCHEMA = """
CREATE TABLE blocks (
    number  INTEGER PRIMARY KEY,  -- 1, 2, 3, … without a gap
    hash    BLOB NOT NULL,        -- SHA-256 of the previous block's hash, the number and the payload
    payload BLOB NOT NULL         -- MessagePack: a list of encoded event batches, one for each append
) STRICT
"""


@dataclass(frozen=True, slots=True)
class Block:
    """One group commit as it lies on disk, checked."""

    number: int
    previous: bytes  # hash of the block before it, 32 bytes
    hash: bytes
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class _Append:
    payload: bytes
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[int]


class SqliteJournal:
    """`contracts.Journal`. One process holds it at a time, and one event loop appends."""

    def __init__(
        self,
        path: Path,
        *,
        encode: Callable[[Sequence[Event]], bytes],
        decode: Callable[[bytes], Sequence[Event]],
    ) -> None:
        """Open or create. Raises `Conflict` when another process holds it, `JournalBroken` when it is damaged."""
        self._path = path
        self._encode = encode
        self._decode = decode
        self._queue: queue.SimpleQueue[_Append | None] = queue.SimpleQueue()
        self._broken = ""
        self._closed = False
        with contextlib.ExitStack() as opened:
            with _explained(path):
                opened.enter_context(held_alone(path.with_name(path.name + ".lock"), what=f"the journal {path}"))
            self._connection = opened.enter_context(contextlib.closing(_open(path)))
            self._head = opened.enter_context(contextlib.closing(Head(path)))
            self._number, self._hash = self._recover_head()
            self._opened = opened.pop_all()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    async def append(self, events: Sequence[Event]) -> int:
        """Return the number of the block that holds `events` once it is durable; blocks keep the order of the calls.

        Cancelling the wait does not take the events back. Raises `JournalBroken`; then the process must die.
        """
        if self._broken or self._closed:
            raise JournalBroken(self._broken or f"the journal {self._path} is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        self._queue.put(_Append(self._encode(events), loop, done))
        return await done

    def read(self, after: int = 0) -> Iterator[tuple[int, Sequence[Event]]]:
        """Blocks in order, each checked against the one before it. Raises `JournalBroken` naming the bad block."""
        return ((block.number, block.events) for block in export(self._path, decode=self._decode, after=after))

    def export(self, after: int = 0) -> Iterator[Block]:
        """As `read`, with the hashes: what an auditor takes away."""
        return export(self._path, decode=self._decode, after=after)

    @property
    def head(self) -> tuple[int, bytes]:
        """Number and hash of the last durable block; (0, zeros) while there is none."""
        return self._number, self._hash

    def close(self) -> None:
        """Write what is queued, and let the next kernel have the journal. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        self._opened.close()

    def _recover_head(self) -> tuple[int, bytes]:
        """Where the chain ends; checked against what was known to be durable."""
        with _explained(self._path):
            row = self._connection.execute("SELECT number, hash FROM blocks ORDER BY number DESC LIMIT 1").fetchone()
            number, digest = row if row else (0, bytes(32))
            known_number, known_hash = self._head.read()
            found = self._hash_at(known_number) if known_number else known_hash
        if found != known_hash:
            raise JournalBroken(
                f"{self._path} ends at block {number}, and block {known_number} was durable before"
                + ("" if number < known_number else " with another content"),
                hint="The file was damaged or put back to an older state: restore journal.db* from one backup.",
            )
        return number, digest

    def _hash_at(self, number: int) -> bytes | None:
        row = self._connection.execute("SELECT hash FROM blocks WHERE number = ?", (number,)).fetchone()
        return row[0] if row else None

    # The writer's thread ------------------------------------------------------------------------------------------

    def _write(self) -> None:
        last = False
        while not last:
            group, last = self._next_group()
            if not group:
                continue
            try:
                number = self._commit([append.payload for append in group])
            except (sqlite3.Error, OSError, OverflowError, MemoryError) as error:
                self._broken = f"the journal {self._path} cannot be written: {error}"
                self._fail(group)
                return
            _settle(group, partial(_succeed, number))

    def _next_group(self) -> tuple[list[_Append], bool]:
        """Wait for one append, take all that is queued behind it. True when the journal is to be closed."""
        group: list[_Append] = []
        size_bytes = 0
        item = self._queue.get()
        while item is not None:
            group.append(item)
            size_bytes += len(item.payload)
            if size_bytes >= GROUP_MAX_BYTES or self._queue.empty():
                return group, False
            item = self._queue.get()
        return group, True

    def _commit(self, payloads: list[bytes]) -> int:
        payload = msgspec.msgpack.encode(payloads)
        number = self._number + 1
        digest = _chained(self._hash, number, payload)
        # One statement outside a transaction is its own transaction: it returns when the log is on disk.
        self._connection.execute("INSERT INTO blocks VALUES (?, ?, ?)", (number, digest, payload))
        self._head.write(number, digest)
        self._number, self._hash = number, digest
        return number

    def _fail(self, group: list[_Append]) -> None:
        """Fail these and all that ever come: after one lost block no later one can be believed."""
        while True:
            _settle(group, lambda done: done.set_exception(JournalBroken(self._broken, hint="Make room, boot again.")))
            item = self._queue.get()
            if item is None:
                return
            group = [item]


def export(path: Path, *, decode: Callable[[bytes], Sequence[Event]], after: int = 0) -> Iterator[Block]:
    """Blocks after number `after`, checked. Opens for reading only and takes no lock: a kernel may be writing.

    Raises `JournalBroken` naming the block that is missing, does not follow the one before it, or cannot be decoded.
    """
    expected, previous = after + 1, bytes(32)
    with contextlib.closing(_open_to_read(path)) as connection, _explained(path, lambda: expected):
        if after:
            row = connection.execute("SELECT hash FROM blocks WHERE number = ?", (after,)).fetchone()
            if row is None:
                raise JournalBroken(f"{path}: block {after} is not there")
            previous = row[0]
        rows = connection.execute("SELECT number, hash, payload FROM blocks WHERE number > ? ORDER BY number", (after,))
        for number, digest, payload in rows:
            if number != expected or digest != _chained(previous, number, payload):
                raise JournalBroken(
                    f"{path}: block {expected} is damaged or missing; its hash does not follow",
                    hint="Restore journal.db* from one backup, or set QAIOS_HOME to begin anew; nothing was changed.",
                )
            events = [event for part in msgspec.msgpack.decode(payload, type=list[bytes]) for event in decode(part)]
            yield Block(number, previous, digest, events)
            expected, previous = number + 1, digest


def _chained(previous: bytes, number: int, payload: bytes) -> bytes:
    digest = sha256(previous)
    digest.update(number.to_bytes(8, "big"))
    digest.update(payload)
    return digest.digest()


def _succeed(number: int, done: asyncio.Future[int]) -> None:
    done.set_result(number)


def _settle(group: list[_Append], answer: Callable[[asyncio.Future[int]], None]) -> None:
    """Answer the waiting appends on their own loop, in order, with one wake-up."""

    def answer_all() -> None:
        for append in group:
            if not append.done.done():
                answer(append.done)

    with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
        group[0].loop.call_soon_threadsafe(answer_all)


def _open(path: Path) -> sqlite3.Connection:
    with _explained(path):
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            _check_schema(path, connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _check_schema(path: Path, connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if (version, application, tables) == (0, 0, 0):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_SCHEMA)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    elif (version, application) != (SCHEMA_VERSION, APPLICATION_ID):
        raise JournalBroken(
            f"{path} is no journal of schema {SCHEMA_VERSION} (schema {version}, application {application:#x})",
            hint="It is damaged, another program's file, or from another release of QAI OS.",
        )


def _open_to_read(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise JournalBroken(f"there is no journal at {path}")
    with _explained(path):
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


@contextlib.contextmanager
def _explained(path: Path, block: Callable[[], int] | None = None) -> Iterator[None]:
    """What SQLite, the disk and the decoder say, as `JournalBroken` with its place."""
    try:
        yield
    except (sqlite3.Error, OSError, msgspec.MsgspecError, ValueError) as error:
        place = f"{path}: block {block()}" if block else str(path)
        raise JournalBroken(f"{place} cannot be used: {error}") from error

"""What the hub keeps: the nodes it knows and the reports it has acknowledged, each exactly once.

The HTTP side calls `Store` from one thread. A report stays sealed on disk, as the envelope its node signed, so
the evidence of who sent it stays with it; it is opened on arrival to be checked, and again when asked for.

Order is everything in `store`: the envelope is durable first, then the row with its signed receipt, and only then
may anyone be told. The envelope's file is named by the key, so what a crash left half-way is overwritten by the
next try or swept away at the next start; the row is unique by key. Two copies or a lost receipt cannot come about.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec

from qaios.core.errors import Conflict, Denied, JournalBroken, NotFound
from qaios.security.files import UNFINISHED, make_folder, write_durably
from qaios.security.keys import Identity, PublicIdentity
from qaios.security.sealing import Envelope, unseal
from qaios.security.statements import Receipt, Report

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE nodes (
    fingerprint TEXT PRIMARY KEY,
    identity    BLOB NOT NULL,              -- PublicIdentity, msgpack
    enrolled_s  REAL NOT NULL,
    epoch       INTEGER NOT NULL DEFAULT 0  -- the newest seen; an older kernel of this node is refused
) STRICT;
CREATE TABLE reports (
    number  INTEGER PRIMARY KEY,
    key     TEXT NOT NULL UNIQUE,
    receipt BLOB NOT NULL                   -- Receipt, msgpack
) STRICT;
"""


class NotEnrolled(Denied):
    """The node is not known here; enrolling it helps."""


class Store:
    """The hub's memory under one folder. Not for several threads at once."""

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        now_s: Callable[[], float],
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`step` is told what has just been done; tests of crashes end the process there."""
        self._identity = identity
        self._now_s = now_s
        self._step = step
        self._envelopes = folder / "envelopes"
        make_folder(self._envelopes)
        self._connection = _open(folder / "hub.db")
        self._sweep()

    def close(self) -> None:
        self._connection.close()

    def enrol(self, node: PublicIdentity) -> None:
        """Know this node from now on. Again is the same."""
        with self._connection:
            self._connection.execute(
                "INSERT INTO nodes (fingerprint, identity, enrolled_s) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (node.fingerprint, msgspec.msgpack.encode(node), self._now_s()),
            )

    def store(self, envelope: Envelope) -> tuple[Receipt, bool]:
        """Check it, keep it, and give the receipt; the flag says whether it is new.

        Raises `NotEnrolled`, `Denied` or `Invalid` for what cannot be trusted, `Conflict` for a key that was used
        with other content and for an epoch older than the node's newest; `sqlite3.Error` or `OSError` when the
        disk refuses, after which the same key may be sent again.
        """
        sender, newest_epoch = self._node(envelope.sender)
        content = unseal(envelope, recipient=self._identity, sender=sender)
        name = Report.decode(content).name
        address = hashlib.sha256(content).hexdigest()
        self._step("opened")
        known = self.receipt(envelope.key)
        if known:
            if (known.sha256, known.sender) != (address, envelope.sender):
                raise Conflict(
                    f"key {envelope.key!r} already stands for a report with SHA-256 {known.sha256[:16]}",
                    hint="A key names one content for ever: upload this as another task.",
                )
            return known, False
        if envelope.epoch < newest_epoch:
            raise Conflict(
                f"epoch {envelope.epoch} of node {envelope.sender[:16]} is over; it is at {newest_epoch}",
                hint="An old kernel is still running: stop it.",
            )
        write_durably(self._path(envelope.key), envelope.encode())
        self._step("written")
        receipt = Receipt(
            key=envelope.key,
            name=name,
            sha256=address,
            size_bytes=len(content),
            sender=envelope.sender,
            hub=self._identity.public.fingerprint,
            stored_s=self._now_s(),
        ).signed(self._identity)
        self._insert(receipt, envelope.epoch)
        self._step("committed")
        return receipt, True

    def receipt(self, key: str) -> Receipt | None:
        row = self._connection.execute("SELECT receipt FROM reports WHERE key = ?", (key,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=Receipt) if row else None

    def receipts(self, after: int, limit: int) -> list[tuple[int, Receipt]]:
        """Numbered in the order they were stored, beginning after number `after`."""
        rows = self._connection.execute(
            "SELECT number, receipt FROM reports WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
        )
        return [(number, msgspec.msgpack.decode(receipt, type=Receipt)) for number, receipt in rows]

    def count(self) -> int:
        count: int = self._connection.execute("SELECT count(*) FROM reports").fetchone()[0]
        return count

    def content(self, key: str) -> bytes:
        """The opened report, checked against its receipt. Raises `NotFound`, `JournalBroken` when it was damaged."""
        receipt = self.receipt(key)
        if receipt is None:
            raise NotFound(f"no report is stored under key {key!r}")
        try:
            envelope = Envelope.decode(self._path(key).read_bytes())
        except OSError as error:
            raise JournalBroken(f"the report of key {key!r} cannot be read: {error}") from error
        content = unseal(envelope, recipient=self._identity, sender=self._node(receipt.sender)[0])
        if (envelope.key, hashlib.sha256(content).hexdigest()) != (key, receipt.sha256):
            raise JournalBroken(f"the report of key {key!r} is not what its receipt says")
        return content

    def _node(self, fingerprint: str) -> tuple[PublicIdentity, int]:
        row = self._connection.execute(
            "SELECT identity, epoch FROM nodes WHERE fingerprint = ?", (fingerprint,)
        ).fetchone()
        if row is None:
            raise NotEnrolled(f"node {fingerprint[:16]} is not enrolled here", hint="POST /v1/nodes with a join token.")
        return msgspec.msgpack.decode(row[0], type=PublicIdentity), row[1]

    def _insert(self, receipt: Receipt, epoch: int) -> None:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "INSERT INTO reports (key, receipt) VALUES (?, ?)", (receipt.key, msgspec.msgpack.encode(receipt))
            )
            self._connection.execute(
                "UPDATE nodes SET epoch = max(epoch, ?) WHERE fingerprint = ?", (epoch, receipt.sender)
            )

    def _path(self, key: str) -> Path:
        return self._envelopes / hashlib.sha256(key.encode()).hexdigest()

    def _sweep(self) -> None:
        """Remove what a crash left before it was acknowledged: half-written files, and envelopes without a row."""
        kept = {self._path(key).name for (key,) in self._connection.execute("SELECT key FROM reports")}
        for path in self._envelopes.iterdir():
            if path.name.startswith(UNFINISHED) or path.name not in kept:
                path.unlink()


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT")
        elif version != SCHEMA_VERSION:
            raise JournalBroken(f"{path} has schema {version}; this hub knows {SCHEMA_VERSION}")
    except sqlite3.Error as error:
        connection.close()
        raise JournalBroken(f"{path} cannot be used: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection

"""The journal keeps what it acknowledged, in order, through everything a process and a disk can do to it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qaios.core.errors import Conflict, JournalBroken
from qaios.core.events import Event, KernelBooted, decode_events, encode_events
from qaios.journal.sqlite import SqliteJournal, export

WRITER = Path(__file__).with_name("writer.py")


def open_journal(path: Path) -> SqliteJournal:
    return SqliteJournal(path, encode=encode_events, decode=decode_events)


def booted(epoch: int, *, node: str = "n") -> KernelBooted:
    return KernelBooted(at_s=float(epoch), epoch=epoch, node=node, version="1")


def epochs(blocks: Iterator[tuple[int, Sequence[Event]]]) -> list[int]:
    return [event.epoch for _, events in blocks for event in events if isinstance(event, KernelBooted)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def start_writer(path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(WRITER), str(path), *arguments], stdout=subprocess.PIPE, text=True)


async def fill(path: Path, count: int, *, node: str = "n") -> None:
    journal = open_journal(path)
    for epoch in range(1, count + 1):
        await journal.append([booted(epoch, node=node)])
    journal.close()


async def test_what_is_appended_is_read_back_in_order_after_reopening(path: Path) -> None:
    journal = open_journal(path)
    assert [await journal.append([booted(n), booted(n + 100)]) for n in (1, 2, 3)] == [1, 2, 3]
    journal.close()
    again = open_journal(path)
    assert list(again.read()) == [(n, [booted(n), booted(n + 100)]) for n in (1, 2, 3)]
    assert epochs(again.read(after=2)) == [3, 103]
    assert await again.append([booted(4)]) == 4
    again.close()


async def test_appends_waiting_together_become_few_blocks_and_keep_their_order(path: Path) -> None:
    journal = open_journal(path)
    numbers = await asyncio.gather(*(journal.append([booted(n)]) for n in range(500)))
    assert numbers == sorted(numbers)
    assert numbers[-1] < 100
    assert epochs(journal.read()) == list(range(500))
    journal.close()


async def test_a_cancelled_wait_does_not_take_the_events_back(path: Path) -> None:
    journal = open_journal(path)
    waiting = asyncio.create_task(journal.append([booted(1)]))
    await asyncio.sleep(0)
    waiting.cancel()
    await journal.append([booted(2)])
    assert epochs(journal.read()) == [1, 2]
    journal.close()


async def test_an_event_that_cannot_be_encoded_fails_its_own_append_only(path: Path) -> None:
    def encode(events: Sequence[Event]) -> bytes:
        if not events:
            raise TypeError("nothing to encode")
        return encode_events(events)

    journal = SqliteJournal(path, encode=encode, decode=decode_events)
    with pytest.raises(TypeError):
        await journal.append([])
    assert await journal.append([booted(1)]) == 1
    journal.close()


async def test_a_second_kernel_is_refused_with_the_pid_of_the_first(path: Path) -> None:
    journal = open_journal(path)
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        open_journal(path)
    journal.close()
    open_journal(path).close()


async def test_a_closed_journal_refuses_appends_and_closes_twice(path: Path) -> None:
    journal = open_journal(path)
    journal.close()
    journal.close()
    with pytest.raises(JournalBroken, match="closed"):
        await journal.append([booted(1)])


async def test_closing_first_writes_what_is_queued(path: Path) -> None:
    journal = open_journal(path)
    waiting = [asyncio.create_task(journal.append([booted(n)])) for n in range(20)]
    await asyncio.sleep(0)
    journal.close()
    await asyncio.gather(*waiting)
    assert epochs((block.number, block.events) for block in export(path, decode=decode_events)) == list(range(20))


async def test_an_auditor_reads_the_chain_while_the_kernel_writes(path: Path) -> None:
    journal = open_journal(path)
    for epoch in (1, 2, 3):
        await journal.append([booted(epoch)])
    blocks = list(export(path, decode=decode_events))
    assert [block.previous for block in blocks] == [bytes(32), *(block.hash for block in blocks[:-1])]
    assert journal.head == (3, blocks[-1].hash)
    await journal.append([booted(4)])
    assert len(list(journal.export(after=3))) == 1
    journal.close()


async def test_the_files_are_for_the_owner_alone(path: Path) -> None:
    await fill(path, 1)
    assert {file.name: file.stat().st_mode & 0o077 for file in path.parent.iterdir()} == {
        "journal.db": 0,
        "journal.db.lock": 0,
        "journal.db.head": 0,
    }


def damage(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("statement", "block"),
    [
        ("UPDATE blocks SET payload = CAST(payload || x'00' AS BLOB) WHERE number = 3", 3),
        ("UPDATE blocks SET hash = zeroblob(32) WHERE number = 2", 2),
        ("DELETE FROM blocks WHERE number = 4", 4),
        ("UPDATE blocks SET number = 9 WHERE number = 5", 5),
    ],
)
async def test_a_changed_block_is_found_and_named(path: Path, statement: str, block: int) -> None:
    await fill(path, 6)
    damage(path, statement)
    read: list[int] = []
    with pytest.raises(JournalBroken, match=f"block {block}"):
        for number, _ in open_journal_and_read(path):
            read.append(number)
    assert read == list(range(1, block))


def open_journal_and_read(path: Path) -> Iterator[tuple[int, Sequence[Event]]]:
    journal = open_journal(path)
    try:
        yield from journal.read()
    finally:
        journal.close()


async def test_blocks_cut_off_at_the_end_are_noticed_at_opening(path: Path) -> None:
    await fill(path, 6)
    damage(path, "DELETE FROM blocks WHERE number > 4")
    with pytest.raises(JournalBroken, match="block 6 was durable before"):
        open_journal(path)


async def test_a_note_that_is_old_or_lost_in_a_power_cut_stops_nobody(path: Path) -> None:
    await fill(path, 3)
    note = path.with_name("journal.db.head")
    old = note.read_bytes()
    journal = open_journal(path)
    await journal.append([booted(4)])
    journal.close()
    for content in (old, b"", bytes(len(old))):
        note.write_bytes(content)
        assert epochs(open_journal_and_read(path)) == [1, 2, 3, 4]


def test_no_flipped_bit_is_ever_read_as_a_fact(path: Path, tmp_path: Path) -> None:
    asyncio.run(fill(path, 40, node="n" * 300))
    expected = list(range(1, 41))
    chance = random.Random(7)
    size = path.stat().st_size
    found = 0
    for _ in range(150):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for file in path.parent.glob("journal.db*"):
            shutil.copy(file, copy)
        flip(copy / "journal.db", chance.randrange(size), 1 << chance.randrange(8))
        try:
            assert epochs(open_journal_and_read(copy / "journal.db")) == expected
        except JournalBroken:
            found += 1
    assert found > 60  # much of the file is payload; what is left is free space that nobody reads


async def test_a_flipped_bit_in_the_write_ahead_log_does_not_shorten_the_journal(path: Path, tmp_path: Path) -> None:
    journal = open_journal(path)
    for epoch in range(1, 21):
        await journal.append([booted(epoch, node="n" * 300)])
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for file in path.parent.glob("journal.db*"):
        shutil.copy(file, crashed)  # as a kill -9 would leave them: the log not yet taken over
    journal.close()
    flip(crashed / "journal.db-wal", (crashed / "journal.db-wal").stat().st_size // 2, 4)
    with pytest.raises(JournalBroken):
        epochs(open_journal_and_read(crashed / "journal.db"))


def flip(path: Path, offset: int, bits: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= bits
    path.write_bytes(content)


def test_a_full_disk_breaks_the_journal_and_loses_nothing_acknowledged(path: Path) -> None:
    with start_writer(path, "--file-max", "200000") as writer:
        assert writer.stdout
        lines = writer.stdout.read().splitlines()
    assert lines[-1].startswith("broken") and "cannot be written" in lines[-1]
    acknowledged = [int(line.split()[1]) for line in lines[:-1]]
    assert len(acknowledged) > 10
    assert [number for number, _ in open_journal_and_read(path)][: len(acknowledged)] == acknowledged


async def test_after_one_failed_append_every_later_one_fails(path: Path) -> None:
    journal = open_journal(path)
    await journal.append([booted(1)])
    damage(path, "ALTER TABLE blocks RENAME TO gone")
    for _ in range(2):
        with pytest.raises(JournalBroken, match="cannot be written"):
            await journal.append([booted(2)])
    damage(path, "ALTER TABLE gone RENAME TO blocks")
    with pytest.raises(JournalBroken, match="cannot be written"):
        await journal.append([booted(3)])
    journal.close()
    assert epochs(open_journal_and_read(path)) == [1]


async def test_a_journal_that_may_only_be_read_is_refused_at_opening(path: Path) -> None:
    await fill(path, 1)
    for file in path.parent.glob("journal.db*"):
        file.chmod(0o400)
    path.parent.chmod(0o500)
    with start_writer(path, "--read-only") as writer:
        assert writer.stdout
        assert writer.stdout.read().startswith("broken")
    path.parent.chmod(0o700)


@pytest.mark.parametrize("content", [b"not a database, though long enough to be looked at" * 100, b"SQLite format 3\0"])
def test_something_else_in_its_place_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(JournalBroken):
        open_journal(path)


def test_another_programs_database_is_refused(path: Path) -> None:
    damage(path, "CREATE TABLE blocks (number, hash, payload)")
    with pytest.raises(JournalBroken, match="no journal of schema"):
        open_journal(path)


def test_kill_9_at_any_moment_loses_nothing_acknowledged(path: Path) -> None:
    chance = random.Random(11)
    acknowledged = 0
    for _ in range(8):
        with start_writer(path) as writer:
            assert writer.stdout
            for _ in range(chance.randrange(1, 60)):
                line = writer.stdout.readline()
                acknowledged = int(line.split()[1])
            writer.kill()
            for line in writer.stdout:  # what it had said before it died counts as well
                if line.endswith("\n"):
                    acknowledged = int(line.split()[1])
        found = epochs(open_journal_and_read(path))
        assert found == list(range(1, len(found) + 1))
        assert acknowledged <= len(found) <= acknowledged + 1

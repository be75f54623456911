"""Every journal, artifact store, clock and policy of the house keeps the promises of its contract."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import ClassVar

import pytest

from qaios.contracts import Artifacts, Berth, Clock, Journal, Placements, Policy, Ready
from qaios.core.errors import JournalBroken
from qaios.core.events import decode_events, encode_events
from qaios.core.values import Estimate
from qaios.journal.artifacts import FileArtifacts
from qaios.journal.sqlite import SqliteJournal
from qaios.kernel.policy import Estimates, Greedy
from qaios.system.clock import NodeClock, SystemClock
from qaios.testing.clock import FakeClock
from qaios.testing.kits import ArtifactsKit, ClockKit, JournalKit, PolicyKit
from qaios.testing.memory import MemoryArtifacts, MemoryJournal


class TestMemoryJournal(JournalKit):
    def make(self) -> Journal:
        known: list[tuple[bytes, bytes]] = getattr(self, "blocks", [])
        journal = MemoryJournal()
        self.blocks = journal.blocks = known
        return journal

    def damage(self) -> None:
        content, digest = self.blocks[1]
        self.blocks[1] = (content[:-1] + b"\x07", digest)


class TestSqliteJournal(JournalKit):
    def make(self) -> Journal:
        return SqliteJournal(self.home / "journal.db", encode=encode_events, decode=decode_events)

    def damage(self) -> None:
        with closing(sqlite3.connect(self.home / "journal.db")) as connection, connection:
            (payload,) = connection.execute("SELECT payload FROM blocks WHERE number = 2").fetchone()
            connection.execute("UPDATE blocks SET payload = ? WHERE number = 2", (payload[:-1] + b"\x07",))


class TestMemoryArtifacts(ArtifactsKit):
    def make(self) -> Artifacts:
        return MemoryArtifacts()

    def damage(self, store: Artifacts, sha256: str) -> None:
        assert isinstance(store, MemoryArtifacts)
        store.corrupt(sha256)


class TestFileArtifacts(ArtifactsKit):
    def make(self) -> Artifacts:
        return FileArtifacts(self.home)

    def damage(self, store: Artifacts, sha256: str) -> None:
        (self.home / sha256[:2] / sha256[2:]).write_bytes(b"a lie")


class TestFakeClock(ClockKit):
    def make(self) -> Clock:
        return FakeClock()


class TestSystemClock(ClockKit):
    def make(self) -> Clock:
        return SystemClock()


class TestNodeClock(ClockKit):
    def make(self) -> Clock:
        return NodeClock()


class TestGreedy(PolicyKit):
    def make(self) -> Policy:
        return Greedy()


# ── the kits are live ──


class Forgetful(MemoryJournal):
    def close(self) -> None:
        super().close()
        self.blocks.clear()


class Believing(MemoryJournal):
    @staticmethod
    def _chained(content: bytes, before: bytes) -> bytes:
        return b""


class OpenForEver(MemoryJournal):
    def close(self) -> None:
        return None


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Forgetful, "test_what_is_durable_survives_and_the_numbers_go_on"),
        (Believing, "test_a_changed_block_is_never_read_as_a_fact"),
        (OpenForEver, "test_a_closed_journal_takes_nothing_and_closes_twice"),
    ],
)
def test_the_journal_kit_fails_a_journal_that_is(broken: type[MemoryJournal], test: str) -> None:
    class Broken(TestMemoryJournal):
        def make(self) -> Journal:
            journal = broken()
            self.blocks = journal.blocks = getattr(self, "blocks", [])
            return journal

    with pytest.raises((AssertionError, JournalBroken)):
        getattr(Broken(), test)()


class Trusting(MemoryArtifacts):
    def get(self, sha256: str) -> bytes:
        return self.contents.get(sha256, b"")


@pytest.mark.parametrize("test", ["test_changed_content_is_never_given_out", "test_what_is_not_there_is_not_found"])
def test_the_store_kit_fails_a_store_that_trusts_its_disk(test: str) -> None:
    class Broken(TestMemoryArtifacts):
        def make(self) -> Artifacts:
            return Trusting()

    with pytest.raises(AssertionError):
        getattr(Broken(), test)()


class Hurried(FakeClock):
    async def sleep(self, duration_s: float) -> None:
        await super().sleep(duration_s * 0.5)


def test_the_clock_kit_fails_a_clock_that_hurries() -> None:
    class Broken(TestFakeClock):
        def make(self) -> Clock:
            return Hurried()

    with pytest.raises(AssertionError):
        Broken().test_a_sleep_lasts_at_least_as_long_as_asked_on_the_same_clock()


class Moody(Greedy):
    """Starts with another task each time it is asked."""

    asked: ClassVar[list[int]] = []

    def place(self, ready: Ready, fleet: list[Berth], estimates: Estimates, now_s: float) -> Placements:  # type: ignore[override]
        self.asked.append(1)
        return super().place(ready, fleet, estimates, now_s + 7.0 * len(self.asked))


class Generous(Greedy):
    """Believes that everybody is free."""

    def place(self, ready: Ready, fleet: list[Berth], estimates: Estimates, now_s: float) -> Placements:  # type: ignore[override]
        free = [Berth(one.spec, one.free + 1, one.version, one.unusable) for one in fleet]
        return super().place(ready, free, estimates, now_s)


class Deaf(Greedy):
    """Hears no refusal."""

    def place(self, ready: Ready, fleet: list[Berth], estimates: Estimates, now_s: float) -> Placements:  # type: ignore[override]
        return super().place(ready, fleet, lambda _device, _shape: Estimate(1.0), now_s)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Moody(), "test_the_same_question_gives_the_same_answer_and_changes_nothing"),
        (Generous(), "test_no_device_gets_more_than_it_can_take"),
        (Deaf(), "test_a_task_only_goes_where_it_can_be_done"),
        (Greedy(aging_s=1e12), "test_who_waits_long_enough_goes_first"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Greedy) else "",
)
def test_the_policy_kit_fails_a_policy_that_is(broken: Policy, test: str) -> None:
    class Broken(TestGreedy):
        def make(self) -> Policy:
            return broken

    with pytest.raises(AssertionError):
        getattr(Broken(), test)()

"""The fakes keep the promises that the tests of the kernel rely on."""

from __future__ import annotations

import asyncio

import pytest

from qaios.core.errors import DeviceFault, DeviceLost, JournalBroken, NotFound, OutcomeUnknown
from qaios.core.events import DeadlineMissed, ids_of
from qaios.core.values import Done, Estimate, Never, Shape, Task, Unknown
from qaios.testing.clock import FakeClock
from qaios.testing.memory import FakeAttempt, MemoryArtifacts, MemoryJournal
from qaios.testing.scripted import ScriptedDevice, Step, World


def task(name: str, action: str = "test.act", **arguments: object) -> Task:
    return Task(1, "mission", name, action, arguments)


# ── the clock ──


async def test_time_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(start_s=100.0)
    nap = asyncio.create_task(clock.sleep(5.0))
    await clock.advance(4.9)
    assert not nap.done()
    await clock.advance(0.1)
    assert nap.done()
    assert clock.now_s() == pytest.approx(105.0)


async def test_sleepers_wake_in_order_and_each_sees_its_own_time() -> None:
    clock = FakeClock(start_s=0.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, duration_s: float) -> None:
        await clock.sleep(duration_s)
        woken.append((name, clock.now_s()))
        await clock.sleep(duration_s)
        woken.append((name, clock.now_s()))

    naps = [asyncio.create_task(sleeper("slow", 3.0)), asyncio.create_task(sleeper("quick", 2.0))]
    await clock.advance(10.0)
    assert woken == [("quick", 2.0), ("slow", 3.0), ("quick", 4.0), ("slow", 6.0)]
    assert all(nap.done() for nap in naps)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = FakeClock()
    nap = asyncio.create_task(clock.sleep(5.0))
    await clock.settle()
    assert clock.sleepers == 1
    nap.cancel()
    await clock.settle()
    assert clock.sleepers == 0
    await clock.advance(10.0)


async def test_carry_moves_time_until_the_work_is_done() -> None:
    clock = FakeClock(start_s=0.0)

    async def an_hour() -> str:
        for _ in range(60):
            await clock.sleep(60.0)
        return "done"

    assert await clock.carry(an_hour()) == "done"
    assert clock.now_s() == 3600.0


async def test_carry_waits_for_work_that_does_not_sleep() -> None:
    clock = FakeClock(start_s=0.0)

    async def work() -> float:
        await asyncio.to_thread(lambda: None)
        await clock.sleep(1.0)
        return clock.now_s()

    assert await clock.carry(work()) == 1.0


# ── the journal and the store ──


def event(number: int) -> DeadlineMissed:
    return DeadlineMissed(at_s=float(number), ids=ids_of(number))


async def test_the_journal_gives_back_what_it_took_and_numbers_its_blocks() -> None:
    journal = MemoryJournal()
    assert [await journal.append([event(n)]) for n in (1, 2)] == [1, 2]
    assert [(sequence, [e.at_s for e in events]) for sequence, events in journal.read()] == [(1, [1.0]), (2, [2.0])]
    assert [sequence for sequence, _ in journal.read(after=1)] == [2]
    assert len(MemoryJournal(journal.blocks).events) == 2


async def test_the_journal_notices_a_changed_block() -> None:
    journal = MemoryJournal()
    await journal.append([event(1)])
    await journal.append([event(2)])
    journal.tamper(1)
    with pytest.raises(JournalBroken, match="block 1"):
        list(journal.read())


async def test_the_journal_breaks_and_stalls_when_told() -> None:
    journal = MemoryJournal()
    journal.stall()
    append = asyncio.create_task(journal.append([event(1)]))
    await asyncio.sleep(0)
    assert not append.done()
    journal.flow()
    assert await append == 1
    journal.break_at = 2
    with pytest.raises(JournalBroken):
        await journal.append([event(2)])
    assert len(journal.events) == 1


def test_the_store_keeps_content_once_and_notices_rot() -> None:
    store = MemoryArtifacts()
    first, second = store.put("a", b"x", "text/plain"), store.put("b", b"x", "text/plain")
    assert first.sha256 == second.sha256
    assert len(store.contents) == 1
    assert store.get(first.sha256) == b"x"
    store.corrupt(first.sha256)
    with pytest.raises(JournalBroken):
        store.get(first.sha256)
    with pytest.raises(NotFound):
        store.get("0" * 64)


# ── the scripted device ──


async def test_it_follows_its_script_attempt_by_attempt() -> None:
    clock = FakeClock()
    script = {"upload": [Step(error=DeviceFault("no link")), Step(value="receipt", duration_s=2.0)]}
    async with ScriptedDevice(clock, script=script) as device:
        attempt = FakeAttempt(clock=clock)
        with pytest.raises(DeviceFault, match="no link"):
            await device.execute(task("upload"), attempt)
        assert device.memory.effects == []
        result = await clock.carry(device.execute(task("upload"), attempt))
        assert result.value == "receipt"
        assert device.memory.effects == [attempt.key]


async def test_it_holds_a_task_until_it_is_released() -> None:
    clock = FakeClock()
    async with ScriptedDevice(clock, script={"fly": [Step(hold=True, value=1)]}) as device:
        flight = asyncio.create_task(device.execute(task("fly"), FakeAttempt()))
        await clock.advance(1000.0)
        assert not flight.done()
        device.release("fly")
        assert (await flight).value == 1


async def test_it_is_lost_in_the_middle_and_comes_back_when_opened_again() -> None:
    clock = FakeClock()
    device = ScriptedDevice(clock, script={"fly": [Step(hold=True), Step(value=2)]})
    async with device:
        flight = asyncio.create_task(device.execute(task("fly"), FakeAttempt()))
        await clock.settle()
        device.lose()
        with pytest.raises(DeviceLost):
            await flight
        with pytest.raises(DeviceLost):
            await device.execute(task("fly"), FakeAttempt())
    async with device:
        assert (await device.execute(task("fly"), FakeAttempt())).value == 2


async def test_it_remembers_across_a_crash_what_it_did() -> None:
    clock, world = FakeClock(), World()
    script = {"lost": [Step(error=OutcomeUnknown("sent, no answer"), effect_before_error=True)]}
    async with ScriptedDevice(clock, memory=world, script=script) as device:
        await device.execute(task("one"), FakeAttempt("one"))
        with pytest.raises(OutcomeUnknown):
            await device.execute(task("lost"), FakeAttempt("lost"))
    after = ScriptedDevice(clock, memory=world)
    assert isinstance(await after.recall("one"), Done)
    assert isinstance(await after.recall("lost"), Unknown)
    assert isinstance(await after.recall("three"), Never)
    assert world.effects == ["one", "lost"]


async def test_it_estimates_by_the_version_of_its_status() -> None:
    device = ScriptedDevice(FakeClock())
    shapes, before = [Shape("test.act", {})], device.status()
    device.revise(Estimate(duration_s=9.0), refuse={"test.compute": "too hot"})
    assert device.estimate(shapes, before)[0].duration_s == 1.0
    assert device.estimate(shapes, device.status())[0].duration_s == 9.0
    assert device.estimate([Shape("test.compute", {})], device.status())[0].refusal == "too hot"

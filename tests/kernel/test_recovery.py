"""The kernel dies and comes back: what was acknowledged is there, and effects happen at most once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qaios.contracts import Attempt, Device
from qaios.core import events as ev
from qaios.core.errors import DeviceFault
from qaios.core.values import Done, Never, Recall, Result, Running, Task, TaskSpec, TaskState, Unknown
from qaios.testing.clock import FakeClock
from qaios.testing.memory import MemoryJournal
from qaios.testing.scripted import ScriptedDevice, Step, World

from .bench import Bench, act, bench, compute


async def crashed(clock: FakeClock, device: Device, *tasks: TaskSpec, running: str = "a") -> MemoryJournal:
    """A journal as a kernel leaves it that died while `running` was on its device."""
    journal = MemoryJournal()
    node = Bench(clock, journal, (device,), ())
    await node.boot()
    await node.submit(*tasks)
    await node.until(running, TaskState.RUNNING)
    await clock.settle()
    await node.crash()
    return MemoryJournal(journal.blocks)


class Answering(ScriptedDevice):
    """Recalls what a test tells it to."""

    answer: Recall | Exception | None = None
    asked: tuple[str, ...] = ()

    async def recall(self, key: str) -> Recall:
        self.asked = (*self.asked, key)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or await super().recall(key)


@pytest.mark.parametrize(
    ("answer", "state", "effects", "value"),
    [
        (Done(Result("before the crash")), TaskState.DONE, 0, "before the crash"),
        (Never(), TaskState.DONE, 1, "again"),
        (Running("joined"), TaskState.DONE, 1, "again"),
        (Unknown("no memory"), TaskState.UNKNOWN, 0, None),
        (ValueError("garbage"), TaskState.UNKNOWN, 0, None),
        (Result("not an answer"), TaskState.UNKNOWN, 0, None),
    ],
)
async def test_after_a_crash_an_effect_is_recalled_before_anything_else_happens_to_it(
    answer: Any, state: TaskState, effects: int, value: Any
) -> None:
    clock, world = FakeClock(), World()
    hanging = ScriptedDevice(clock, default=Step(hold=True), memory=world)
    journal = await crashed(clock, hanging, act("a"), act("b", needs=("a",)))
    device = Answering(clock, default=Step(value="again"), memory=world)
    device.answer = answer
    async with bench(device, clock=clock, journal=journal) as node:
        await node.through("m-1")
        assert node.state("a") is state
        assert device.asked == ("bench/m-1/a",)
        assert sum(key.endswith("/a") for key in world.effects) == effects
        assert node.kernel.machine.epoch == 2
        if state is TaskState.DONE:
            assert node.value("a") == value
            assert node.state("b") is TaskState.DONE
        else:
            assert node.state("b") is TaskState.WAITING


async def test_an_effect_whose_device_cannot_be_asked_for_long_is_unknown_and_not_run_elsewhere() -> None:
    clock = FakeClock()
    journal = await crashed(clock, ScriptedDevice(clock, default=Step(hold=True)), act("a"))
    device, spare = ScriptedDevice(clock), ScriptedDevice(clock, name="spare")
    device.open_error = DeviceFault("no link")
    async with bench(device, spare, clock=clock, journal=journal) as node:
        await node.through("m-1")
        assert node.state("a") is TaskState.UNKNOWN
        assert "cannot be asked" in node.reason("a")
        assert spare.order == []


async def test_a_device_that_needs_a_moment_after_the_crash_is_waited_for() -> None:
    clock, world = FakeClock(), World()
    journal = await crashed(clock, ScriptedDevice(clock, default=Step(hold=True), memory=world), act("a"))
    device = ScriptedDevice(clock, memory=world)
    device.open_error = DeviceFault("no link yet")
    async with bench(device, clock=clock, journal=journal) as node:
        await clock.advance(3.0)
        device.open_error = None
        await node.through("m-1")
        assert node.state("a") is TaskState.DONE


async def test_an_effect_on_a_device_this_node_no_longer_has_is_unknown() -> None:
    clock = FakeClock()
    journal = await crashed(clock, ScriptedDevice(clock, default=Step(hold=True)), act("a"))
    async with bench(ScriptedDevice(clock, name="another"), clock=clock, journal=journal) as node:
        await node.through("m-1")
        assert node.state("a") is TaskState.UNKNOWN
        assert "no longer has the device" in node.reason("a")


async def test_what_may_run_again_runs_again_and_it_does_not_count_as_a_try() -> None:
    clock = FakeClock()
    slow = ScriptedDevice(clock, default=Step(duration_s=50.0))
    journal = await crashed(clock, slow, compute("a"), running="a")
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:
        await node.through("m-1")
        assert node.state("a") is TaskState.DONE
        assert node.kernel.machine.tries[node.id("a")] == 1
        assert any(isinstance(event, ev.AttemptsLost) for event in journal.events)


async def test_a_cancellation_during_the_recall_waits_for_the_devices_answer() -> None:
    clock, world = FakeClock(), World()
    journal = await crashed(clock, ScriptedDevice(clock, default=Step(hold=True), memory=world), act("a"))
    gate = asyncio.Event()

    class Slow(ScriptedDevice):
        async def recall(self, key: str) -> Recall:
            await gate.wait()
            return Running()

    device = Slow(clock, default=Step(hold=True), memory=world)
    async with bench(device, clock=clock, journal=journal) as node:
        await node.kernel.cancel("m-1", None, by="ada")
        await clock.settle()
        assert node.state("a") is TaskState.CANCELLING
        gate.set()
        await node.through("m-1")
        assert node.state("a") is TaskState.CANCELLED
        assert not world.effects


async def test_a_recalled_result_that_adds_tasks_adds_them_once() -> None:
    clock = FakeClock()
    journal = await crashed(clock, ScriptedDevice(clock, default=Step(hold=True)), act("a"), act("b", needs=("a",)))
    device = Answering(clock)
    device.answer = Done(Result(1, spawn=(act("leg"),)))
    async with bench(device, clock=clock, journal=journal) as node:
        await node.through("m-1")
        assert node.states() == {"a": "DONE", "b": "DONE", "leg": "DONE"}
        assert device.order == ["leg", "b"]


async def test_a_repair_that_was_under_way_is_asked_for_again_or_refused_without_its_planner() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    await journal.append([ev.KernelBooted(at_s=0.0, epoch=1, node="bench", version="")])
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:
        await node.submit(act("a", device="nowhere"), act("b"))
        await node.kernel.cancel("m-1", "b", by="ada")
    lost = MemoryJournal()
    for _, events in journal.read():
        kept = [event for event in events if not isinstance(event, (ev.TasksRerouted, ev.MissionEnded))]
        if kept:
            await lost.append(kept)
    repair = ev.TasksRerouted(at_s=1.0, ids=ev.ids_of(0), reason="gone", fallback=False, repair=True)
    await lost.append([repair])
    async with bench(ScriptedDevice(clock), clock=clock, journal=lost) as node:
        await node.through("m-1")
        assert node.state("a") is TaskState.FAILED
        assert "no planner of this node knows test.act" in node.reason("a")


async def test_a_mission_whose_end_was_not_told_before_the_crash_is_told_after_it() -> None:
    clock, journal = FakeClock(), MemoryJournal()
    async with bench(ScriptedDevice(clock), clock=clock, journal=journal) as node:
        await node.done(act("a"))
    told = next(n for n, events in journal.read() if any(isinstance(one, ev.MissionEnded) for one in events))
    async with bench(ScriptedDevice(clock), clock=clock, journal=MemoryJournal(journal.blocks[: told - 1])) as node:
        await node.through("m-1")
        assert node.kernel.machine.record("m-1").told


async def test_a_crash_at_every_block_of_a_mission_loses_nothing_and_doubles_nothing() -> None:
    """Every prefix of the journal is a crash: from each the mission comes to the same end."""
    clock, world = FakeClock(), World()
    script = {
        "scan": [Step(duration_s=1.0, value=3, spawn=(act("leg"),))],
        "b": [Step(error=DeviceFault("no")), Step()],
    }
    journal = MemoryJournal()
    async with bench(ScriptedDevice(clock, script=script, memory=world), clock=clock, journal=journal) as node:
        await node.done(act("scan"), act("b"), compute("c"), act("sum", needs=("scan", "b")))
        ended = node.states()
    first = next(n for n, events in journal.read() if any(isinstance(one, ev.MissionSubmitted) for one in events))
    for length in range(first, len(journal.blocks) + 1):
        again = MemoryJournal(journal.blocks[:length])
        async with bench(ScriptedDevice(clock, script=script, memory=world), clock=clock, journal=again) as node:
            await node.through("m-1")
            assert node.states() == ended, f"after a crash behind block {length}"
    single = [key for key in world.effects if "/test.compute" not in key and not key.rpartition("/")[2].isdigit()]
    assert sorted(single) == sorted(set(single)), "an effect happened twice"


class Watching(ScriptedDevice):
    """Notes whether the attempt it was cancelled in was leaving."""

    left: bool | None = None

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        try:
            return await super().execute(task, attempt)
        except asyncio.CancelledError:
            self.left = attempt.leaving
            raise


@pytest.mark.parametrize("closing", [True, False])
async def test_a_device_is_told_whether_it_is_let_go_or_stopped(closing: bool) -> None:
    clock = FakeClock()
    device = Watching(clock, default=Step(duration_s=100.0))
    node = Bench(clock, MemoryJournal(), (device,), ())
    await node.boot()
    await node.submit(act("a"))
    await node.until("a", TaskState.RUNNING)
    await clock.settle()
    if closing:
        await node.kernel.close()
    else:
        await node.kernel.cancel("m-1", None, by="test")
        await clock.settle()
    assert device.left is closing

"""The conformance kit for devices: inherit it, write a few methods, get the promises of `Device` as tests.

    class TestMyDevice(DeviceKit):
        lacks = {"unopenable": "it is always there", "slow_observe": "reading is instant", ...}

        def make(self, site): return MyDevice(MyConfig(), site)
        def task(self): return Task(1, "m", "t", "my.action", {"amount": 1})
        def slow_task(self): return Task(2, "m", "t", "my.action", {"amount": 1e9})

The tests need pytest to collect them and no plugin. `make` gives a closed device; two made for one site are the same
thing seen by two kernels, one after the other. Where a device needs something around it (a peer to talk to, a world)
`surroundings` provides it for the length of each test. A device that lives on its clock alone returns a `FakeClock`
from `clock`, and no test then takes longer than its arithmetic.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import msgspec

from qaios.contracts import BatchDevice, Clock, Device, PreparedDevice, Site
from qaios.core.errors import DeviceFault, Invalid, Refused
from qaios.core.values import (
    Batch,
    DatagramHalt,
    DeviceStatus,
    Done,
    Effect,
    HaltRecipe,
    Never,
    Reading,
    Result,
    Running,
    Shape,
    SignalHalt,
    Task,
    Unit,
    Unknown,
)
from qaios.testing.clock import FakeClock
from qaios.testing.memory import FakeAttempt, MemoryArtifacts
from qaios.testing.promise import Kit, Promise, probe, promise

T = TypeVar("T")

AT_ONCE_MAX = 8  # of a device that takes hundreds at a time, so many are tried
NO_SUCH_ACTION = "no.such_action"
ENDINGS = (DeviceFault, asyncio.CancelledError)  # how a stopped attempt may end: never with a result


class DeviceKit(Kit):
    """The promises of `contracts.Device`, one test each."""

    # A loop that stands still for longer was blocked; a busy machine alone does not do that.
    standstill_s_max: ClassVar[float] = 1.0

    # ── what the author writes ──

    def make(self, site: Site) -> Device:
        """The device, closed."""
        raise NotImplementedError

    def task(self) -> Task:
        """Something quick that succeeds."""
        raise NotImplementedError

    def bad_tasks(self) -> Sequence[Task]:
        """Tasks with wrong arguments. As it stands: without each required argument, and with one nobody knows."""
        task = self.task()
        action = self.make(self.site()).spec.action(task.action)
        assert action is not None
        wrong: list[dict[str, Any]] = [{**task.arguments, "no_such_argument": 1}]
        for missing in action.required:
            wrong.append({name: value for name, value in task.arguments.items() if name != missing})
        return [msgspec.structs.replace(task, arguments=arguments) for arguments in wrong]

    def clock(self) -> Clock:
        """The clock of the device, made once for every test: as it stands the machine's own."""
        from qaios.system.clock import SystemClock

        return SystemClock()

    def site(self) -> Site:
        """The node it runs on: the test's own clock and folder, a store in memory."""
        return Site(clock=self.time, artifacts=MemoryArtifacts(), home=str(self.home), profile="sim")

    @asynccontextmanager
    async def surroundings(self, site: Site) -> AsyncIterator[None]:
        """What must be there while the device is used."""
        yield

    async def began(self, device: Device, attempt: FakeAttempt) -> None:
        """Return when the slow task has begun on the device: as it stands, when it says progress or emits."""
        await attempt.said()

    @probe
    def slow_task(self) -> Task:
        """Something that runs until it is stopped."""
        raise NotImplementedError

    @probe
    def faulty_task(self) -> Task:
        """Something that is accepted and then fails with a `DeviceFault`."""
        raise NotImplementedError

    @probe
    def unopenable(self, site: Site) -> Device:
        """A device whose opening fails, because what it drives is not there."""
        raise NotImplementedError

    @probe
    def effects(self, device: Device) -> int:
        """How often the effect of `task` has really happened, counted in the outside world."""
        raise NotImplementedError

    @probe
    def slow_observe(self, device: Device) -> None:
        """Make the device's `observe` take for ever from now on."""
        raise NotImplementedError

    @probe
    async def unknown_key(self, site: Site) -> str:
        """Bring it about that the device cannot say what became of a key, and return the key. It is not open yet."""
        raise NotImplementedError

    @probe
    def batch(self, count: int) -> Batch:
        """So many tasks that succeed, as one batch."""
        raise NotImplementedError

    # ── known before opening ──

    @promise()
    async def test_the_spec_is_known_before_opening_and_never_changes(self) -> None:
        async with self.closed() as device:
            before = device.spec
            await self.open(device)
            during = device.spec
            await self.do(device, self.task())
            assert before == during == device.spec, "the spec changed"
            await self.close(device)
            assert device.spec == before, "the spec changed"

    @promise()
    async def test_the_spec_makes_sense(self) -> None:
        spec = self.make(self.site()).spec
        names = [action.name for action in spec.actions]
        assert spec.name and spec.driver and spec.kind, "name, driver and kind are never empty"
        assert names and len(set(names)) == len(names), "it offers actions, each once"
        assert spec.capacity >= 1, "a device takes at least one attempt at a time"
        assert spec.action(self.task().action) is not None, "`task` is something the device offers"
        for action in spec.actions:
            assert set(action.required) <= set(action.parameters), f"{action.name} requires what it does not explain"
            assert action.summary, f"{action.name} says what it does"

    @promise()
    async def test_the_status_is_there_at_any_time_and_is_plain_data(self) -> None:
        async with self.closed() as device:
            self.check_status(device.status())
            await self.open(device)
            self.check_status(device.status())
            await self.do(device, self.task())
            self.check_status(device.status())
            await self.close(device)
            self.check_status(device.status())

    # ── opening and closing ──

    @promise()
    async def test_it_opens_and_closes_and_opens_again(self) -> None:
        async with self.closed() as device:
            for _ in range(2):
                assert await self.open(device) is not None, "__aenter__ returns the device"
                await self.do(device, self.task())
                await self.close(device)

    @promise()
    async def test_closing_leaves_nothing_behind(self) -> None:
        async with self.closed() as device:
            for first in (True, False):
                before = Footprint()
                await self.open(device)
                await self.do(device, self.task())
                await self.close(device)
                if not first:  # the first time imports and caches leave their own traces
                    await self.check_footprint(before)

    @promise("unopenable")
    async def test_a_failed_opening_is_a_fault_and_leaves_nothing_behind(self) -> None:
        site = self.site()
        async with self.surroundings(site):
            device = self.unopenable(site)
            for first in (True, False):
                before = Footprint()
                ending = await self.ending(device.__aenter__(), "opening")
                assert isinstance(ending, DeviceFault), f"opening what is not there gave {ending!r}, not a DeviceFault"
                self.check_status(device.status())
                if not first:
                    await self.check_footprint(before)

    @promise()
    async def test_a_closed_device_takes_no_task(self) -> None:
        async with self.closed() as device:
            ending = await self.ending(device.execute(self.task(), self.attempt()), "execute on a closed device")
            assert isinstance(ending, DeviceFault | Refused), f"a closed device gave {ending!r}"

    @promise("slow_task")
    async def test_closing_ends_what_is_running(self) -> None:
        async with self.closed() as device:
            await self.open(device)
            run = await self.begin(device, self.slow_task(), self.attempt())
            await self.close(device)
            ending = await self.ending(run, "execute after closing")
            assert isinstance(ending, ENDINGS), f"an attempt that closing cut off gave {ending!r}"

    # ── estimates ──

    @promise()
    async def test_the_same_shapes_and_status_give_the_same_estimates(self) -> None:
        async with self.closed() as device:
            status, shapes = device.status(), [self.shape(), Shape(NO_SUCH_ACTION, {})]
            early = None if hasattr(device, "prepare") else device.estimate(shapes, status)
            await self.open(device)
            await self.prepare(device, shapes)
            first = early if early is not None else device.estimate(shapes, status)
            await self.do(device, self.task())
            assert list(device.estimate(shapes, status)) == list(first), "estimates changed with the same status"
            now = device.status()
            assert list(device.estimate(shapes, now)) == list(device.estimate(shapes, now)), "estimates are not pure"

    @promise()
    async def test_an_estimate_makes_sense(self) -> None:
        async with self.opened() as device:
            await self.prepare(device, [self.shape()])
            (estimate,) = device.estimate([self.shape()], device.status())
            assert not estimate.refusal, f"`task` is refused: {estimate.refusal}"
            for name in ("duration_s", "energy_j", "cost"):
                assert math.isfinite(getattr(estimate, name)) and getattr(estimate, name) >= 0.0, name
            assert 0.0 <= estimate.fidelity <= 1.0, "a fidelity is a probability"
            assert all(isinstance(term, float | int) for term in estimate.terms.values()), "terms are numbers"

    @promise()
    async def test_a_refusal_is_an_estimate_in_its_place_and_not_an_exception(self) -> None:
        async with self.opened() as device:
            good, bad = self.shape(), Shape(NO_SUCH_ACTION, {})
            await self.prepare(device, [good, bad])
            estimates = device.estimate([good, bad, good], device.status())
            assert len(estimates) == 3, "one estimate per shape"
            assert [bool(estimate.refusal) for estimate in estimates] == [False, True, False], "in the order asked"
            for task in self.bad_tasks():
                device.estimate([Shape(task.action, task.arguments)], device.status())

    # ── executing ──

    @promise()
    async def test_it_brings_back_a_result_of_plain_data(self) -> None:
        async with self.opened() as device:
            result = await self.do(device, self.task())
            assert isinstance(result, Result), f"execute returned {result!r}"
            again = msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=Result)
            assert msgspec.to_builtins(again) == msgspec.to_builtins(result), "the result does not survive the journal"

    @promise()
    async def test_progress_goes_from_0_to_1_and_chunks_are_plain_data(self) -> None:
        async with self.opened() as device:
            attempt = self.attempt()
            await self.do(device, self.task(), attempt)
            assert all(0.0 <= fraction <= 1.0 for fraction in attempt.fractions), "progress is a fraction"
            assert attempt.fractions == sorted(attempt.fractions), "progress went back"
            msgspec.msgpack.encode(attempt.chunks)

    @promise()
    async def test_an_action_it_does_not_offer_is_refused(self) -> None:
        async with self.opened() as device:
            task = msgspec.structs.replace(self.task(), action=NO_SUCH_ACTION)
            ending = await self.ending(device.execute(task, self.attempt()), "refusing")
            assert isinstance(ending, Refused), f"an unknown action gave {ending!r}, not Refused"
            assert str(ending), "a refusal says why"
            await self.do(device, self.task())

    @promise()
    async def test_wrong_arguments_are_refused_and_do_no_harm(self) -> None:
        async with self.opened() as device:
            for task in self.bad_tasks():
                ending = await self.ending(device.execute(task, self.attempt()), "refusing")
                assert isinstance(ending, Refused | Invalid), f"{dict(task.arguments)} gave {ending!r}, not Refused"
                assert str(ending), "a refusal says why"
            await self.do(device, self.task())

    @promise("faulty_task")
    async def test_a_fault_is_a_device_fault_and_the_device_goes_on(self) -> None:
        async with self.opened() as device:
            ending = await self.ending(device.execute(self.faulty_task(), self.attempt()), "failing")
            assert isinstance(ending, DeviceFault), f"a fault came as {ending!r}"
            assert str(ending), "a fault says what happened"
            await self.do(device, self.task())

    @promise()
    async def test_the_event_loop_never_stands_still(self) -> None:
        async with self.opened() as device:
            async with _Standstill() as standstill:
                await self.do(device, self.task())
                await self.within(device.observe(), "observe")
                device.status()
            assert standstill.longest_s < self.standstill_s_max, "execute or observe blocks the kernel's event loop"

    @promise("slow_task")
    async def test_it_does_as_many_at_a_time_as_it_says(self) -> None:
        async with self.opened() as device:
            count = min(device.spec.capacity, AT_ONCE_MAX)
            runs = [await self.begin(device, self.slow_task(), self.attempt()) for _ in range(count)]
            assert not any(run.done() for run in runs), f"of {count} attempts at a time some ended"
            for run in runs:
                run.cancel()
            for run in runs:
                await self.ending(run, "a cancelled attempt")

    @promise()
    async def test_the_same_key_twice_gives_the_same_result(self) -> None:
        async with self.opened() as device:
            first, joined, later = await self.same_key_three_times(device)
            assert first == joined, "the second attempt did not join the first"
            assert first == later, "a later attempt with the same key gave another result"

    @promise("effects")
    async def test_the_same_key_twice_is_one_effect(self) -> None:
        async with self.opened() as device:
            before = self.effects(device)
            await self.same_key_three_times(device)
            assert self.effects(device) - before == 1, f"one key, {self.effects(device) - before} effects"
            await self.do(device, self.task())
            assert self.effects(device) - before == 2, "another key is another effect"

    @promise()
    async def test_an_attempt_of_an_older_kernel_is_refused(self) -> None:
        async with self.opened() as device:
            action = device.spec.action(self.task().action)
            await self.do(device, self.task(), self.attempt(epoch=7))
            if action is not None and action.effect is Effect.EFFECTFUL:
                ending = await self.ending(device.execute(self.task(), self.attempt(epoch=6)), "refusing")
                assert isinstance(ending, Refused), f"an effect of an older epoch gave {ending!r}, not Refused"

    # ── stopping ──

    @promise("slow_task")
    async def test_a_cancelled_attempt_stops_and_the_device_goes_on(self) -> None:
        async with self.opened() as device:
            run = await self.begin(device, self.slow_task(), self.attempt())
            run.cancel()
            ending = await self.ending(run, "a cancelled attempt")
            assert isinstance(ending, asyncio.CancelledError), f"a cancelled attempt gave {ending!r}"
            await self.do(device, self.task())

    @promise("slow_task")
    async def test_after_cancelling_nothing_of_it_runs_on(self) -> None:
        async with self.opened() as device:
            for first in (True, False):
                before, attempt = Footprint(), self.attempt()
                run = await self.begin(device, self.slow_task(), attempt)
                run.cancel()
                await self.ending(run, "a cancelled attempt")
                recalled = await self.within(device.recall(attempt.key), "recall")
                assert not isinstance(recalled, Running | Done), f"it was cancelled, and recall says {recalled!r}"
                if not first:
                    await self.check_footprint(before)

    @promise("slow_task")
    async def test_halt_stops_what_is_running(self) -> None:
        async with self.opened() as device:
            run = await self.begin(device, self.slow_task(), self.attempt())
            await self.carry(device.halt(), "halt")
            ending = await self.ending(run, "a halted attempt")
            assert isinstance(ending, ENDINGS), f"a halted attempt gave {ending!r}"

    @promise()
    async def test_halt_never_raises_in_whatever_state(self) -> None:
        async with self.closed() as device:
            await self.carry(device.halt(), "halt before opening")
            await self.open(device)
            await self.carry(device.halt(), "halt")
            await self.carry(device.halt(), "the second halt")
            await self.close(device)
            await self.carry(device.halt(), "halt after closing")

    @promise()
    async def test_a_halted_device_works_when_it_is_opened_again(self) -> None:
        async with self.closed() as device:
            await self.open(device)
            await self.carry(device.halt(), "halt")
            await self.close(device)
            await self.open(device)
            await self.do(device, self.task())
            await self.close(device)

    @promise("slow_task")
    async def test_the_halt_recipes_are_plain_data_and_stop_it_without_the_driver(self) -> None:
        async with self.opened() as device:
            run = await self.begin(device, self.slow_task(), self.attempt())
            recipes = msgspec.json.decode(msgspec.json.encode(list(device.halt_recipes())), type=list[HaltRecipe])
            for recipe in recipes:
                _carry_out(recipe)
            if any(isinstance(recipe, SignalHalt) for recipe in recipes):
                ending = await self.ending(run, "an attempt whose process was killed")
                assert isinstance(ending, ENDINGS), f"an attempt whose process was killed gave {ending!r}"

    # ── reading ──

    @promise()
    async def test_it_can_be_read(self) -> None:
        async with self.opened() as device:
            for reading in await self.within(device.observe(), "observe"):
                assert isinstance(reading, Reading) and reading.name, f"{reading!r} is no reading"
                assert isinstance(reading.unit, Unit), f"{reading.name} has no unit"
                assert math.isfinite(reading.time_s), f"{reading.name} has no time"

    @promise("slow_task")
    async def test_reading_it_does_not_disturb_what_is_running(self) -> None:
        async with self.opened() as device:
            run = await self.begin(device, self.slow_task(), self.attempt())
            await self.within(device.observe(), "observe during execute")
            assert not run.done(), "observing ended the attempt"
            run.cancel()
            await self.ending(run, "a cancelled attempt")

    @promise("slow_observe")
    async def test_a_slow_reading_does_not_hold_up_the_work(self) -> None:
        async with self.opened() as device:
            self.slow_observe(device)
            reading = asyncio.ensure_future(device.observe())
            await asyncio.sleep(0)
            await self.do(device, self.task())
            assert not reading.done(), "`slow_observe` did not make it slow"
            reading.cancel()
            await asyncio.wait((reading,), timeout=self.patience_s)

    # ── remembering ──

    @promise()
    async def test_recall_says_never_of_a_key_it_never_saw(self) -> None:
        async with self.opened() as device:
            recalled = await self.within(device.recall("kit/mission/never"), "recall")
            assert isinstance(recalled, Never), f"of a key it never saw recall says {recalled!r}"

    @promise("slow_task")
    async def test_recall_says_running_while_it_runs(self) -> None:
        async with self.opened() as device:
            attempt = self.attempt()
            run = await self.begin(device, self.slow_task(), attempt)
            recalled = await self.within(device.recall(attempt.key), "recall")
            assert isinstance(recalled, Running | Unknown), f"of what is running recall says {recalled!r}"
            run.cancel()
            await self.ending(run, "a cancelled attempt")

    @promise()
    async def test_recall_never_lies_about_what_is_done(self) -> None:
        site = self.site()
        async with self.surroundings(site):
            device, attempt = self.make(site), self.attempt()
            await self.open(device)
            result = await self.do(device, self.task(), attempt)
            self.check_recall_of_done(device, result, await self.within(device.recall(attempt.key), "recall"))
            await self.close(device)
            after = self.make(site)  # the same thing, and a kernel that was started anew
            await self.open(after)
            self.check_recall_of_done(after, result, await self.within(after.recall(attempt.key), "recall"))
            await self.close(after)

    @promise("unknown_key")
    async def test_recall_says_unknown_when_it_cannot_say(self) -> None:
        site = self.site()
        async with self.surroundings(site):
            key = await self.unknown_key(site)
            device = self.make(site)
            await self.open(device)
            recalled = await self.within(device.recall(key), "recall")
            assert isinstance(recalled, Unknown), f"of a key nobody can know recall says {recalled!r}"
            await self.close(device)

    # ── many at a time ──

    @promise("batch")
    async def test_a_batch_gives_each_task_its_own_outcome_in_order(self) -> None:
        async with self.opened() as device:
            many = cast(BatchDevice, device)
            for count in (1, 100):
                batch = self.batch(count)
                outcome = await self.carry(many.execute_batch(batch, self.attempt()), "a batch")
                assert len(outcome.failed) == len(outcome.blobs) == count, "one outcome per task"
                assert not outcome.failed.any(), f"a batch failed: {outcome.blobs[0]!r}"
                for blob in outcome.blobs:
                    msgspec.msgpack.decode(blob, type=Result)

    @promise("batch")
    async def test_a_batch_of_an_action_it_does_not_offer_is_refused(self) -> None:
        async with self.opened() as device:
            many, batch = cast(BatchDevice, device), self.batch(2)
            batch = msgspec.structs.replace(batch, shape=Shape(NO_SUCH_ACTION, {}))
            ending = await self.ending(many.execute_batch(batch, self.attempt()), "refusing a batch")
            assert isinstance(ending, Refused), f"an unknown action gave {ending!r}, not Refused"

    @promise()
    async def test_who_takes_batches_says_so_and_who_says_so_takes_them(self) -> None:
        device = self.make(self.site())
        says = any(action.batched for action in device.spec.actions)
        assert says == hasattr(device, "execute_batch"), "`batched` and `execute_batch` go together"

    # ── the kit's own tools, also for an author's further tests ──

    def run(self, body: Promise) -> None:
        self.time = self.clock()
        super().run(body)

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[Device]:
        """A device in its surroundings, not open."""
        site = self.site()
        async with self.surroundings(site):
            yield self.make(site)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Device]:
        async with self.closed() as device:
            await self.open(device)
            try:
                yield device
            finally:
                await self.close(device)

    async def open(self, device: Device) -> Device:
        return await self.carry(device.__aenter__(), "opening")

    async def close(self, device: Device) -> None:
        await self.carry(device.__aexit__(None, None, None), "closing")

    def attempt(self, *, epoch: int = 1) -> FakeAttempt:
        """One with a key of its own."""
        return FakeAttempt(f"kit/mission/{next(_numbers)}", epoch=epoch, clock=self.time)

    def shape(self) -> Shape:
        task = self.task()
        return Shape(task.action, task.arguments, task.mode)

    async def prepare(self, device: Device, shapes: Sequence[Shape]) -> None:
        if hasattr(device, "prepare"):
            await self.carry(cast(PreparedDevice, device).prepare(shapes), "prepare")

    async def do(self, device: Device, task: Task, attempt: FakeAttempt | None = None) -> Result:
        return await self.carry(device.execute(task, attempt or self.attempt()), f"execute of {task.action}")

    async def begin(self, device: Device, task: Task, attempt: FakeAttempt) -> asyncio.Task[Result]:
        """Start it and return once it has begun."""
        run = asyncio.ensure_future(device.execute(task, attempt))
        word = asyncio.ensure_future(self.began(device, attempt))
        await asyncio.wait((run, word), timeout=self.patience_s, return_when=asyncio.FIRST_COMPLETED)
        begun = word.done()
        word.cancel()
        assert begun, (
            f"the slow task ended at once: {await self.ending(run, 'it')!r}"
            if run.done()
            else f"the slow task did not begin within {self.patience_s} s"
        )
        return run

    async def same_key_three_times(self, device: Device) -> tuple[Result, Result, Result]:
        key = self.attempt().key
        attempts = [FakeAttempt(key, clock=self.time) for _ in range(3)]
        together = [asyncio.ensure_future(device.execute(self.task(), attempt)) for attempt in attempts[:2]]
        await self.carry(asyncio.wait(together), "two attempts with one key")
        first, joined = (run.result() for run in together)
        return first, joined, await self.do(device, self.task(), attempts[2])

    async def carry(self, awaitable: Awaitable[T], what: str) -> T:
        """Its result, moving a `FakeClock` on meanwhile."""
        if isinstance(self.time, FakeClock):
            return await self.within(self.time.carry(awaitable), what)
        return await self.within(awaitable, what)

    async def ending(self, awaitable: Awaitable[Any], what: str) -> Any:
        """What came of it: its result, or the exception it ended with."""
        run = asyncio.ensure_future(awaitable)
        await self.carry(asyncio.wait((run,)), what)
        return asyncio.CancelledError() if run.cancelled() else run.exception() or run.result()

    def check_status(self, status: DeviceStatus) -> None:
        assert isinstance(status, DeviceStatus), f"status gave {status!r}"
        assert status.version >= 0, "versions count from 0"
        msgspec.msgpack.encode(status)

    def check_recall_of_done(self, device: Device, result: Result, recalled: Any) -> None:
        action = device.spec.action(self.task().action)
        assert action is not None
        allowed = (Done, Unknown) if action.effect is Effect.EFFECTFUL else (Done, Unknown, Never)
        assert isinstance(recalled, allowed), f"it is done, and recall says {recalled!r}"
        if isinstance(recalled, Done):
            assert msgspec.to_builtins(recalled.result) == msgspec.to_builtins(result), "recall tells another result"

    async def check_footprint(self, before: Footprint) -> None:
        """What is there now and was not before has a while to go."""
        for _ in range(min(100, int(self.patience_s / 0.02))):
            if not Footprint().beyond(before):
                break
            await asyncio.sleep(0.02)
        left = Footprint().beyond(before)
        assert not left, f"left behind: {left}"


_numbers = itertools.count(1)


class Footprint:
    """What this process holds: asyncio tasks, open files and sockets, child processes."""

    def __init__(self) -> None:
        self.tasks = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        self.files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
        self.children = {pid for path in Path("/proc/self/task").glob("*/children") for pid in _words(path)}

    def beyond(self, before: Footprint) -> str:
        """In words, what is here and was not before; "" when nothing is."""
        tasks = [task.get_name() for task in self.tasks - before.tasks if not task.done()]
        parts = [f"task {name}" for name in tasks]
        parts += [f"process {pid}" for pid in sorted(self.children - before.children)]
        if self.files > before.files:
            parts.append(f"{self.files - before.files} open files")
        return ", ".join(parts)


def _words(path: Path) -> list[str]:
    with suppress(OSError):  # the thread has ended
        return path.read_text(encoding="ascii").split()
    return []


class _Standstill:
    """Measures the longest time the event loop let nobody else run."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> _Standstill:
        self._ticker = asyncio.create_task(self._tick())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0.02)  # the last standstill counts too
        self._ticker.cancel()

    async def _tick(self) -> None:
        last_s = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now_s = time.monotonic()
            self.longest_s, last_s = max(self.longest_s, now_s - last_s), now_s


def _carry_out(recipe: HaltRecipe) -> None:
    match recipe:
        case SignalHalt(pid=pid, signal=number):
            os.kill(pid, signal.Signals(number))
        case DatagramHalt(host=host, port=port, payload=payload):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
                line.sendto(payload, (host, port))

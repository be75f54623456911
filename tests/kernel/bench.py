"""A kernel on a test bench: a clock that stands still, a journal in memory, devices that do as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from qaios.contracts import Device, Journal, Planner
from qaios.core import events as ev
from qaios.core.errors import JournalBroken
from qaios.core.values import TaskSpec, TaskState
from qaios.kernel.bus import LocalBus
from qaios.kernel.kernel import EVENTS_TOPIC, Kernel, NewMission
from qaios.kernel.policy import Greedy
from qaios.testing.clock import FakeClock
from qaios.testing.memory import MemoryArtifacts, MemoryJournal


def act(name: str, **more: Any) -> TaskSpec:
    """A task that one attempt at a time carries out, with an effect in the world."""
    return TaskSpec(name=name, action="test.act", **more)


def compute(name: str, **more: Any) -> TaskSpec:
    """A task that travels in batches and may run again."""
    return TaskSpec(name=name, action="test.compute", **more)


class Bench:
    """One kernel, its clock and its journal; `events` are those the bus showed."""

    def __init__(
        self, clock: FakeClock, journal: Journal, devices: Sequence[Device], planners: Sequence[Planner]
    ) -> None:
        self.clock, self.journal, self.devices = clock, journal, devices
        self.events: list[ev.Event] = []
        self.bus = LocalBus(lambda topic, error: None)
        self.bus.listen(EVENTS_TOPIC, self.events.extend)
        self.kernel = Kernel(
            journal=journal, devices=devices, policy=Greedy(), clock=clock, bus=self.bus, artifacts=MemoryArtifacts(),
            planners=planners, node="bench", version="test",
        )  # fmt: skip
        self.loop: asyncio.Task[None] | None = None

    async def boot(self) -> None:
        await self.kernel.recover()
        self.loop = asyncio.create_task(self.kernel.run(lambda: None))

    async def submit(self, *tasks: TaskSpec, **more: Any) -> str:
        return await self.kernel.submit(NewMission(name=more.pop("name", "m"), tasks=tasks, **more))

    async def through(self, mission: str, *, limit_s: float = 3600.0) -> None:
        """Until the mission has ended, at most `limit_s` of the clock."""

        async def late() -> None:
            await self.clock.sleep(limit_s)
            raise AssertionError(f"not over after {limit_s} s: {self.states(mission)} {self.kernel.machine.history}")

        ended, guard = asyncio.create_task(self.kernel.ended(mission)), asyncio.create_task(late())
        waits = {ended, guard, *([self.loop] if self.loop else [])}

        async def first() -> None:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()

        try:
            await self.clock.carry(first())
        finally:
            ended.cancel()
            guard.cancel()

    async def done(self, *tasks: TaskSpec, **more: Any) -> str:
        mission = await self.submit(*tasks, **more)
        await self.through(mission)
        return mission

    def id(self, task: str, mission: str = "m-1") -> int:
        return self.kernel.task_id(mission, task)

    def state(self, task: str, mission: str = "m-1") -> TaskState:
        return TaskState(self.kernel.machine.state[self.id(task, mission)])

    def states(self, mission: str = "m-1") -> dict[str, str]:
        names = self.kernel.machine.record(mission).names
        return {name: self.state(name, mission).name for name in names}

    def value(self, task: str, mission: str = "m-1") -> Any:
        result = self.kernel.machine.result(self.id(task, mission))
        assert result is not None, f"{task} has no result"
        return result.value

    def reason(self, task: str, mission: str = "m-1") -> str:
        return self.kernel.machine.reasons.get(self.id(task, mission), "")

    def history(self, task: str, mission: str = "m-1") -> list[str]:
        return self.kernel.machine.history.get(self.id(task, mission), [])

    async def until(self, task: str, state: TaskState, mission: str = "m-1", *, limit_s: float = 60.0) -> None:
        """Move the clock until the task is there."""
        end_s = self.clock.now_s() + limit_s
        while self.state(task, mission) is not state:
            assert self.clock.now_s() < end_s, f"{task} is {self.state(task, mission).name}, not {state.name}"
            await self.clock.advance(0.05)

    async def crash(self) -> None:
        """The process dies: nothing is closed, nothing is told, what was not durable is gone."""
        if isinstance(self.journal, MemoryJournal):
            self.journal.close()
        await self._stop_loop()
        self.kernel._closing = True
        for aside in tuple(self.kernel._asides):
            aside.cancel()
        await self.kernel._dispatch.close()

    async def close(self) -> None:
        await self._stop_loop()
        closing = asyncio.ensure_future(self.kernel.close())
        await self.clock.carry(closing)

    async def _stop_loop(self) -> None:
        if self.loop is None:
            return
        self.loop.cancel()
        with suppress(asyncio.CancelledError, JournalBroken):
            await self.loop


@asynccontextmanager
async def bench(
    *devices: Device,
    clock: FakeClock | None = None,
    journal: Journal | None = None,
    planners: Sequence[Planner] = (),
) -> AsyncIterator[Bench]:
    made = Bench(clock or FakeClock(), journal or MemoryJournal(), devices, planners)
    await made.boot()
    try:
        yield made
    finally:
        await made.close()

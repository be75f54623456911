"""Engines that crash come back; a broken journal does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest

from qaios.core.errors import JournalBroken
from qaios.kernel.supervisor import Supervisor
from qaios.testing.clock import FakeClock


class Acting:
    """An engine that does as told, start after start."""

    name: ClassVar[str] = "acting"

    def __init__(self, *acts: Callable[[], Awaitable[None]]) -> None:
        self.acts = list(acts)
        self.starts = 0

    async def run(self, ready: Callable[[], None]) -> None:
        self.starts += 1
        ready()
        await self.acts[min(self.starts, len(self.acts)) - 1]()


async def crash() -> None:
    raise ValueError("it broke")


async def forever() -> None:
    await asyncio.Event().wait()


def supervised(clock: FakeClock) -> tuple[Supervisor, list[tuple[str, int, float]]]:
    crashes: list[tuple[str, int, float]] = []

    async def on_crash(name: str, _error: BaseException, restarts: int, wait_s: float) -> None:
        crashes.append((name, restarts, round(wait_s, 3)))

    return Supervisor(clock, on_crash, first_s=0.1, limit_s=0.5, calm_s=60.0), crashes


async def test_a_crash_is_told_and_the_wait_doubles_up_to_its_limit() -> None:
    clock = FakeClock()
    supervisor, crashes = supervised(clock)
    engine = Acting(crash)
    running = asyncio.create_task(supervisor.run([engine]))
    await clock.advance(1.65)
    assert crashes == [
        ("acting", 1, 0.1),
        ("acting", 2, 0.2),
        ("acting", 3, 0.4),
        ("acting", 4, 0.5),
        ("acting", 5, 0.5),
    ]
    assert supervisor.records["acting"].state == "waiting"
    assert supervisor.records["acting"].reason == "ValueError: it broke"
    running.cancel()


async def test_an_engine_that_served_calmly_is_forgiven_its_past() -> None:
    clock = FakeClock()
    supervisor, crashes = supervised(clock)

    async def later() -> None:
        await clock.sleep(61.0)
        raise ValueError("late")

    running = asyncio.create_task(supervisor.run([Acting(crash, crash, later, forever)]))
    await clock.advance(100.0)
    assert [wait_s for _, _, wait_s in crashes] == [0.1, 0.2, 0.1]
    assert supervisor.records["acting"].state == "serving"
    running.cancel()


@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_broken_journal_is_not_survived(wrapped: bool) -> None:
    clock = FakeClock()
    supervisor, crashes = supervised(clock)

    async def break_it() -> None:
        error = JournalBroken("the disk is gone")
        raise ExceptionGroup("tasks", [error, ValueError("and more")]) if wrapped else error

    class Other(Acting):
        name = "other"

    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(supervisor.run([Acting(break_it), Other(forever)]), 10.0)
    assert caught.value.subgroup(JournalBroken) is not None
    assert not crashes


async def test_an_engine_that_returns_is_over() -> None:
    clock = FakeClock()
    supervisor, crashes = supervised(clock)
    served: list[str] = []

    async def nothing() -> None:
        return

    await supervisor.run([Acting(nothing)], served.append)
    assert supervisor.records["acting"].state == "stopped"
    assert served == ["acting"]
    assert not crashes

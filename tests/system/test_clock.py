"""The node's clock changes its source under sleepers and never goes backwards."""

from __future__ import annotations

import asyncio

from qaios.core.errors import Unreachable
from qaios.system.clock import NodeClock
from qaios.testing.clock import FakeClock


class DyingClock:
    """A world that is lost while somebody sleeps on it."""

    def now_s(self) -> float:
        return 1e12

    async def sleep(self, duration_s: float) -> None:
        raise Unreachable("the world is gone")


async def test_time_never_goes_backwards_when_a_world_with_an_earlier_time_is_followed() -> None:
    clock = NodeClock()
    before_s = clock.now_s()
    clock.follow(FakeClock(start_s=5.0))
    assert clock.now_s() >= before_s


async def test_seconds_of_the_world_count_once_it_is_followed() -> None:
    clock, world = NodeClock(), FakeClock(start_s=5.0)
    clock.follow(world)
    before_s = clock.now_s()
    await world.advance(100.0)
    assert abs(clock.now_s() - before_s - 100.0) < 1e-3


async def test_a_sleeper_wakes_when_the_world_has_come_so_far() -> None:
    clock, world = NodeClock(), FakeClock(start_s=5.0)
    clock.follow(world)
    sleeper = asyncio.create_task(clock.sleep(10.0))
    await asyncio.sleep(0)
    await world.advance(9.0)
    assert not sleeper.done()
    await world.advance(2.0)
    await asyncio.wait_for(sleeper, 5)


async def test_a_sleeper_on_a_world_that_is_lost_goes_on_by_the_nodes_own_clock() -> None:
    told: list[str] = []
    clock = NodeClock(told.append)
    clock.follow(DyingClock())
    await asyncio.wait_for(clock.sleep(0.01), 5)
    assert told == ["the world is gone"]
    assert not clock.follows_world


async def test_time_goes_on_from_what_the_journal_holds() -> None:
    clock = NodeClock()
    late_s = clock.now_s() + 1000.0
    clock.not_before(late_s)
    assert clock.now_s() >= late_s

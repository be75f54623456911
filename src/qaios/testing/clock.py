"""A clock that stands still until a test moves it.

    clock = FakeClock()
    nap = asyncio.create_task(clock.sleep(5.0))
    await clock.advance(5.0)          # wakes whoever slept until then, in order, and lets them run

`carry(awaitable)` moves the clock from sleeper to sleeper until the awaitable is done: an hour of a fleet in
milliseconds, in the same order every time. The clock sees only what sleeps on it: work in threads or other
processes takes no time here, and is waited for only where nobody sleeps.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

SETTLE_ROUNDS = 40  # turns of the event loop that woken tasks are given before time moves on


class FakeClock:
    """Implements `Clock`."""

    def __init__(self, start_s: float = 1_800_000_000.0) -> None:
        self._now_s = start_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._arrival = asyncio.Event()

    def now_s(self) -> float:
        return self._now_s

    async def sleep(self, duration_s: float) -> None:
        if duration_s <= 0.0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + duration_s, next(self._order), woken))
        self._arrival.set()
        await woken

    @property
    def sleepers(self) -> int:
        """How many wait on this clock."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def settle(self) -> None:
        """Let every task that can run, run, without moving the clock."""
        for _ in range(SETTLE_ROUNDS):
            await asyncio.sleep(0)

    async def advance(self, duration_s: float) -> None:
        """Move time on, stopping at each sleeper on the way."""
        end_s = self._now_s + duration_s
        await self.settle()
        while (wake_s := self._next_wake_s()) is not None and wake_s <= end_s:
            await self._move_to(wake_s)
        self._now_s = end_s
        await self.settle()

    async def carry(self, awaitable: Awaitable[T]) -> T:
        """Move time on from sleeper to sleeper until the awaitable is done; return what it returns."""
        task = asyncio.ensure_future(awaitable)
        try:
            await self.settle()
            while not task.done():
                if (wake_s := self._next_wake_s()) is not None:
                    await self._move_to(wake_s)
                    continue
                self._arrival.clear()
                arrival = asyncio.create_task(self._arrival.wait())
                await asyncio.wait((task, arrival), return_when=asyncio.FIRST_COMPLETED)
                arrival.cancel()
                await self.settle()
        finally:
            task.cancel()
        return await task

    def _next_wake_s(self) -> float | None:
        while self._sleepers and self._sleepers[0][2].done():  # cancelled in its sleep
            heapq.heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    async def _move_to(self, wake_s: float) -> None:
        self._now_s = max(self._now_s, wake_s)
        while (due_s := self._next_wake_s()) is not None and due_s <= self._now_s:
            heapq.heappop(self._sleepers)[2].set_result(None)
        await self.settle()

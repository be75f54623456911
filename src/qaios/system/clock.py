"""The node's clock: the machine's own, or the simulated world's when there is one.

In the simulation profile the world's time is the time of missions, heartbeats and timeouts. The world is another
process that may start later than the node and may die before it, so the node's clock changes its source while
sleepers sleep: it never goes backwards, and nobody is left sleeping on a world that is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from qaios.contracts import Clock
from qaios.core.errors import Unreachable


class SystemClock:
    """The machine's clock: monotonic, set to the Unix epoch once."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now_s(self) -> float:
        return time.monotonic() + self._offset_s

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(max(0.0, duration_s))


class NodeClock:
    """One clock for the whole node. `on_loss` is told when the world it followed is gone."""

    def __init__(self, on_loss: Callable[[str], None] = lambda _why: None) -> None:
        self._own = SystemClock()
        self._source: Clock = self._own
        self._offset_s = 0.0
        self._latest_s = 0.0
        self._on_loss = on_loss

    @property
    def follows_world(self) -> bool:
        return self._source is not self._own

    def now_s(self) -> float:
        self._latest_s = max(self._latest_s, self._source.now_s() + self._offset_s)
        return self._latest_s

    def not_before(self, time_s: float) -> None:
        """Times up to here are in the journal: go on from there."""
        self._latest_s = max(self._latest_s, time_s)
        self._offset_s = max(self._offset_s, time_s - self._source.now_s())

    def follow(self, source: Clock) -> None:
        """From now on this source's seconds count."""
        now_s = self.now_s()
        self._source = source
        self._offset_s = max(0.0, now_s - source.now_s())

    def unfollow(self) -> None:
        if self.follows_world:
            self.follow(self._own)

    async def sleep(self, duration_s: float) -> None:
        until_s = self.now_s() + duration_s
        while (left_s := until_s - self.now_s()) > 0:
            source = self._source
            try:
                await source.sleep(left_s)
            except Unreachable as error:
                if source is self._source:
                    self.unfollow()
                    self._on_loss(str(error))
        if duration_s <= 0:
            await asyncio.sleep(0)

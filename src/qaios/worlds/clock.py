"""World time as a `contracts.Clock`.

A kernel that flies in a simulated world lives by that world's time. `WorldClock` holds a clock connection: the
world sends a tick per barrier, the clock wakes who is due and acks the tick only after the woken have had their
turn of the loop, so that world time never runs away from the kernel. While somebody `hold()`s, ticks are not
acked and the world stands still a moment later.

When the world goes away every sleeper, and everyone who sleeps later, gets `Unreachable`; nothing hangs.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from qaios.core.errors import Denied, Invalid, Unreachable
from qaios.worlds import wire

TURNS_PER_TICK = 4  # passes of the loop between waking and acking
CONNECT_TIMEOUT_S = 10.0
PACE_DEBT_S = 0.5


async def open_connection(
    host: str, port: int, token: str, role: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, wire.Welcome]:
    """Join the world at `host`:`port`. Raises `Unreachable` when nobody answers, `Denied` when it refuses."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(wire.frame(wire.Join(role, token)))
            answer = wire.from_world(await read_body(reader))
    except (OSError, TimeoutError) as error:
        raise Unreachable(f"no world answers at {host}:{port}", hint="start one, or remove run/world.json") from error
    if isinstance(answer, wire.Welcome):
        return reader, writer, answer
    writer.close()
    raise Denied(f"the world at {host}:{port} refused: {getattr(answer, 'why', answer)}")


async def read_body(reader: asyncio.StreamReader) -> bytes:
    """One frame's body. Raises `Unreachable` at the end of the stream."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > wire.FRAME_MAX_BYTES:
            raise Invalid(f"a frame of {size} bytes from the world")
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise Unreachable("the simulated world is gone") from error


class WorldClock:
    """Get one with `async with WorldClock.connect(host, port, token) as clock`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, welcome: wire.Welcome) -> None:
        self._reader, self._writer = reader, writer
        self._epoch_s = welcome.epoch_s
        self._t_s = welcome.t_s
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()
        self._holds = 0
        self._gone: Unreachable | None = None
        self.speed_max = 0.0  # world seconds per second that acks allow; 0: as fast as the world can
        self._paced = (time.monotonic(), self._t_s)  # wall and world time of the last pace mark

    @classmethod
    @asynccontextmanager
    async def connect(cls, host: str, port: int, token: str) -> AsyncIterator[WorldClock]:
        """A running clock; disconnected (and the world back at 1x) on leaving."""
        clock = cls(*await open_connection(host, port, token, "clock"))
        listening = asyncio.create_task(clock._listen(), name="world-clock")
        try:
            yield clock
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
            clock._lose(Unreachable("the world clock is closed"))
            clock._writer.close()
            with suppress(OSError):
                await clock._writer.wait_closed()

    @property
    def alive(self) -> bool:
        """Whether the world still ticks for us."""
        return self._gone is None

    def now_s(self) -> float:
        """Unix seconds of the last tick; stands still between ticks."""
        return self._epoch_s + self._t_s

    async def sleep(self, duration_s: float) -> None:
        """Return when `duration_s` of world time has passed; after one turn of the loop when it is not positive.

        Raises `Unreachable` when the world goes away before.
        """
        if self._gone is not None:
            raise Unreachable(str(self._gone))
        if not duration_s > 0.0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._t_s + duration_s, next(self._order), future))
        await future

    @contextmanager
    def hold(self) -> Iterator[None]:
        """World time stops within a window of ticks until the block ends, however long that takes."""
        self._holds += 1
        self._ack()
        try:
            yield
        finally:
            self._holds -= 1
            self._ack()

    async def _listen(self) -> None:
        try:
            while True:
                message = wire.from_world(await read_body(self._reader))
                if isinstance(message, wire.Tick):
                    await self._tick(message.t_s)
                elif isinstance(message, wire.Denied):
                    raise Unreachable(f"the world closed the clock: {message.why}")
        except (Unreachable, Invalid, OSError) as error:
            self._lose(Unreachable(str(error)))

    async def _tick(self, t_s: float) -> None:
        self._t_s = max(self._t_s, t_s)
        # A sleep of n ticks ends at the n-th tick in spite of rounding.
        while self._sleepers and self._sleepers[0][0] <= self._t_s + 1e-6:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)
        for _ in range(TURNS_PER_TICK):
            await asyncio.sleep(0)
        await self._pace()
        if not self._holds:
            self._ack()

    async def _pace(self) -> None:
        """Ack no earlier than `speed_max` allows; what was slept too long is not caught up beyond a window."""
        wall_s, world_s = self._paced
        if self.speed_max > 0.0:
            ahead_s = (self._t_s - world_s) / self.speed_max - (time.monotonic() - wall_s)
            if ahead_s > 0.0:
                await asyncio.sleep(ahead_s)
            if ahead_s > -PACE_DEBT_S:
                return
        self._paced = (time.monotonic(), self._t_s)

    def _ack(self) -> None:
        if self._gone is None:
            self._writer.write(wire.frame(wire.Ack(self._t_s, self._holds > 0)))

    def _lose(self, why: Unreachable) -> None:
        if self._gone is None:
            self._gone = why
        for _, _, future in self._sleepers:
            if not future.done():
                future.set_exception(Unreachable(str(why)))
        self._sleepers.clear()

"""A typed client of the world's observer role: truth, stations, metrics, drills, shutdown.

Questions are answered in order on one connection; a lock keeps two askers apart. Used by the drivers of the
simulated world and by tests; a real deployment has nothing to connect to, and that is the point.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Invalid, Unreachable
from qaios.worlds import wire
from qaios.worlds.clock import open_connection, read_body

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class Observer:
    """Get one with `async with Observer.connect(host, port, token) as observer`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, welcome: wire.Welcome) -> None:
        self._reader, self._writer = reader, writer
        self.welcome = welcome
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def connect(cls, host: str, port: int, token: str) -> AsyncIterator[Observer]:
        """Raises `Unreachable` or `Denied`."""
        observer = cls(*await open_connection(host, port, token, "observer"))
        try:
            yield observer
        finally:
            observer._writer.close()
            with suppress(OSError):
                await observer._writer.wait_closed()

    async def _ask(self, question: msgspec.Struct, kind: type[AnswerT]) -> AnswerT:
        async with self._turn:
            if self._writer.is_closing():
                raise Unreachable("the connection to the simulated world is closed")
            try:
                self._writer.write(wire.frame(question))
                answer = wire.from_world(await read_body(self._reader))
            except BaseException:
                # An unread answer would be taken for the next question's.
                self._writer.close()
                raise
        if isinstance(answer, wire.Denied):
            raise Invalid(f"the world refused: {answer.why}")
        if not isinstance(answer, kind):
            raise Invalid(f"the world answered {type(answer).__name__} to {type(question).__name__}")
        return answer

    async def truth(self, grid: wire.Grid) -> NDArray[np.float64]:
        """Noise-free PM2.5 in ug/m3 on `grid`, shape (rows, columns), south first. The plume is steady."""
        answer = await self._ask(wire.AskTruth(grid), wire.Truth)
        return np.array(answer.pm25_ugm3).reshape(grid.rows, grid.columns)

    async def stations(self) -> tuple[wire.StationReading, ...]:
        """One noisy reading of every ground station; asking draws new noise."""
        return (await self._ask(wire.AskStations(), wire.Stations)).readings

    async def metrics(self) -> wire.Metrics:
        return await self._ask(wire.AskMetrics(), wire.Metrics)

    async def arm_drill(self, key: str, from_s: float, to_s: float) -> wire.Drill:
        """Kill one flying vehicle `from_s` to `to_s` world seconds from now. Raises `Invalid` for a bad window."""
        drill = await self._ask(wire.ArmDrill(key, from_s, to_s), wire.Drill)
        if drill.state == "refused":
            raise Invalid(f"a drill from {from_s:g} to {to_s:g} s: give 0 <= from <= to")
        return drill

    async def disarm_drill(self, key: str) -> wire.Drill:
        return await self._ask(wire.DisarmDrill(key), wire.Drill)

    async def drill(self, key: str) -> wire.Drill:
        """Where a drill stands; state `never` for a key this world has not seen."""
        return await self._ask(wire.AskDrill(key), wire.Drill)

    async def shutdown(self) -> None:
        """End the world and its vehicles; returns when its connection is gone."""
        async with self._turn:
            self._writer.write(wire.frame(wire.Shutdown()))
            with suppress(OSError):
                await self._writer.drain()
                await self._reader.read()

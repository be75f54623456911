"""Keeps engines running: one that crashes is started again with back-off, and the crash is an event.

`run` owns every engine it starts and ends with them. A crash is told to `on_crash` before the wait, so that it is
journaled even if the machine goes down during it. An engine that served for `calm_s` is forgiven its past.
`JournalBroken` is never survived: going on without a journal would lose what was acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from qaios.contracts import Clock, Engine
from qaios.core.errors import JournalBroken

OnCrash = Callable[[str, BaseException, int, float], Awaitable[None]]


@dataclass(slots=True)
class EngineRecord:
    """How one engine is doing."""

    name: str
    state: str = "starting"  # starting, serving, waiting, stopped
    restarts: int = 0
    reason: str = ""


class Supervisor:
    """Runs engines until cancelled. Time to the next start doubles from `first_s` up to `limit_s`."""

    def __init__(
        self, clock: Clock, on_crash: OnCrash, *, first_s: float = 0.1, limit_s: float = 30.0, calm_s: float = 60.0
    ) -> None:
        self._clock = clock
        self._on_crash = on_crash
        self._first_s, self._limit_s, self._calm_s = first_s, limit_s, calm_s
        self.records: dict[str, EngineRecord] = {}

    async def run(self, engines: Sequence[Engine], on_ready: Callable[[str], None] = lambda _name: None) -> None:
        async with asyncio.TaskGroup() as group:
            for engine in engines:
                self.records[engine.name] = EngineRecord(engine.name)
                group.create_task(self._keep(engine, on_ready), name=f"engine {engine.name}")

    async def _keep(self, engine: Engine, on_ready: Callable[[str], None]) -> None:
        record, wait_s = self.records[engine.name], self._first_s
        while True:
            started_s = self._clock.now_s()

            def ready() -> None:
                record.state = "serving"
                on_ready(engine.name)

            try:
                await engine.run(ready)
                record.state = "stopped"
                return
            except JournalBroken:
                raise
            except Exception as error:
                if isinstance(error, ExceptionGroup) and error.subgroup(JournalBroken) is not None:
                    raise  # an engine with tasks of its own brings it wrapped
                if self._clock.now_s() - started_s >= self._calm_s:
                    wait_s = self._first_s
                record.restarts += 1
                record.state, record.reason = "waiting", f"{type(error).__name__}: {error}"
                await self._on_crash(engine.name, error, record.restarts, wait_s)
            await self._clock.sleep(wait_s)
            wait_s = min(self._limit_s, wait_s * 2)
            record.state = "starting"

"""Warm workers, lent one at a time.

    async with pool.borrow(path) as worker:
        value = await worker.call(...)

Workers are started when first needed and kept. A worker that once looked for modules in some folders has them
loaded for good, so it is lent again only for the same folders with the same files; otherwise it is replaced. That
way two missions may each have their own `tasks.py`, and an edited file is the one that runs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from qaios.drivers.worker import Worker

Look = tuple[tuple[str, ...], int]  # the folders searched first, and a stamp of the files in them


class Pool:
    """At most `size` workers at a time."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._places = asyncio.Semaphore(size)
        self._idle: list[tuple[Look, Worker]] = []
        self._lent: set[Worker] = set()
        self._size = size
        self._started = 0
        self.killings = 0  # how often `kill` was called: a borrower can tell a death from a murder

    @property
    def busy(self) -> int:
        return len(self._lent)

    @property
    def workers(self) -> Sequence[Worker]:
        """All that have a living child."""
        return [worker for worker in (*(worker for _, worker in self._idle), *self._lent) if worker.pid is not None]

    @asynccontextmanager
    async def borrow(self, path: Sequence[str] = ()) -> AsyncIterator[Worker]:
        """A worker that searches `path` first, for the borrower alone. Waits until one is free."""
        look = (tuple(path), _stamp(path))
        async with self._places:
            worker = await self._take(look)
            self._lent.add(worker)
            try:
                yield worker
            finally:
                self._lent.discard(worker)
                self._idle.append((look, worker))

    async def _take(self, look: Look) -> Worker:
        for index in range(len(self._idle) - 1, -1, -1):  # the warmest first
            if self._idle[index][0] == look:
                return self._idle.pop(index)[1]
        if len(self._idle) + len(self._lent) >= self._size and self._idle:
            await self._idle.pop(0)[1].stop()
        self._started += 1
        return Worker(f"{self._name}-{self._started}", path=look[0])

    def kill(self) -> None:
        """All children, now, without waiting."""
        self.killings += 1
        for worker in self.workers:
            worker.kill()

    async def stop(self) -> None:
        """All children are dead when this returns."""
        everyone = [*(worker for _, worker in self._idle), *self._lent]
        self._idle.clear()
        await asyncio.gather(*(worker.stop() for worker in everyone))


def _stamp(path: Sequence[str]) -> int:
    """Changes when a Python file directly in one of the folders does."""
    seen: list[tuple[str, int]] = []
    for folder in path:
        if not os.path.isdir(folder):  # noqa: PTH112 - once per batch; a Path object costs more than the scan
            continue
        with os.scandir(folder) as entries:
            seen.extend((entry.path, entry.stat().st_mtime_ns) for entry in entries if entry.name.endswith(".py"))
    return hash(tuple(sorted(seen)))

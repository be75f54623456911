"""Carries placed tasks to their devices and brings back what became of them.

The kernel calls `start` once a placement is durable; every attempt ends in exactly one call of the kernel's
`Outcomes`. A coroutine device gets one attempt per task; a batched action one attempt per slice, columns in,
columns out. Whatever a driver raises is turned into an outcome here and nowhere else, so that a driver's mistake
fails one task and not the kernel. Chunks and progress go the same way while the attempt runs.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol, cast
from zlib import crc32

import msgspec
import numpy as np

from qaios.contracts import Artifacts, BatchDevice, Clock, Device
from qaios.core.errors import DeviceFault, IllegalEvent, Invalid, JournalBroken, QaiError, Refused
from qaios.core.events import Blobs, Ids, ids_of
from qaios.core.values import Batch, Result, Task

_SPAWN = msgspec.msgpack.encode("spawn")  # how the word looks inside a packed result


class Outcomes(Protocol):
    """What the kernel does with an ended attempt. Each may journal, so each is awaited."""

    async def finished(self, device: str, ids: Ids, results: Blobs) -> None: ...
    async def spawned(self, device: str, task: int, result: Result) -> None: ...
    async def failed(self, device: str, ids: Ids, error: QaiError) -> None: ...
    async def cancelled(self, device: str, ids: Ids) -> None: ...
    async def emitted(self, task: int, chunk: bytes) -> None: ...
    def progressed(self, task: int, fraction: float, note: str) -> None: ...
    def freed(self, device: str) -> None: ...


@dataclass(slots=True)
class LiveAttempt:
    """The `Attempt` that a device holds."""

    key: str
    epoch: int
    clock: Clock
    random: Random
    artifacts: Artifacts
    task: int
    outcomes: Outcomes
    chunks: list[Awaitable[None]] = field(default_factory=list)

    def progress(self, fraction: float, note: str = "") -> None:
        self.outcomes.progressed(self.task, min(1.0, max(0.0, fraction)), note)

    def emit(self, chunk: Mapping[str, Any]) -> None:
        # Journaled in order of emission; `settled` waits for them, so that an outcome never overtakes its chunks.
        coming = self.outcomes.emitted(self.task, msgspec.msgpack.encode(chunk))
        self.chunks.append(asyncio.ensure_future(coming))

    async def settled(self) -> None:
        chunks, self.chunks = self.chunks, []
        await asyncio.gather(*chunks)


@dataclass(slots=True)
class _Running:
    device: str
    ids: Ids
    carrier: asyncio.Task[None]


class Dispatch:
    """All attempts under way in this kernel."""

    def __init__(self, outcomes: Outcomes, clock: Clock, artifacts: Artifacts) -> None:
        self._outcomes = outcomes
        self._clock = clock
        self._artifacts = artifacts
        self._running: dict[int, _Running] = {}
        self._carriers: set[asyncio.Task[None]] = set()
        self.on_crash: Callable[[BaseException], None] = lambda _error: None

    def attempt(self, task: int, key: str, epoch: int, seed: int) -> LiveAttempt:
        # Seeded from the mission's seed and the key without its node, so the same mission draws the same numbers.
        random = Random(seed << 32 | crc32(key.partition("/")[2].encode()))
        return LiveAttempt(key, epoch, self._clock, random, self._artifacts, task, self._outcomes)

    def start(self, device: Device, task: Task, attempt: LiveAttempt) -> None:
        self._carry(device, ids_of(task.id), self._one(device, task, attempt))

    def start_batch(self, device: Device, batch: Batch, attempt: LiveAttempt) -> None:
        self._carry(device, batch.ids, self._many(cast(BatchDevice, device), batch, attempt))

    def cancel(self, ids: Ids) -> Sequence[int]:
        """Ask the attempts of these tasks to stop; returns the tasks that have none.

        A task inside a batch cannot be taken out of it: the batch runs on and its result is dropped.
        """
        idle = []
        for task in (int(one) for one in ids):
            running = self._running.get(task)
            if running is None:
                idle.append(task)
            elif len(running.ids) == 1 or np.isin(running.ids, ids).all():
                running.carrier.cancel()
        return idle

    def running_on(self, device: str) -> list[int]:
        return [task for task, running in self._running.items() if running.device == device]

    async def close(self) -> None:
        """Leave every attempt where it is: the journal says it was under way, recovery will ask the device."""
        for carrier in self._carriers:
            carrier.cancel("closing")
        await asyncio.gather(*self._carriers, return_exceptions=True)

    def _carry(self, device: Device, ids: Ids, work: Any) -> None:
        name = device.spec.name
        carrier = asyncio.get_running_loop().create_task(work, name=f"attempt of {len(ids)} on {name}")
        for task in (int(one) for one in ids):
            self._running[task] = _Running(name, ids, carrier)
        self._carriers.add(carrier)
        carrier.add_done_callback(lambda done: self._over(done, name, ids))

    def _over(self, carrier: asyncio.Task[None], device: str, ids: Ids) -> None:
        self._carriers.discard(carrier)
        for task in (int(one) for one in ids):
            if task in self._running and self._running[task].carrier is carrier:
                del self._running[task]
        self._outcomes.freed(device)
        if not carrier.cancelled() and (error := carrier.exception()) is not None:
            self.on_crash(error)

    async def _one(self, device: Device, task: Task, attempt: LiveAttempt) -> None:
        name, ids = device.spec.name, ids_of(task.id)
        try:
            result = await device.execute(task, attempt)
            blob = msgspec.msgpack.encode(msgspec.structs.replace(result, spawn=()))
            await attempt.settled()
            if result.spawn:
                await self._outcomes.spawned(name, task.id, result)
        except asyncio.CancelledError as stop:
            if stop.args == ("closing",):
                raise
            await attempt.settled()
            await self._outcomes.cancelled(name, ids)
            return
        except JournalBroken:
            raise
        except Exception as error:  # noqa: BLE001 - a driver is not ours; this boundary converts
            await attempt.settled()
            await self._outcomes.failed(name, ids, _fault(error))
            return
        await self._outcomes.finished(name, ids, Blobs.of([blob]))

    async def _many(self, device: BatchDevice, batch: Batch, attempt: LiveAttempt) -> None:
        name = device.spec.name
        try:
            outcome = await device.execute_batch(batch, attempt)
        except asyncio.CancelledError as stop:
            if stop.args == ("closing",):
                raise
            await self._outcomes.cancelled(name, batch.ids)
            return
        except Exception as error:  # noqa: BLE001 - a driver is not ours; this boundary converts
            await self._outcomes.failed(name, batch.ids, _fault(error))
            return
        good = ~outcome.failed
        for row in (int(one) for one in np.flatnonzero(good)):
            if (
                _SPAWN in outcome.blobs[row]
                and (result := msgspec.msgpack.decode(outcome.blobs[row], type=Result)).spawn
            ):
                try:
                    await self._outcomes.spawned(name, int(batch.ids[row]), result)
                except (IllegalEvent, Invalid) as error:
                    good[row] = False
                    await self._outcomes.failed(name, batch.ids[row : row + 1], _fault(error))
        if good.any():
            blobs = outcome.blobs if good.all() else tuple(b for b, ok in zip(outcome.blobs, good, strict=True) if ok)
            await self._outcomes.finished(name, batch.ids[good], Blobs.of(blobs))
        for row in (int(one) for one in np.flatnonzero(outcome.failed)):
            reason: str = msgspec.msgpack.decode(outcome.blobs[row])
            await self._outcomes.failed(name, batch.ids[row : row + 1], DeviceFault(reason))


def _fault(error: Exception) -> QaiError:
    """Every way an attempt can fail, as one of ours."""
    if isinstance(error, (Refused, DeviceFault)):
        return error
    if isinstance(error, QaiError):
        return DeviceFault(str(error), retryable=False, hint=error.hint)
    where = traceback.extract_tb(error.__traceback__)
    place = f" at {where[-1].name}:{where[-1].lineno}" if where else ""
    return DeviceFault(f"the driver failed: {type(error).__name__}: {error}{place}", retryable=False)

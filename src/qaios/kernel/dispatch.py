"""Carries placed tasks to their devices and brings back what became of them.

The kernel calls `start` once a placement is durable; every attempt ends in exactly one call of the kernel's
`Outcomes`. A coroutine device gets one attempt per task; a batched action one attempt per slice, columns in,
columns out. Whatever a driver raises is turned into an outcome here and nowhere else, so that a driver's mistake
fails one task and not the kernel. Chunks and progress go the same way while the attempt runs. Once a device has
returned, its outcome stands: a cancellation that comes later is too late.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any, Protocol, TypeVar, cast
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from qaios.contracts import Artifacts, BatchDevice, Clock, Device
from qaios.core.errors import DeviceFault, DeviceLost, QaiError, Refused
from qaios.core.events import Blobs, Ids, ids_of
from qaios.core.values import Batch, Result, Task, TaskSpec

_T = TypeVar("_T")


class DriverMistake(DeviceFault):
    """A driver raised what its contract forbids; nobody knows what it had done by then."""


class _Spawning(msgspec.Struct):
    """As much of a packed `Result` as tells whether it adds tasks."""

    spawn: tuple[TaskSpec, ...] = ()


class Outcomes(Protocol):
    """What the kernel does with an ended attempt. Each may journal, so each is awaited."""

    async def finished(self, device: str, ids: Ids, results: Blobs) -> None: ...
    async def spawned(self, device: str, task: int, result: bytes, specs: Sequence[TaskSpec]) -> None: ...
    async def failed(self, device: str, ids: Ids, error: QaiError) -> None: ...
    async def cancelled(self, device: str, ids: Ids) -> None: ...
    async def emitted(self, task: int, chunk: bytes) -> None: ...
    def progressed(self, task: int, fraction: float, note: str) -> None: ...
    def freed(self, device: str) -> None: ...


_spawning = msgspec.msgpack.Decoder(_Spawning)
_SPAWNS_NOTHING = msgspec.msgpack.encode("spawn") + msgspec.msgpack.encode(())  # how nearly every packed `Result` ends


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
    leaving: bool = False

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
    """One carrier and the tasks it carries."""

    device: str
    ids: Ids
    attempt: LiveAttempt
    carrier: asyncio.Task[None] | None = None
    begun: bool = False  # the device has heard of it
    unwanted: bool = False  # stopped before that
    returned: bool = False  # the device has; what is left is writing it down
    lost: DeviceLost | None = None  # the kernel gave the device up


class Dispatch:
    """All attempts under way in this kernel."""

    def __init__(self, outcomes: Outcomes, clock: Clock, artifacts: Artifacts) -> None:
        self._outcomes = outcomes
        self._clock = clock
        self._artifacts = artifacts
        self._running: dict[int, _Running] = {}
        self._on: dict[str, dict[int, _Running]] = {}  # device -> first task -> what runs there, in order of start
        self._carriers: set[asyncio.Task[None]] = set()
        self._closing = False
        self.on_crash: Callable[[BaseException], None] = lambda _error: None

    def attempt(self, task: int, key: str, epoch: int, seed: int) -> LiveAttempt:
        # Seeded from the mission's seed and the key without its node, so the same mission draws the same numbers.
        random = Random(seed << 32 | crc32(key.partition("/")[2].encode()))
        return LiveAttempt(key, epoch, self._clock, random, self._artifacts, task, self._outcomes)

    def start(self, device: Device, task: Task, attempt: LiveAttempt) -> None:
        running = _Running(device.spec.name, ids_of(task.id), attempt)
        self._carry(running, self._one(running, device, task, attempt))

    def start_batch(self, device: Device, batch: Batch, attempt: LiveAttempt) -> None:
        running = _Running(device.spec.name, batch.ids, attempt)
        self._carry(running, self._many(running, cast(BatchDevice, device), batch, attempt))

    def cancel(self, ids: Ids) -> Sequence[int]:
        """Ask the attempts of these tasks to stop; returns the tasks that have none.

        A task inside a batch cannot be taken out of it: the batch runs on, and what comes of the task is recorded.
        """
        idle, asked = [], {}
        for task in ids.tolist():
            running = self._running.get(task)
            if running is None:
                idle.append(task)
            else:
                asked[int(running.ids[0])] = running
        for running in asked.values():
            if len(running.ids) == 1 or np.isin(running.ids, ids).all():
                self._stop(running)
        return idle

    def lose(self, device: str, error: DeviceLost) -> None:
        """The kernel gives a device up: its attempts are stopped and fail as lost."""
        for running in tuple(self._on.get(device, {}).values()):
            running.lost = error
            self._stop(running)

    def running_on(self, device: str, most: int) -> list[int]:
        """The first tasks of the attempts under way there, the oldest attempt first."""
        return list(islice(self._on.get(device, ()), most))

    async def close(self) -> None:
        """Leave every attempt where it is: the journal says it was under way, recovery will ask the device."""
        self._closing = True
        for running in self._running.values():
            running.attempt.leaving = True
        for carrier in self._carriers:
            carrier.cancel()
        await asyncio.gather(*self._carriers, return_exceptions=True)

    @staticmethod
    def _stop(running: _Running) -> None:
        # A carrier that has not begun would end without a word; it is told instead, and says so itself.
        if not running.begun:
            running.unwanted = True
        elif not running.returned and running.carrier is not None:
            running.carrier.cancel()

    def _carry(self, running: _Running, work: Coroutine[Any, Any, None]) -> None:
        name = f"attempt of {len(running.ids)} on {running.device}"
        carrier = running.carrier = asyncio.get_running_loop().create_task(work, name=name)
        self._running.update(dict.fromkeys(running.ids.tolist(), running))
        self._on.setdefault(running.device, {})[int(running.ids[0])] = running
        self._carriers.add(carrier)
        carrier.add_done_callback(lambda done: self._over(done, running))

    def _over(self, carrier: asyncio.Task[None], running: _Running) -> None:
        self._carriers.discard(carrier)
        for task in running.ids.tolist():
            if self._running.get(task) is running:
                del self._running[task]
        on = self._on[running.device]
        if on.get(int(running.ids[0])) is running:
            del on[int(running.ids[0])]
        self._outcomes.freed(running.device)
        if not carrier.cancelled() and (error := carrier.exception()) is not None:
            self.on_crash(error)

    async def _one(self, running: _Running, device: Device, task: Task, attempt: LiveAttempt) -> None:
        outcome = await self._tried(running, self._executed(device, task, attempt))
        await attempt.settled()
        if isinstance(outcome, QaiError):
            await self._outcomes.failed(running.device, running.ids, outcome)
        elif outcome is None:
            await self._outcomes.cancelled(running.device, running.ids)
        elif outcome[1]:
            await self._outcomes.spawned(running.device, task.id, *outcome)
        else:
            await self._outcomes.finished(running.device, running.ids, Blobs.of(outcome[:1]))

    @staticmethod
    async def _executed(device: Device, task: Task, attempt: LiveAttempt) -> tuple[bytes, Sequence[TaskSpec]]:
        # Packed here: a result that is not plain data is a mistake of the driver, as anything it raises.
        return packed(await device.execute(task, attempt))

    async def _many(self, running: _Running, device: BatchDevice, batch: Batch, attempt: LiveAttempt) -> None:
        outcome = await self._tried(running, _executed_batch(device, batch, attempt))
        await attempt.settled()
        name, ids = running.device, running.ids
        if isinstance(outcome, QaiError):
            await self._outcomes.failed(name, ids, outcome)
        elif outcome is None:
            await self._outcomes.cancelled(name, ids)
        else:
            if outcome.good.any():
                await self._outcomes.finished(name, ids[outcome.good], Blobs.of(outcome.results))
            for row, blob, specs in outcome.spawning:
                await self._outcomes.spawned(name, int(ids[row]), blob, specs)
            for (refused, reason), rows in outcome.failures.items():
                error = Refused(reason) if refused else DeviceFault(reason)
                await self._outcomes.failed(name, ids[rows], error)

    async def _tried(self, running: _Running, work: Coroutine[Any, Any, _T]) -> _T | QaiError | None:
        """What came of it: a value, an error, or None when it was stopped and the device has confirmed."""
        running.begun = True
        if running.unwanted:
            work.close()
            return running.lost
        try:
            return await work
        except asyncio.CancelledError:
            if self._closing:
                raise
            return running.lost
        except Exception as error:  # noqa: BLE001 - a driver is not ours; this boundary converts
            return running.lost or _fault(error)
        finally:
            running.returned = True


def packed(result: Result) -> tuple[bytes, Sequence[TaskSpec]]:
    """A result as it is journaled, and the tasks it adds. Raises `TypeError` or `ValueError` for what is no result."""
    specs = _spawning.decode(msgspec.msgpack.encode(result)).spawn if result.spawn else ()
    return msgspec.msgpack.encode(msgspec.structs.replace(result, spawn=())), specs


@dataclass(frozen=True, slots=True)
class _BatchEnd:
    """A batch's outcome, checked and sorted: rows that are done, rows that add tasks, rows that failed by reason."""

    good: NDArray[np.bool_]
    results: Sequence[bytes]  # of the good rows
    spawning: Sequence[tuple[int, bytes, Sequence[TaskSpec]]]
    failures: Mapping[tuple[bool, str], Sequence[int]]  # by whether they were refused, and why


async def _executed_batch(device: BatchDevice, batch: Batch, attempt: LiveAttempt) -> _BatchEnd:
    outcome = await device.execute_batch(batch, attempt)
    count = len(batch.ids)
    if len(outcome.failed) != count or len(outcome.blobs) != count:
        raise ValueError(f"{count} tasks came back as {len(outcome.failed)} outcomes and {len(outcome.blobs)} results")
    good = ~np.asarray(outcome.failed, np.bool_)
    failures: dict[tuple[bool, str], list[int]] = {}
    for row in np.flatnonzero(~good).tolist():
        said = msgspec.msgpack.decode(outcome.blobs[row])
        refused = isinstance(said, dict) and "refused" in said
        failures.setdefault((refused, str(said["refused"] if refused else said)), []).append(row)
    spawning = []
    for row in np.flatnonzero(good).tolist():
        if _SPAWNS_NOTHING not in outcome.blobs[row]:
            blob, specs = packed(msgspec.msgpack.decode(outcome.blobs[row], type=Result))
            if specs:
                spawning.append((row, blob, specs))
                good[row] = False
    results = outcome.blobs if good.all() else [outcome.blobs[row] for row in np.flatnonzero(good).tolist()]
    return _BatchEnd(good, results, spawning, failures)


def _fault(error: Exception) -> QaiError:
    """Every way an attempt can fail, as one of ours."""
    if isinstance(error, (Refused, DeviceFault)):
        return error
    if isinstance(error, QaiError):
        return DeviceFault(str(error), retryable=False, hint=error.hint)
    where = traceback.extract_tb(error.__traceback__)
    place = f" at {where[-1].name}:{where[-1].lineno}" if where else ""
    return DriverMistake(f"the driver failed: {type(error).__name__}: {error}{place}", retryable=False)

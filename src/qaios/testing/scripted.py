"""A device that does what a test tells it, and counts what happened: the kernel's sparring partner.

    device = ScriptedDevice(clock, script={
        "scan":   [Step(duration_s=3.0, value={"obstacles": 2})],
        "upload": [Step(error=DeviceFault("no link")), Step(value="receipt")],     # first attempt, second attempt
        "fly":    [Step(hold=True)],                                               # until `release("fly")`
    })

The script is by task name; attempt n takes step n, the last step again and again, and a task without a script takes
`default`. Effects are counted in `memory`, which outlives the device as the real world outlives a kernel: a second
device with the same memory is the same thing after a crash, and `recall` answers from it. It keeps every promise
of the `Device` contract, which the conformance kit checks, and so it is also the device the planted mutants are
made from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np

from qaios.contracts import Attempt, Clock
from qaios.core.errors import DeviceFault, DeviceLost, OutcomeUnknown, QaiError, Refused
from qaios.core.values import (
    ActionSpec,
    Batch,
    BatchOutcome,
    DeviceSpec,
    DeviceStatus,
    Done,
    Effect,
    Estimate,
    HaltRecipe,
    Reading,
    Recall,
    Result,
    Shape,
    Task,
    TaskSpec,
    Unit,
    Unknown,
)
from qaios.drivers.once import Once

ACT = ActionSpec(
    "test.act",
    "Does what the script says.",
    effect=Effect.EFFECTFUL,
    parameters={"amount": "how much of it, a number"},
)
COMPUTE = ActionSpec("test.compute", "Does what the script says, thousands at a time.", batched=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one attempt does. With `effect_before_error` the effect happens and is counted, then the error is raised."""

    duration_s: float = 0.0
    value: Any = None
    error: QaiError | None = None
    effect_before_error: bool = False
    chunks: tuple[Mapping[str, Any], ...] = ()  # emitted before the duration passes
    spawn: tuple[TaskSpec, ...] = ()
    hold: bool = False  # wait for `release(task name)` after the duration


@dataclass(slots=True)
class World:
    """What really happened, whoever remembers it: the part that survives a crash of the kernel."""

    effects: list[str] = field(default_factory=list)  # the key of every effect, once per time it happened
    outcomes: dict[str, Recall] = field(default_factory=dict)  # what `recall` says, by key
    attempts: dict[str, int] = field(default_factory=dict)  # by task name
    epoch: int = 0  # the newest seen; an older one is refused


class ScriptedDevice:
    """Implements `BatchDevice`."""

    def __init__(
        self,
        clock: Clock,
        *,
        name: str = "scripted",
        actions: Sequence[ActionSpec] = (ACT, COMPUTE),
        capacity: int = 1,
        script: Mapping[str, Sequence[Step]] | None = None,
        default: Step = Step(),
        estimate: Estimate = Estimate(duration_s=1.0),  # noqa: B008 - frozen
        memory: World | None = None,
    ) -> None:
        self._spec = DeviceSpec(
            name=name, driver="scripted", kind="test", actions=tuple(actions), capacity=capacity, simulated=True,
            summary="A device that does what a test tells it.",
        )  # fmt: skip
        self.clock = clock
        self.script = dict(script or {})
        self.default = default
        self.memory = memory if memory is not None else World()
        self.is_open = False
        self.is_lost = False
        self.halts = 0
        self.peak = 0  # the most attempts at a time
        self.order: list[str] = []  # task names, as they began
        self.stopped: list[str] = []  # task names, as they were cancelled
        self.batches: list[int] = []  # sizes, as they came
        self.open_error: QaiError | None = None
        self.observe_hold: asyncio.Event | None = None
        self._once = Once()
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._halting: set[str] = set()
        self._held: dict[str, asyncio.Event] = {}
        self._estimates: list[tuple[Estimate, Mapping[str, str]]] = [(estimate, {})]  # by version of the status

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    # ── what a test does to it ──

    def release(self, name: str) -> None:
        """Let a held task go on, now or when it gets there."""
        self._held.setdefault(name, asyncio.Event()).set()

    def lose(self) -> None:
        """The device is gone: what runs fails with `DeviceLost`, what comes as well."""
        self.is_lost = True
        self._stop_all()

    def revise(self, estimate: Estimate | None = None, *, refuse: Mapping[str, str] | None = None) -> None:
        """From now on it estimates like this, and refuses these actions: a new version of its status."""
        said, refusals = self._estimates[-1]
        self._estimates.append((estimate or said, dict(refuse) if refuse is not None else refusals))

    # ── the contract ──

    async def __aenter__(self) -> Self:
        if self.open_error is not None:
            raise self.open_error
        self.is_open = True
        self.is_lost = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.is_open = False
        self._stop_all()
        await self._once.close()

    def status(self) -> DeviceStatus:
        return DeviceStatus(len(self._estimates) - 1)

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        said, refusals = self._estimates[status.version]
        return [
            msgspec.structs.replace(said, refusal=self._missing(shape.action) or refusals.get(shape.action, ""))
            for shape in shapes
        ]

    def _missing(self, action: str) -> str:
        return "" if self._spec.action(action) is not None else f"{self._spec.name} does not offer {action}"

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        self._admit(task, attempt)
        known = self.memory.outcomes.get(attempt.key)
        if isinstance(known, Done):
            return known.result
        return await self._once.run(attempt.key, lambda: self._act(task, attempt))

    def _admit(self, task: Task, attempt: Attempt) -> None:
        self._ask(task.action)
        action = self._spec.action(task.action)
        if action is not None and (strange := sorted(set(task.arguments) - set(action.parameters))):
            raise Refused(f"{task.action} takes no '{strange[0]}'", hint="See the action's parameters.")
        if not isinstance(task.arguments.get("amount", 0.0), (int, float)):
            raise Refused("'amount' is not a number", hint="Give a number.")
        if attempt.epoch < self.memory.epoch:
            raise Refused(f"epoch {attempt.epoch} is over, {self.memory.epoch} has begun")
        self.memory.epoch = attempt.epoch

    def _ask(self, action: str) -> None:
        if missing := self._missing(action):
            raise Refused(missing, hint="Ask a device that does.")
        if not self.is_open:
            raise DeviceFault(f"{self._spec.name} is not open")
        if self.is_lost:
            raise DeviceLost(f"{self._spec.name} is gone")

    async def _act(self, task: Task, attempt: Attempt) -> Result:
        with self._occupied(attempt.key, task.name):
            return await self._follow(self._next_step(task.name), task, attempt)

    @contextmanager
    def _occupied(self, key: str, name: str) -> Iterator[None]:
        """One place of the capacity; turns the cancellation that `halt` or `lose` sent into the fault it is."""
        if len(self._running) >= self._spec.capacity:
            raise DeviceFault(f"{self._spec.name} takes {self._spec.capacity} at a time", retryable=False)
        mine = asyncio.current_task()
        assert mine is not None
        self._running[key] = mine
        self.peak = max(self.peak, len(self._running))
        self.order.append(name)
        try:
            yield
        except asyncio.CancelledError:
            self.stopped.append(name)
            if key not in self._halting:
                raise
            self._halting.discard(key)
            if self.is_lost:
                raise DeviceLost(f"{self._spec.name} is gone") from None
            raise DeviceFault(f"{self._spec.name} was halted") from None
        finally:
            del self._running[key]

    def _next_step(self, name: str) -> Step:
        steps = self.script.get(name, (self.default,))
        number = self.memory.attempts.get(name, 0)
        self.memory.attempts[name] = number + 1
        return steps[min(number, len(steps) - 1)]

    async def _follow(self, step: Step, task: Task, attempt: Attempt) -> Result:
        attempt.progress(0.0)
        for chunk in step.chunks:
            attempt.emit(chunk)
        await self.clock.sleep(step.duration_s)
        if step.hold:
            await self._held.setdefault(task.name, asyncio.Event()).wait()
        if step.error is None or step.effect_before_error:
            self.memory.effects.append(attempt.key)
        if step.error is not None:
            if isinstance(step.error, OutcomeUnknown):
                self.memory.outcomes[attempt.key] = Unknown(str(step.error))
            raise step.error
        attempt.progress(1.0)
        result = Result(step.value, provenance={"script": task.name}, spawn=step.spawn)
        self.memory.outcomes[attempt.key] = Done(result)
        return result

    async def execute_batch(self, batch: Batch, attempt: Attempt) -> BatchOutcome:
        """Every task of a batch takes the `default` step; `duration_s` passes once."""
        self._ask(batch.shape.action)
        with self._occupied(attempt.key, f"{len(batch.ids)} x {batch.shape.action}"):
            self.batches.append(len(batch.ids))
            await self.clock.sleep(self.default.duration_s)
            if self.default.error is not None:
                raise self.default.error
        self.memory.effects.extend(f"{attempt.key}/{number}" for number in batch.ids.tolist())
        blob = msgspec.msgpack.encode(Result(self.default.value))
        return BatchOutcome(np.zeros(len(batch.ids), np.bool_), (blob,) * len(batch.ids))

    async def halt(self) -> None:
        self.halts += 1
        self._stop_all()

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        return ()  # it has neither a process nor an address

    async def observe(self) -> Sequence[Reading]:
        if self.observe_hold is not None:
            await self.observe_hold.wait()
        return (Reading("test.running", float(len(self._running)), Unit.ONE, self.clock.now_s()),)

    async def recall(self, key: str) -> Recall:
        return self.memory.outcomes.get(key) or self._once.recall(key)

    def _stop_all(self) -> None:
        for key, running in self._running.items():
            self._halting.add(key)
            running.cancel()

"""Every contract of the house, on one page.

The kernel talks to the world only through these Protocols; drivers, journals, engines and doors implement
them and never import the kernel. They are checked statically (mypy --strict) and by the conformance kits in
`qaios.testing`, never by isinstance: a runtime-checkable Protocol accepts wrong signatures.

Duties are written at each method: who calls it, what it may raise, what it must not do.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, Self, TypeVar

from qaios.core.values import (
    Artifact,
    Batch,
    BatchOutcome,
    Decision,
    DeviceSpec,
    DeviceStatus,
    Estimate,
    HaltRecipe,
    Reading,
    Recall,
    Result,
    Shape,
    Task,
    TaskSpec,
)

if TYPE_CHECKING:
    from qaios.core.events import Event

ConfigT = TypeVar("ConfigT")


class Clock(Protocol):
    """Time, given and never taken. A simulated world, a test and replay each bring their own."""

    def now_s(self) -> float:
        """Seconds since the Unix epoch on this clock; never goes backwards."""

    async def sleep(self, duration_s: float) -> None:
        """Return when `duration_s` has passed on this clock."""


class Artifacts(Protocol):
    """The content-addressed store."""

    def put(self, name: str, content: bytes, media_type: str) -> Artifact:
        """Store durably; storing the same content twice is one artifact."""

    def get(self, sha256: str) -> bytes:
        """Raise `NotFound` when it is not here, `JournalBroken` when the content no longer matches its address."""


class Attempt(Protocol):
    """One try of one task on one device, as the device sees it."""

    @property
    def key(self) -> str:
        """The idempotency key: the same for every attempt of the same task."""

    @property
    def epoch(self) -> int:
        """Grows with every boot of the kernel; a device refuses effects of an older epoch than it has seen."""

    @property
    def clock(self) -> Clock: ...

    @property
    def random(self) -> Random:
        """Seeded from the mission's seed and the key: the same attempt draws the same numbers."""

    @property
    def artifacts(self) -> Artifacts: ...

    @property
    def leaving(self) -> bool:
        """The node is going down: being cancelled now means "let go", not "stop".

        What goes on by itself, a vehicle in the air, is left alone; the next boot asks `recall` what became of it.
        """

    def progress(self, fraction: float, note: str = "") -> None:
        """Say how far it is, 0..1. Cheap; not durable."""

    def emit(self, chunk: Mapping[str, Any]) -> None:
        """Bring back a part of the result now. Journaled: what was emitted survives the attempt's failure."""


class Device(Protocol):
    """Anything that can be given work or read. Opened with `async with`, by the fleet, once."""

    @property
    def spec(self) -> DeviceSpec:
        """Constant, and known before opening."""

    async def __aenter__(self) -> Self:
        """Open. Raises `DeviceFault` when the thing is not there; leaves nothing behind when it raises."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Close: stop what was started, within seconds, whatever state it is in."""

    def status(self) -> DeviceStatus:
        """The present state as last observed. Cheap, never blocks; works before opening."""

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        """Pure: the same shapes and status give the same estimates, before opening too. A refusal is an estimate."""

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        """Do it. Raises `Refused` (nothing was done) or `DeviceFault`.

        Called at most `capacity` times at once. The same key twice is one effect: while the first runs the second
        joins it, afterwards it returns the same result. When cancelled it stops the thing, then lets
        `CancelledError` escape; it returns only after the device has confirmed.
        """

    async def halt(self) -> None:
        """Bring the device to its safe state now. Idempotent, never raises, works during execute and when closed."""

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        """The same, as data that any process can carry out while the kernel is busy, stuck or dead."""

    async def observe(self) -> Sequence[Reading]:
        """Read it now. May be slow; must not disturb `execute`."""

    async def recall(self, key: str) -> Recall:
        """After a crash: what became of this key?"""


class PreparedDevice(Device, Protocol):
    """A device whose estimates need heavy work: done here, off the loop, and cached for `estimate`."""

    async def prepare(self, shapes: Sequence[Shape]) -> None:
        """The kernel awaits this before it places tasks of shapes it has not seen."""


class BatchDevice(Device, Protocol):
    """A device that takes thousands of tasks at a time."""

    async def execute_batch(self, batch: Batch, attempt: Attempt) -> BatchOutcome:
        """Do them all; a task's failure is its own, a fault of the device is raised."""


class Isolation(enum.StrEnum):
    INLINE = "inline"  # in the kernel's process; only for drivers that never block and import nothing heavy
    PROCESS = "process"  # the driver starts a worker process for what is heavy or may hang


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver(Generic[ConfigT]):
    """The record that makes one family of devices; an entry point in the group `qaios.drivers` names it.

    `devices` gives the devices of one configuration (a fleet of four drones is one configuration, four devices).
    `config` is a frozen dataclass whose fields all have defaults.
    `twin` gives a clock-driven double of a device; None: the twin behaves as the estimate says.
    """

    name: str
    summary: str
    config: type[ConfigT]
    devices: Callable[[ConfigT, Site], Sequence[Device]]
    isolation: Isolation = Isolation.INLINE
    twin: Callable[[str, ConfigT], Device] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What a driver may know of the node it is opened on."""

    clock: Clock
    artifacts: Artifacts
    home: str  # QAIOS_HOME: devices keep their own state under `home/devices/<name>`
    seed: int = 0
    profile: str = ""  # "sim": devices of the simulated world
    world: str = ""  # where the simulated world of this node listens, "" where there is none


@dataclass(frozen=True, slots=True)
class Ready:
    """Ready tasks, as columns in the order they became ready."""

    ids: Sequence[int]
    shapes: Sequence[int]  # index into `shape_table`
    priorities: Sequence[int]
    deadlines_s: Sequence[float]  # inf where there is none
    ready_s: Sequence[float]  # when each became ready
    excluded: Mapping[int, frozenset[str]]  # task -> devices it must not go to again
    pinned: Mapping[int, str]  # task -> the only device it may go to
    shape_table: Sequence[Shape]


@dataclass(frozen=True, slots=True)
class Berth:
    """One device of the fleet as a policy sees it."""

    spec: DeviceSpec
    free: int  # attempts it can take now
    version: int
    unusable: str = ""  # why it can take nothing at all now: lost, halted, opening
    wait_s: float = 0.0  # how long until it can take something, by the estimates of what it runs
    hopeless: bool = False  # and it is not expected back: nothing should wait for it


@dataclass(frozen=True, slots=True)
class Placement:
    """A task goes to a device; `decision` indexes `Placements.decisions`."""

    task: int
    device: str
    decision: int


@dataclass(frozen=True, slots=True)
class Placements:
    placed: Sequence[Placement]
    decisions: Sequence[Decision]
    waiting: Mapping[int, int]  # task -> decision: some device could take it, but not now
    impossible: Mapping[int, int]  # task -> decision: no device of this fleet can take it


class Policy(Protocol):
    """Pure: ready tasks x fleet -> placements. The same input gives the same answer, so `why` can ask again."""

    name: ClassVar[str]

    def place(
        self, ready: Ready, fleet: Sequence[Berth], estimates: Callable[[str, int], Estimate], now_s: float
    ) -> Placements:
        """`estimates(device, shape index)` is cached by the kernel per device version."""


class Planner(Protocol):
    """Makes tasks: from a goal, or to repair what the ladder of failure could not."""

    name: ClassVar[str]
    actions: ClassVar[frozenset[str]]  # the actions whose lost tasks it can repair

    async def repair(
        self, lost: TaskSpec, chunks: Sequence[Mapping[str, Any]], fleet: Sequence[Berth], random: Random
    ) -> Sequence[TaskSpec]:
        """Tasks that do what `lost` left undone, given what it had emitted. Empty: there is nothing left to do.

        Raises `Refused` when it cannot be repaired.
        """


class Journal(Protocol):
    """The append-only record of events. Recovery is replay."""

    async def append(self, events: Sequence[Event]) -> int:
        """Return the block's sequence number once it is durable.

        Blocks keep the order in which append was called. Raises `JournalBroken`; then the process must die.
        """

    def read(self, after: int = 0) -> Iterator[tuple[int, Sequence[Event]]]:
        """Blocks in order. Raises `JournalBroken` at a block whose hash does not follow."""

    def close(self) -> None: ...


class Engine(Protocol):
    """A supervised service: runs until cancelled; when it crashes it is started again with back-off."""

    name: ClassVar[str]

    async def run(self, ready: Callable[[], None]) -> None:
        """Call `ready()` once it serves."""


class Bus(Protocol):
    """In-process fan-out of batches."""

    def publish(self, topic: str, batch: Sequence[Any]) -> None:
        """Never blocks, never raises because of a listener."""

    def listen(self, topic: str, callback: Callable[[Sequence[Any]], None]) -> Callable[[], None]:
        """Synchronous callbacks, for engines; returns the function that stops it."""

    def subscribe(
        self, topic: str, *, batches_max: int = 256
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Any]]]:
        """A bounded queue of batches; the oldest is dropped when full, and the drop is counted."""

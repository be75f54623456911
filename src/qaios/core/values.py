"""The values that travel through the house: tasks, devices, readings, estimates, results.

All are immutable. What crosses the journal or a process border is a tagged msgspec Struct; the rest are
frozen dataclasses. Numbers carry their unit as the last word of their name. Nothing here does anything:
the verbs live in `core.machine` (state), `kernel` (time) and the drivers (the world).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Mode(enum.StrEnum):
    """Who may compute a task's answer."""

    CLASSICAL = "classical"
    ENHANCED = "enhanced"  # a quantum device helps; the named fallback is classical
    NATIVE = "native"  # needs a quantum device


class Effect(enum.StrEnum):
    """What a crash in the middle of a task means."""

    REPLAYABLE = "replayable"  # may run again
    EFFECTFUL = "effectful"  # happens at most once, or is explicitly unknown


class TaskState(enum.IntEnum):
    """Where a task is. The transitions are drawn in `core.machine`."""

    WAITING = 0  # for what it needs
    READY = 1  # for a device
    RUNNING = 2  # an attempt is on a device
    CANCELLING = 3  # asked to stop; the device has not confirmed
    REPAIRING = 4  # the ladder is exhausted; a planner is asked for tasks that do what is left
    UNKNOWN = 5  # an effect that may have happened; waits for a person or a planner
    DONE = 6
    REPAIRED = 7  # did not finish itself; the tasks that replace it do
    FAILED = 8
    CANCELLED = 9

    @property
    def ended(self) -> bool:
        return self >= TaskState.DONE

    @property
    def satisfies(self) -> bool:
        """Whether tasks that need this one may go on."""
        return self in (TaskState.DONE, TaskState.REPAIRED)


class Rung(enum.StrEnum):
    """The ladder of failure: what is tried after an attempt that did not succeed."""

    RETRY = "retry"  # the same device again
    ELSEWHERE = "elsewhere"  # any device but those that failed
    FALLBACK = "fallback"  # the action named by the task
    REPAIR = "repair"  # a planner proposes tasks for what is left
    FAIL = "fail"  # the task fails, and with it whoever needs it


class MissionState(enum.StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STUCK = "unknown"  # nothing can go on until somebody says what became of an unknown effect


class DeviceState(enum.StrEnum):
    CLOSED = "closed"  # known, not opened
    OPENING = "opening"
    IDLE = "idle"
    BUSY = "busy"
    HALTED = "halted"
    LOST = "lost"


class Unit(enum.StrEnum):
    """Units of readings (UCUM spelling)."""

    ONE = "1"
    SECOND = "s"
    METRE = "m"
    METRE_PER_SECOND = "m/s"
    KELVIN = "K"
    VOLT = "V"
    AMPERE = "A"
    JOULE = "J"
    WATT = "W"
    HERTZ = "Hz"
    DEGREE = "deg"
    BYTE = "By"
    MICROGRAM_PER_CUBIC_METRE = "ug/m3"


class Reading(msgspec.Struct, frozen=True, tag="reading"):
    """One measured quantity."""

    name: str
    value: float
    unit: Unit
    time_s: float  # the clock of the node that read it
    sigma: float | None = None  # one standard deviation, same unit, where the sensor states it


class ActionSpec(msgspec.Struct, frozen=True):
    """One action a device offers, e.g. `quantum.sample`."""

    name: str
    summary: str
    effect: Effect = Effect.REPLAYABLE
    quantum: bool = False  # counts as a quantum device for `Mode.ENHANCED` and `Mode.NATIVE`
    batched: bool = False  # taken by `execute_batch`, thousands at a time
    parameters: Mapping[str, str] = {}  # name of an argument in `with:` -> its one-line meaning, with its unit
    required: tuple[str, ...] = ()  # those of `parameters` that must be given


class DeviceSpec(msgspec.Struct, frozen=True):
    """What is known of a device before it is opened."""

    name: str
    driver: str
    kind: str  # "compute", "qpu", "drone", "sensor", "model", "hub"
    actions: tuple[ActionSpec, ...]
    capacity: int = 1  # attempts at a time (a batch counts as one)
    simulated: bool = False
    summary: str = ""  # what it is; for a simulation, what of it is real data and what is a constant
    parent: str = ""  # a device carved out of another shares its capacity

    def action(self, name: str) -> ActionSpec | None:
        return next((action for action in self.actions if action.name == name), None)


class DeviceStatus(msgspec.Struct, frozen=True):
    """The moving part of a device that estimates may depend on. A new version is a new estimate."""

    version: int = 0
    alive: bool = True  # False: it was open and is no longer heard
    pid: int | None = None  # the device's own process, where it has one
    readings: tuple[Reading, ...] = ()

    def value(self, name: str) -> float | None:
        return next((reading.value for reading in self.readings if reading.name == name), None)


class Shape(msgspec.Struct, frozen=True):
    """What a task looks like to an estimator: a million tasks of ten shapes cost ten estimates a device.

    `form` holds the task's arguments as written, references to other results unresolved.
    """

    action: str
    form: Mapping[str, Any]
    mode: Mode = Mode.CLASSICAL


class Estimate(msgspec.Struct, frozen=True):
    """What one task of a shape would cost on one device in its present state."""

    duration_s: float
    fidelity: float = 1.0  # probability that the answer is right, 0..1
    energy_j: float = 0.0
    cost: float = 0.0  # money, in the unit of the fleet's price list
    refusal: str = ""  # not empty: the device will not take it, and why
    terms: Mapping[str, float] = {}  # named parts of the estimate, shown by `why`


class TaskSpec(msgspec.Struct, frozen=True):
    """A task as asked for: one entry of a mission, or one spawned by another task."""

    name: str  # unique in its mission
    action: str
    arguments: Mapping[str, Any] = {}  # may hold "${task.path}" references to results of what it needs
    needs: tuple[str, ...] = ()
    priority: int = 100  # smaller is more urgent
    deadline_s: float | None = None  # after the mission's submission
    mode: Mode = Mode.CLASSICAL
    fallback: str = ""  # the action that takes over when no device can do this one
    retries: int = 2  # further attempts after the first
    device: str = ""  # only this device, by name


class Task(msgspec.Struct, frozen=True):
    """A task as a device sees it: references resolved."""

    id: int
    mission: str
    name: str
    action: str
    arguments: Mapping[str, Any]
    mode: Mode = Mode.CLASSICAL
    deadline_s: float | None = None  # on the node's clock


class Artifact(msgspec.Struct, frozen=True, tag="artifact"):
    """A named, content-addressed result."""

    name: str
    sha256: str
    size_bytes: int
    media_type: str


class Result(msgspec.Struct, frozen=True):
    """What an attempt brings back.

    `value` is plain data (None, bool, int, float, str, bytes, list, dict); other tasks refer to it.
    `provenance` says where it comes from: simulator, calibration, method, seed.
    `spawn` are tasks to add to the mission; whoever needs this task then needs them too.
    """

    value: Any = None
    artifacts: tuple[Artifact, ...] = ()
    provenance: Mapping[str, Any] = {}
    spawn: tuple[TaskSpec, ...] = ()


class Done(msgspec.Struct, frozen=True, tag="done"):
    """`recall`: the effect of this key happened, and this came of it."""

    result: Result


class Running(msgspec.Struct, frozen=True, tag="running"):
    """`recall`: the device is at it; `execute` with the same key joins the same run."""

    handle: str = ""


class Never(msgspec.Struct, frozen=True, tag="never"):
    """`recall`: the device never began this key; it is safe to execute it."""


class Unknown(msgspec.Struct, frozen=True, tag="unknown"):
    """`recall`: the device cannot say; never re-run by itself."""

    reason: str = ""


Recall = Done | Running | Never | Unknown


class DatagramHalt(msgspec.Struct, frozen=True, tag="datagram"):
    """Halt a device by sending one ready-made datagram: needs no kernel, no driver, no import."""

    host: str
    port: int
    payload: bytes


class SignalHalt(msgspec.Struct, frozen=True, tag="signal"):
    """Halt a device by signalling its process; `started_s` (boot clock) guards against a recycled pid."""

    pid: int
    signal: int
    started_s: float = 0.0


HaltRecipe = DatagramHalt | SignalHalt


class Candidate(msgspec.Struct, frozen=True):
    """One device that could have taken a task, as scored by the policy."""

    device: str
    score: float
    terms: Mapping[str, float] = {}


class Refusal(msgspec.Struct, frozen=True):
    """One device that could not take a task, and why."""

    device: str
    reason: str


class Decision(msgspec.Struct, frozen=True):
    """Why tasks of one shape went where they went, at one fleet version, in one cycle."""

    candidates: tuple[Candidate, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    waited_for: tuple[str, ...] = ()  # what stood between being submitted and being placed, in words
    policy: str = ""
    at_s: float = 0.0


class Batch(msgspec.Struct, frozen=True):
    """Many tasks of one shape for one device: columns, no object per task."""

    ids: NDArray[np.int64]
    mission: str
    shape: Shape
    arguments: tuple[Mapping[str, Any], ...]  # one per id, or empty when all equal `shape.form`


class BatchOutcome(msgspec.Struct, frozen=True):
    """What became of a batch, in the order of its ids."""

    failed: NDArray[np.bool_]
    blobs: tuple[bytes, ...]  # msgpack of `Result`; where `failed`, of the error's text, or of {"refused": text}

"""What a node shows, as pydantic models: the rows of every door (`-o json`, HTTP, notebook).

The system fills them from the kernel's projections; doors print them and decide nothing. All times are seconds
since the Unix epoch *on the clock of the node* (in the simulation profile that is the clock of the world), so that
differences are mission time; None means "has not happened". Field names that outside scripts read are fixed by the
mission format's documentation.
"""

from __future__ import annotations

import base64
import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

_VIEW = ConfigDict(extra="forbid", ser_json_inf_nan="null")


def _jsonable(value: Any) -> Any:
    """What a task's author returned, in JSON's words: raw bytes become base64, what is not finite becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


Plain = Annotated[Any, PlainSerializer(_jsonable, when_used="json")]


class CandidateView(BaseModel):
    """A device that could have taken the task, with its score and the named terms the score is made of."""

    model_config = _VIEW

    device: str
    score: float
    terms: dict[str, float | None] = {}  # None where the term is not a finite number


class RefusalView(BaseModel):
    """A device that could not take the task, and why."""

    model_config = _VIEW

    device: str
    reason: str


class WhyView(BaseModel):
    """Why a task went where it went, or why it waits."""

    model_config = _VIEW

    candidates: list[CandidateView] = []  # best first
    refusals: list[RefusalView] = []
    waited_for: list[str] = []  # in words: "task collect", "device drone-1 (busy with scan)"
    policy: str = ""
    decided: float | None = None


class ErrorView(BaseModel):
    """What went wrong with a task or a mission."""

    model_config = _VIEW

    kind: str = ""  # the error's class name, such as DeviceLost
    message: str
    hint: str = ""


class ArtifactView(BaseModel):
    """A named, content-addressed result; `GET /v1/artifacts/{sha256}` gives its bytes."""

    model_config = _VIEW

    name: str
    sha256: str
    size_bytes: int
    media_type: str
    task: str = ""  # the task that made it


class AttemptView(BaseModel):
    """One try of a task on one device."""

    model_config = _VIEW

    number: int  # from 1
    device: str
    started: float
    ended: float | None = None
    outcome: str = ""  # "" while running, else done, failed, lost, cancelled, unknown
    error: ErrorView | None = None


class TaskView(BaseModel):
    """One task of a mission. In a plan `device` is where it would go now and nothing has happened yet."""

    model_config = _VIEW

    name: str
    action: str
    device: str = ""  # of the last attempt; "" before the first
    attempts: int = 0
    state: str  # waiting, ready, running, cancelling, done, failed, cancelled, unknown, repaired
    priority: int
    mode: str = "classical"
    needs: list[str] = []
    deadline: float | None = None
    submitted: float | None = None
    ready: float | None = None
    started: float | None = None  # of the first attempt
    ended: float | None = None
    progress: float | None = None  # 0..1 of the running attempt
    note: str = ""  # what the running attempt says of itself
    why: WhyView = Field(default_factory=WhyView)
    history: list[AttemptView] = []
    error: ErrorView | None = None
    result: Plain = None
    provenance: dict[str, Plain] = {}
    spawned_by: str = ""  # the task that asked for this one at run time
    fallback_used: bool = False  # the named fallback action ran instead


class MissionView(BaseModel):
    """A mission and, where asked for one mission, its tasks."""

    model_config = _VIEW

    id: str
    name: str
    state: str  # running, done, failed, cancelled, unknown
    goal: str = ""
    owner: str = ""
    seed: int | None = None
    submitted: float
    deadline: float | None = None
    ended: float | None = None
    simulated: bool = False  # at least one device that worked on it is simulated
    counts: dict[str, int] = {}  # task state -> how many tasks are in it
    reason: str = ""  # why it failed, "" otherwise
    tasks: list[TaskView] = []


class ReadingView(BaseModel):
    """One measured quantity, with its unit in UCUM spelling."""

    model_config = _VIEW

    name: str
    value: float | None  # None: the sensor gave no number
    unit: str
    at: float
    sigma: float | None = None


class DeviceView(BaseModel):
    """One device of the fleet."""

    model_config = _VIEW

    name: str
    driver: str
    kind: str
    state: str  # idle, busy, lost, opening, halted, closed
    simulated: bool = False
    pid: int | None = None  # the device's own process
    actions: list[str] = []
    capacity: int = 1
    running: list[str] = []  # "mission/task" of the attempts on it now
    summary: str = ""
    readings: list[ReadingView] = []
    error: str = ""  # why it is lost or closed


class EngineView(BaseModel):
    """One supervised engine of the node."""

    model_config = _VIEW

    name: str
    state: str  # starting, ready, restarting, stopped
    restarts: int = 0
    error: str = ""  # of the last crash


class NodeStatus(BaseModel):
    """A node at a glance."""

    model_config = _VIEW

    version: str
    pid: int
    profile: str = ""
    home: str
    url: str = ""
    epoch: int = 0  # grows with every boot
    started: float  # wall clock, seconds since the Unix epoch
    uptime_s: float
    boot_s: float  # from process start of boot to ready
    boot_steps_s: dict[str, float] = {}  # what of it took how long
    clock: float  # now, on the node's clock
    simulated: bool = False  # the clock and devices belong to a simulated world
    engines: list[EngineView] = []
    counts: dict[str, dict[str, int]] = {}  # "missions", "tasks", "devices" -> state -> how many
    halted: list[str] = []  # devices that were halted and not released


class EventView(BaseModel):
    """One line of what happened, as the journal has it."""

    model_config = _VIEW

    sequence: int  # grows by at least one; resume a stream with `after=sequence`
    at: float
    kind: str  # the event's type, such as TasksPlaced
    text: str  # in words
    mission: str = ""  # id, "" for events of the node
    data: dict[str, Plain] = {}


class MissionReport(BaseModel):
    """What `qai mission run -o json` prints: the mission, whole, when it has ended."""

    model_config = _VIEW

    mission: str  # the name
    id: str
    state: str
    goal: str = ""
    seed: int | None = None
    simulated: bool
    submitted: float
    ended: float | None = None
    duration_s: float | None = None
    reason: str = ""
    tasks: list[TaskView]
    artifacts: list[ArtifactView] = []
    metrics: dict[str, Plain] = {}

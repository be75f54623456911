"""What a mission document says, as pydantic models: the one schema of YAML files, the HTTP door and Python.

A file comes in through `qaios.bridge.missions`, which adds the place of every fault; a program posts the same
document as JSON; `qaios.client.notebook` builds it in Python. What goes out is `task_specs`, the values the kernel
understands, and the JSON Schema that editors complete from (`qai mission schema`).

Only what can be checked without a fleet is checked here: names, types, ranges, units. Whether the graph hangs
together and whether any device can do it is asked in `qaios.bridge.missions`.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from qaios.core.values import Mode, TaskSpec

PRIORITY_DEFAULT = 100
RETRIES_DEFAULT = 2
PRIORITY_MAX = 1_000_000
RETRIES_MAX = 100
TASKS_MAX = 1_000_000
SEED_MAX = 2**63 - 1
DURATION_MAX_S = 366 * 86400.0

SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
DURATION_PATTERN = r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|min|h|d)\s*$"
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([^\s0-9.][^\s]*)?\s*")

# A name stands inside references (`${scan.obstacles}`) and on command lines, so it has no dots, braces or spaces
# at its ends; anything else a person may want to call a task is fine.
TASK_NAME_PATTERN = r"^[^\s.${}*/\x00-\x1f\x7f]([^.${}*/\x00-\x1f\x7f]{0,118}[^\s.${}*/\x00-\x1f\x7f])?$"
MISSION_NAME_PATTERN = r"^\S([^\x00-\x1f\x7f]{0,198}\S)?$"


def duration_s(text: object) -> float:
    """Seconds of a duration such as `90 s`, `20 min` or `1.5h`.

    Raises `PydanticCustomError` (a ValueError) of the type "duration" whose context has `what` and `remedy`.
    """
    if isinstance(text, bool) or not isinstance(text, int | float | str):
        raise _wrong("a duration is a number and a unit in one string", "write for instance '90 s'")
    match = _DURATION.fullmatch(str(text))
    if match is None:
        raise _wrong(f"'{text}' is not a duration", "write for instance '90 s'")
    number, unit = match.groups()
    if unit is None:
        raise _wrong(f"the duration '{text}' has no unit", f"write for instance '{number} s'")
    if unit not in SECONDS_PER_UNIT:
        raise _wrong(f"'{unit}' is not a unit of time", f"use one of {', '.join(SECONDS_PER_UNIT)}")
    seconds = float(number) * SECONDS_PER_UNIT[unit]
    if not 0 < seconds <= DURATION_MAX_S:
        raise _wrong(f"the duration '{text}' is out of range", "give more than 0 s and at most 366 d")
    return seconds


def _wrong(what: str, remedy: str) -> PydanticCustomError:
    return PydanticCustomError("duration", "{what}, {remedy}", {"what": what, "remedy": remedy})


def duration_text(seconds: float) -> str:
    """The shortest text that `duration_s` reads back as the same seconds."""
    number = str(int(seconds)) if seconds == math.floor(seconds) else format(seconds, ".9f").rstrip("0")
    return f"{number} s"


Duration = Annotated[
    float,
    BeforeValidator(duration_s),
    PlainSerializer(duration_text, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": DURATION_PATTERN,
            "examples": ["90 s", "20 min"],
            "description": "A number and a unit (ms, s, min, h, d) in one string.",
        }
    ),
]
Priority = Annotated[int, Field(strict=True, ge=0, le=PRIORITY_MAX, description="Smaller is more urgent.")]
Retries = Annotated[int, Field(strict=True, ge=0, le=RETRIES_MAX, description="Further attempts after the first.")]
TaskName = Annotated[str, Field(pattern=TASK_NAME_PATTERN)]

_STRICT = ConfigDict(extra="forbid", frozen=True, validate_by_name=True, validate_by_alias=True)


class Defaults(BaseModel):
    """What every task of the mission gets unless it says otherwise."""

    model_config = _STRICT

    priority: Priority = PRIORITY_DEFAULT
    mode: Mode = Mode.CLASSICAL
    fallback: str = ""
    deadline: Duration | None = None
    device: str = ""
    retries: Retries = RETRIES_DEFAULT


class TaskDocument(BaseModel):
    """One entry of `tasks:`; a field left out is taken from `defaults:`."""

    model_config = _STRICT

    do: str = Field(
        min_length=1, max_length=200, description="The action, such as drone.scan; `qai devices` lists them."
    )
    needs: tuple[TaskName, ...] = Field(default=(), description="Tasks that must be done first.")
    priority: Priority | None = Field(default=None)
    mode: Mode | None = Field(default=None, description="Who may compute the answer.")
    fallback: str | None = Field(default=None, description="The action that takes over when no device can do this one.")
    deadline: Duration | None = Field(default=None, description="After the mission's submission.")
    device: str | None = Field(default=None, description="Only this device, by name.")
    retries: Retries | None = Field(default=None)
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        alias="with",
        description="Arguments of the action; '${task}' and '${task.path}' stand for results of what it needs.",
    )


class MissionDocument(BaseModel):
    """A mission: a graph of tasks submitted together."""

    model_config = ConfigDict(**_STRICT, title="QAI OS mission")

    mission: str = Field(pattern=MISSION_NAME_PATTERN, description="The mission's name.")
    goal: str = Field(default="", max_length=2000, description="What it is for, in words.")
    deadline: Duration | None = Field(default=None, description="After submission, for the mission as a whole.")
    seed: int | None = Field(default=None, strict=True, ge=0, le=SEED_MAX, description="All chance follows from it.")
    profile: str = Field(default="", pattern=r"^[a-z0-9_-]{0,40}$", description="The node profile it is written for.")
    defaults: Defaults = Field(default_factory=Defaults)
    tasks: dict[TaskName, TaskDocument] = Field(min_length=1, max_length=TASKS_MAX)


def task_specs(document: MissionDocument) -> tuple[TaskSpec, ...]:
    """The tasks as the kernel takes them, in the document's order, with defaults and the mission's deadline applied.

    A task's deadline is the earliest of its own (or the default) and the mission's.
    """
    return tuple(_spec(name, task, document) for name, task in document.tasks.items())


def _spec(name: str, task: TaskDocument, document: MissionDocument) -> TaskSpec:
    defaults = document.defaults
    own_s = task.deadline if task.deadline is not None else defaults.deadline
    deadlines_s = [deadline for deadline in (own_s, document.deadline) if deadline is not None]
    return TaskSpec(
        name=name,
        action=task.do,
        arguments=task.arguments,
        needs=task.needs,
        priority=task.priority if task.priority is not None else defaults.priority,
        deadline_s=min(deadlines_s) if deadlines_s else None,
        mode=task.mode if task.mode is not None else defaults.mode,
        fallback=task.fallback if task.fallback is not None else defaults.fallback,
        retries=task.retries if task.retries is not None else defaults.retries,
        device=task.device if task.device is not None else defaults.device,
    )


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a mission document, as shipped in `mission.schema.json`."""
    schema = MissionDocument.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

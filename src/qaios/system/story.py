"""Events in words, and as rows for every door.

The kernel's events are columns; people, logs and streams want a line. One place turns one into the other, so a
line reads the same in `qai events`, in the log and on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qaios.core import events as ev
from qaios.core.machine import Machine
from qaios.core.values import MissionState, Rung
from qaios.schema.views import EventView

_SHOWN = 4
_RUNGS = {
    Rung.RETRY: "trying again",
    Rung.ELSEWHERE: "trying another device",
    Rung.FALLBACK: "taking the fallback",
    Rung.REPAIR: "asking a planner for what is left",
    Rung.FAIL: "failed",
}


def view(sequence: int, event: ev.Event, machine: Machine) -> EventView:
    """One row. `sequence` is the event's own number, from 1, the same after every recovery."""
    words, ids = _TELL[type(event)](event, machine)
    mission = ""
    if isinstance(event, (ev.MissionSubmitted, ev.MissionEnded)):
        mission = event.mission
    elif len(ids):
        mission = machine.missions[machine.mission[int(ids[0])]].id
    return EventView(
        sequence=sequence,
        at=event.at_s,
        kind=type(event).__name__,
        text=words,
        mission=mission,
        data=_data(event, ids, machine),
    )


def _names(ids: Sequence[int], machine: Machine) -> str:
    shown = ", ".join(machine.name(int(task)) for task in ids[:_SHOWN])
    return shown if len(ids) <= _SHOWN else f"{shown} and {len(ids) - _SHOWN} more"


def _data(event: ev.Event, ids: Sequence[int], machine: Machine) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name in ("device", "devices", "reason", "rung", "by", "epoch", "state", "pid", "engine", "restarts", "lost_s"):
        value = getattr(event, name, None)
        if isinstance(value, (str, int, float)):
            data[name] = value
        elif isinstance(value, tuple):
            data[name] = list(value)
    if len(ids):
        data["tasks"] = [machine.name(int(task)) for task in ids[:100]]
        data["count"] = len(ids)
    return data


_ENDS = {
    MissionState.DONE: "is done",
    MissionState.FAILED: "failed",
    MissionState.CANCELLED: "was cancelled",
    MissionState.STUCK: "waits for a person: the outcome of a task is unknown",
}

Told = tuple[str, Sequence[int]]


def _boot(event: ev.KernelBooted, _machine: Machine) -> Told:
    return f"kernel {event.version} booted, epoch {event.epoch}", ()


def _submitted(event: ev.MissionSubmitted, _machine: Machine) -> Told:
    count = len(event.tasks.shape)
    return f"mission {event.mission} submitted: {count} task{'s' if count != 1 else ''}, seed {event.seed}", ()


def _added(event: ev.TasksAdded, machine: Machine) -> Told:
    names = [name.decode() for name in event.tasks.names]
    shown = ", ".join(names[:_SHOWN]) or "nothing"
    verb = "is repaired by" if event.repairs else "spawned"
    return f"{machine.name(event.parent)} {verb} {shown}", (event.parent,)


def _placed(event: ev.TasksPlaced, machine: Machine) -> Told:
    return f"{_names(event.ids.tolist(), machine)} → {', '.join(event.devices)}", event.ids.tolist()


def _finished(event: ev.TasksFinished, machine: Machine) -> Told:
    return f"{_names(event.ids.tolist(), machine)} done", event.ids.tolist()


def _failed(event: ev.AttemptsFailed, machine: Machine) -> Told:
    silent = f" (silent for {event.lost_s:.1f} s)" if event.lost_s is not None else ""
    return (
        f"{_names(event.ids.tolist(), machine)} on {event.device}: {event.reason}{silent}; {_RUNGS[event.rung]}",
        event.ids.tolist(),
    )


def _lost(event: ev.AttemptsLost, machine: Machine) -> Told:
    return f"{_names(event.ids.tolist(), machine)} will run again: {event.reason}", event.ids.tolist()


def _unknown(event: ev.AttemptsUnknown, machine: Machine) -> Told:
    names = _names(event.ids.tolist(), machine)
    return f"{names} on {event.device}: nobody knows whether it happened: {event.reason}", event.ids.tolist()


def _resolved(event: ev.UnknownResolved, machine: Machine) -> Told:
    verdict = "it happened" if event.happened else "it did not happen"
    return f"{_names(event.ids.tolist(), machine)}: {event.by} says {verdict}", event.ids.tolist()


def _repair_refused(event: ev.RepairRefused, machine: Machine) -> Told:
    return f"{_names(event.ids.tolist(), machine)} failed, no repair: {event.reason}", event.ids.tolist()


def _rerouted(event: ev.TasksRerouted, machine: Machine) -> Told:
    then = "taking the fallback" if event.fallback else "failed"
    return f"{_names(event.ids.tolist(), machine)}: {event.reason}; {then}", event.ids.tolist()


def _cancel(event: ev.CancelAsked, machine: Machine) -> Told:
    return f"{event.by} cancels {_names(event.ids.tolist(), machine)}", event.ids.tolist()


def _cancelled(event: ev.TasksCancelled, machine: Machine) -> Told:
    return f"{_names(event.ids.tolist(), machine)} cancelled", event.ids.tolist()


def _chunk(event: ev.ChunkEmitted, machine: Machine) -> Told:
    return f"{machine.name(event.id)} brought back a part", (event.id,)


def _late(event: ev.DeadlineMissed, machine: Machine) -> Told:
    return f"{_names(event.ids.tolist(), machine)} missed the deadline", event.ids.tolist()


def _mission_ended(event: ev.MissionEnded, _machine: Machine) -> Told:
    return f"mission {event.mission} {_ENDS[event.state]}" + (f": {event.reason}" if event.reason else ""), ()


def _device(event: ev.DeviceChanged, _machine: Machine) -> Told:
    return f"{event.device} is {event.state}" + (f": {event.reason}" if event.reason else ""), ()


def _engine(event: ev.EngineCrashed, _machine: Machine) -> Told:
    return f"engine {event.engine} crashed: {event.reason}; starting again in {event.wait_s:g} s", ()


def _halted(event: ev.Halted, _machine: Machine) -> Told:
    return f"{event.by} halted {', '.join(event.devices)}", ()


_TELL: Mapping[type[ev.Event], Callable[..., Told]] = {
    ev.KernelBooted: _boot,
    ev.MissionSubmitted: _submitted,
    ev.TasksAdded: _added,
    ev.TasksPlaced: _placed,
    ev.TasksFinished: _finished,
    ev.AttemptsFailed: _failed,
    ev.AttemptsLost: _lost,
    ev.AttemptsUnknown: _unknown,
    ev.UnknownResolved: _resolved,
    ev.RepairRefused: _repair_refused,
    ev.TasksRerouted: _rerouted,
    ev.CancelAsked: _cancel,
    ev.TasksCancelled: _cancelled,
    ev.ChunkEmitted: _chunk,
    ev.DeadlineMissed: _late,
    ev.MissionEnded: _mission_ended,
    ev.DeviceChanged: _device,
    ev.EngineCrashed: _engine,
    ev.Halted: _halted,
}

"""What doors see of the kernel: missions, tasks, devices as views.

Pure reading: the machine's columns, the fleet's states and the kept events come in, pydantic views go out.
Nothing here is stored twice; a task's history is read off the events when somebody asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qaios.core import events as ev
from qaios.core.machine import Machine, MissionRecord
from qaios.core.values import Decision, DeviceState, MissionState, Reading, TaskState
from qaios.kernel.fleet import Berthed
from qaios.kernel.kernel import Kernel
from qaios.schema.views import (
    ArtifactView,
    AttemptView,
    CandidateView,
    DeviceView,
    ErrorView,
    MissionReport,
    MissionView,
    ReadingView,
    RefusalView,
    TaskView,
    WhyView,
)

HISTORY_TASKS_MAX = 500  # above this many tasks a mission's list comes without each task's history


def _time(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def mission_view(kernel: Kernel, record: MissionRecord, events: Sequence[ev.Event], *, tasks: bool) -> MissionView:
    machine = kernel.machine
    ids = machine.tasks_of(record)
    failed = [int(task) for task in ids[machine.state[ids] == TaskState.FAILED] if int(task) in machine.reasons]
    return MissionView(
        id=record.id,
        name=record.name,
        state=str(record.state),
        goal=record.goal,
        owner=record.owner,
        seed=record.seed,
        submitted=record.submitted_s,
        deadline=record.deadline_s,
        ended=record.ended_s,
        simulated=any(device.device.spec.simulated for device in _used(kernel, ids)),
        counts={state.name.lower(): int(record.counts[state]) for state in TaskState if record.counts[state]},
        reason=f"{machine.name(failed[0])}: {machine.reasons[failed[0]]}" if failed else "",
        tasks=task_views(kernel, record, events) if tasks else [],
    )


def _used(kernel: Kernel, ids: np.ndarray[Any, Any]) -> list[Berthed]:
    machine = kernel.machine
    names = {machine.devices[index] for index in np.unique(machine.device[ids]) if index >= 0}
    return [kernel.fleet.berths[name] for name in names if name in kernel.fleet.berths]


def task_views(kernel: Kernel, record: MissionRecord, events: Sequence[ev.Event]) -> list[TaskView]:
    ids = kernel.machine.tasks_of(record)
    with_history = len(ids) <= HISTORY_TASKS_MAX
    histories = _histories(set(ids.tolist()), events) if with_history else {}
    return [task_view(kernel, int(task), record, histories.get(int(task), [])) for task in ids]


def task_view(kernel: Kernel, task: int, record: MissionRecord, history: list[AttemptView]) -> TaskView:
    machine = kernel.machine
    shape = machine.shapes[machine.shape[task]]
    result = machine.result(task)
    fraction, note = kernel.progress.get(task, (None, ""))
    state = TaskState(machine.state[task])
    error = None
    if task in machine.reasons and state is not TaskState.DONE:
        error = ErrorView(message=machine.reasons[task])
    started = history[0].started if history else _time(machine.started_s[task])
    return TaskView(
        name=machine.name(task),
        action=shape.action,
        device=machine.device_name(task),
        attempts=int(machine.attempts[task]),
        state=state.name.lower(),
        priority=int(machine.priority[task]),
        mode=str(shape.mode),
        needs=[machine.name(int(need)) for need in machine.needs(task)],
        deadline=_time(machine.deadline_s[task]),
        submitted=record.submitted_s,
        ready=_time(machine.ready_s[task]),
        started=started,
        ended=_time(machine.ended_s[task]),
        progress=1.0 if state is TaskState.DONE else fraction,
        note=note,
        why=why_view(kernel, task),
        history=history,
        error=error,
        result=None if result is None else plain(result.value),
        provenance={} if result is None else dict(plain(result.provenance)),
        spawned_by=machine.name(machine.spawned_by[task]) if task in machine.spawned_by else "",
        fallback_used=task in machine.fell_back,
    )


def why_view(kernel: Kernel, task: int) -> WhyView:
    """Of the last placement, or of the present wait."""
    machine = kernel.machine
    decision: Decision | None = kernel.waiting.get(task)
    if decision is None and machine.decision[task] >= 0:
        decision = machine.decisions[machine.decision[task]]
    needed = [f"task {machine.name(int(need))}" for need in machine.needs(task)]
    return WhyView(waited_for=needed) if decision is None else why_of(decision, needed)


def why_of(decision: Decision, waited_for: Sequence[str]) -> WhyView:
    return WhyView(
        candidates=[
            CandidateView(
                device=one.device, score=one.score, terms={name: _time(value) for name, value in one.terms.items()}
            )
            for one in decision.candidates
        ],
        refusals=[RefusalView(device=one.device, reason=one.reason) for one in decision.refusals],
        waited_for=[*waited_for, *decision.waited_for],
        policy=decision.policy,
        decided=decision.at_s,
    )


def _histories(wanted: set[int], events: Sequence[ev.Event]) -> dict[int, list[AttemptView]]:
    """Every attempt of these tasks, read off the events."""
    histories: dict[int, list[AttemptView]] = {}
    for event in events:
        ids = getattr(event, "ids", None)
        if ids is None:
            continue
        rows = [(row, int(task)) for row, task in enumerate(ids) if int(task) in wanted]
        for row, task in rows:
            attempts = histories.setdefault(task, [])
            if isinstance(event, ev.TasksPlaced):
                device = event.devices[int(event.device[row])]
                attempts.append(AttemptView(number=len(attempts) + 1, device=device, started=event.at_s))
            elif attempts and attempts[-1].ended is None and type(event) in _OUTCOMES:
                attempts[-1].ended = event.at_s
                attempts[-1].outcome = _OUTCOMES[type(event)]
                reason = getattr(event, "reason", "")
                attempts[-1].error = ErrorView(message=reason) if reason else None
    return histories


_OUTCOMES: Mapping[type[ev.Event], str] = {
    ev.TasksFinished: "done",
    ev.AttemptsFailed: "failed",
    ev.AttemptsLost: "lost",
    ev.AttemptsUnknown: "unknown",
    ev.TasksCancelled: "cancelled",
}


def plain(value: Any) -> Any:
    """Only what JSON can say: bytes become their length, floats that are no numbers become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": len(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def report(kernel: Kernel, record: MissionRecord, events: Sequence[ev.Event]) -> MissionReport:
    """The mission with artifacts and metrics.

    Metrics are what tasks say of themselves (a mapping under `metrics` in their value), and what only the kernel
    knows: how long a lost device had been silent (`detection_s`), and how long the repair took (`replan_s`).
    """
    machine = kernel.machine
    mission = mission_view(kernel, record, events, tasks=True)
    ids = machine.tasks_of(record)
    artifacts, metrics = [], kernel_metrics(machine, record, events)
    for task in ids.tolist():
        result = machine.result(task)
        if result is None:
            continue
        artifacts += [
            ArtifactView(
                name=one.name,
                sha256=one.sha256,
                size_bytes=one.size_bytes,
                media_type=one.media_type,
                task=machine.name(task),
            )
            for one in result.artifacts
        ]
        if isinstance(result.value, Mapping) and isinstance(result.value.get("metrics"), Mapping):
            metrics.update(plain(result.value["metrics"]))
    return MissionReport(
        mission=record.name,
        id=record.id,
        state=mission.state,
        goal=record.goal,
        seed=record.seed,
        simulated=mission.simulated,
        submitted=record.submitted_s,
        ended=record.ended_s,
        duration_s=None if record.ended_s is None else record.ended_s - record.submitted_s,
        reason=mission.reason,
        tasks=mission.tasks,
        artifacts=artifacts,
        metrics=metrics,
    )


def kernel_metrics(machine: Machine, record: MissionRecord, events: Sequence[ev.Event]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for event in events:
        if isinstance(event, ev.AttemptsFailed) and event.lost_s is not None and _of(machine, record, event.ids):
            metrics.setdefault("detection_s", event.lost_s)
        if isinstance(event, ev.TasksAdded) and event.repairs and machine.mission[event.parent] == record.index:
            metrics.setdefault("replan_s", event.replan_s)
    return metrics


def _of(machine: Machine, record: MissionRecord, ids: ev.Ids) -> bool:
    return bool(np.any(machine.mission[ids] == record.index))


def device_view(kernel: Kernel, berth: Berthed, running: Sequence[int]) -> DeviceView:
    machine, spec, status = kernel.machine, berth.device.spec, berth.device.status()
    return DeviceView(
        name=spec.name,
        driver=spec.driver,
        kind=spec.kind,
        state=str(berth.state),
        simulated=spec.simulated,
        pid=status.pid,
        actions=[action.name for action in spec.actions],
        capacity=spec.capacity,
        running=[f"{machine.missions[machine.mission[task]].id}/{machine.name(task)}" for task in running],
        summary=spec.summary,
        readings=[reading_view(reading) for reading in status.readings],
        error=berth.reason if berth.state in (DeviceState.LOST, DeviceState.CLOSED, DeviceState.HALTED) else "",
    )


def reading_view(reading: Reading) -> ReadingView:
    return ReadingView(
        name=reading.name, value=_time(reading.value), unit=str(reading.unit), at=reading.time_s, sigma=reading.sigma
    )


def state_counts(kernel: Kernel) -> dict[str, dict[str, int]]:
    machine = kernel.machine
    tasks = np.bincount(machine.state[: machine.count], minlength=len(TaskState))
    missions = [str(record.state) for record in machine.missions]
    devices = [str(berth.state) for berth in kernel.fleet.berths.values()]
    return {
        "missions": {str(state): missions.count(state) for state in MissionState if state in missions},
        "tasks": {state.name.lower(): int(tasks[state]) for state in TaskState if tasks[state]},
        "devices": {str(state): devices.count(state) for state in DeviceState if state in devices},
    }

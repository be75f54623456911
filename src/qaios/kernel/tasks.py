"""Tasks as devices and planners see them: references resolved, columns read.

The kernel asks here just before an attempt. Most tasks of a big mission share one shape whose arguments refer to
nothing: that is found out once per shape, and a batch of them carries no arguments at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qaios.bridge.references import references, resolve
from qaios.core.errors import DeviceFault
from qaios.core.events import Ids
from qaios.core.machine import Machine
from qaios.core.values import Task, TaskSpec, TaskState


class Tasks:
    """Reads one machine; changes nothing."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._plain: dict[int, bool] = {}  # shape -> its arguments refer to nothing

    def rows(self, ids: Ids, shape: int) -> tuple[Mapping[str, Any], ...]:
        """The arguments of a batch; none where all are as their shape has them."""
        if self._is_plain(shape) and not self._machine.own_arguments(int(ids[0])):
            return ()
        return tuple(self._arguments(task) for task in ids.tolist())

    def _is_plain(self, shape: int) -> bool:
        if shape not in self._plain:
            self._plain[shape] = next(references(self._machine.shapes[shape].form), None) is None
        return self._plain[shape]

    def task(self, task: int) -> Task:
        machine = self._machine
        shape = machine.shapes[machine.shape[task]]
        deadline_s = float(machine.deadline_s[task])
        return Task(
            id=task,
            mission=machine.missions[machine.mission[task]].id,
            name=machine.name(task),
            action=shape.action,
            arguments=self._arguments(task),
            mode=shape.mode,
            deadline_s=None if np.isinf(deadline_s) else deadline_s,
        )

    def _arguments(self, task: int) -> Mapping[str, Any]:
        """With references replaced by what they refer to."""
        machine = self._machine
        written = machine.arguments(task)
        if self._is_plain(int(machine.shape[task])) and not machine.own_arguments(task):
            return written
        names = machine.missions[machine.mission[task]].names

        def value(other: int) -> Any:
            result = machine.result(other)
            return None if result is None else result.value

        def known(name: str) -> int:
            if name not in names:
                raise DeviceFault(f"the arguments refer to {name}, which is no task of this mission", retryable=False)
            other: int = names[name]
            return other

        def lookup(name: str) -> Any:
            other = known(name)
            if (state := TaskState(machine.state[other])) is not TaskState.DONE:
                hint = (
                    f"refer to the tasks that replace it: ${{{name}.*}}" if state is TaskState.REPAIRED else "need it"
                )
                raise DeviceFault(
                    f"the arguments refer to {name}, which has no result: it is {state.name.lower()}",
                    retryable=False,
                    hint=hint,
                )
            return value(other)

        def spawned(name: str) -> Sequence[Any]:
            below, found = [known(name)], []
            while below:
                below = [child for parent in below for child in machine.children.get(parent, ())]
                found += [child for child in below if machine.state[child] == TaskState.DONE]
            return [value(child) for child in sorted(found, key=machine.name)]

        resolved: Mapping[str, Any] = resolve(written, lookup, spawned)
        return resolved

    def lost(self, task: int) -> TaskSpec:
        """A task as a planner sees it; its deadline counts from the mission's submission, as in any spec."""
        machine = self._machine
        shape, deadline_s = machine.shapes[machine.shape[task]], float(machine.deadline_s[task])
        submitted_s = machine.missions[machine.mission[task]].submitted_s
        return TaskSpec(
            name=machine.name(task),
            action=shape.action,
            arguments=self._arguments(task),
            priority=int(machine.priority[task]),
            deadline_s=None if np.isinf(deadline_s) else deadline_s - submitted_s,
            mode=shape.mode,
            fallback=machine.fallback.get(task, ""),
            retries=int(machine.retries[task]),
            device=machine.pinned.get(task, ""),
        )

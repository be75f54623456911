"""What a policy's answer becomes: events, groups that travel together, and words for those that still wait.

The kernel hands in the placements of one cycle. A decision is recorded once for all tasks that share it, a reason
for waiting is put in words once per decision, and nothing here is done per task that can be done per group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from qaios.contracts import Placement, Placements
from qaios.core import events as ev
from qaios.core.machine import Machine
from qaios.core.values import ActionSpec, Decision, Effect
from qaios.kernel.dispatch import Dispatch
from qaios.kernel.fleet import Fleet

_WAITED_MAX = 8  # reasons for waiting that one task remembers


class Placing:
    """The kernel's notes on who waits for what, and the events that end the waiting."""

    def __init__(self, machine: Machine, fleet: Fleet, dispatch: Dispatch, repairable: Callable[[int], bool]) -> None:
        self._machine, self._fleet, self._dispatch, self._repairable = machine, fleet, dispatch, repairable
        self.waiting: dict[int, Decision] = {}  # task -> the decision that says why it still waits
        self._waited: dict[int, tuple[str, ...]] = {}  # task -> what stood between it and a device so far, in words
        self._offers: dict[tuple[str, int], ActionSpec | None] = {}

    def forget(self, tasks: Sequence[int]) -> None:
        """They wait no more."""
        for task in tasks if self.waiting else ():
            self.waiting.pop(task, None)
        for task in tasks if self._waited else ():
            self._waited.pop(task, None)

    def rerouted(self, placements: Placements, now_s: float) -> list[ev.Event]:
        """One for all tasks that no device can take for the same reason and that go on the same way."""
        rungs: dict[tuple[int, bool, bool], list[int]] = {}
        for task, decision in placements.impossible.items():
            fallback = task in self._machine.fallback
            # A planner may know another way for what was meant for one device that is gone.
            repair = not fallback and task in self._machine.pinned and self._repairable(task)
            rungs.setdefault((decision, fallback, repair), []).append(task)
        events: list[ev.Event] = []
        for (decision, fallback, repair), tasks in rungs.items():
            refusals = placements.decisions[decision].refusals
            why = "; ".join(f"{one.device}: {one.reason}" for one in refusals) or "no device offers it"
            reason = (
                f"no device of this fleet can do {self._machine.shapes[self._machine.shape[tasks[0]]].action}: {why}"
            )
            ids = np.array(tasks, np.int64)
            events.append(ev.TasksRerouted(at_s=now_s, ids=ids, reason=reason, fallback=fallback, repair=repair))
        return events

    def placed(self, placed: Sequence[Placement], decisions: Sequence[Decision], now_s: float) -> ev.TasksPlaced:
        devices = sorted({placement.device for placement in placed})
        index = {name: position for position, name in enumerate(devices)}
        ids = np.array([placement.task for placement in placed], np.int64)
        kept: list[Decision] = []
        seen: dict[tuple[int, tuple[str, ...]], int] = {}
        column: list[int] = []
        for placement in placed:
            key = (placement.decision, self._waited.get(placement.task, ()))
            if key not in seen:
                seen[key] = len(kept)
                kept.append(msgspec.structs.replace(decisions[key[0]], waited_for=key[1]))
            column.append(seen[key])
        effectful = [
            (action := self._offered(one.device, shape)) is not None and action.effect is Effect.EFFECTFUL
            for one, shape in zip(placed, self._machine.shape[ids].tolist(), strict=True)
        ]
        return ev.TasksPlaced(
            at_s=now_s,
            ids=ids,
            devices=tuple(devices),
            device=np.array([index[placement.device] for placement in placed], np.uint16),
            decisions=tuple(kept),
            decision=np.array(column, np.uint32),
            effectful=np.array(effectful, np.bool_),
            epoch=self._machine.epoch,
        )

    def groups(self, placements: Placements) -> dict[tuple[str, Any], list[int]]:
        """What travels together: batched tasks of one shape and mission per device, everything else alone.

        The policy fills a device by shape and does not see missions; a group that finds no place waits a cycle.
        """
        groups: dict[tuple[str, Any], list[int]] = {}
        free = {berth.spec.name: berth.free for berth in self._fleet.view()}
        ids = np.array([placement.task for placement in placements.placed], np.int64)
        columns = zip(
            placements.placed, self._machine.shape[ids].tolist(), self._machine.mission[ids].tolist(), strict=True
        )
        for placement, shape, mission in columns:
            action = self._offered(placement.device, shape)
            batched = action is not None and action.batched
            key = (placement.device, (mission, shape) if batched else placement.task)
            if key not in groups:
                if free[placement.device] <= 0:
                    continue
                free[placement.device] -= 1
                groups[key] = []
            groups[key].append(placement.task)
        return groups

    def _offered(self, device: str, shape: int) -> ActionSpec | None:
        """What the device offers for tasks of this shape. Specs are constant, so asked once."""
        key = (device, shape)
        if key not in self._offers:
            self._offers[key] = self._fleet[device].device.spec.action(self._machine.shapes[shape].action)
        return self._offers[key]

    def note(self, waiting: Mapping[int, int], decisions: Sequence[Decision]) -> None:
        """Remember, in words, what stands between ready tasks and their devices: once per decision, not per task."""
        ids = np.fromiter(waiting.keys(), np.int64, len(waiting))
        column = np.fromiter(waiting.values(), np.int64, len(waiting))
        for number in np.unique(column).tolist():
            tasks = ids[column == number].tolist()
            words = self._stands_between(decisions[number])
            self.waiting.update(dict.fromkeys(tasks, decisions[number]))
            befores = list(map(self._waited.get, tasks))
            # Most of a long queue has waited for the same things since the same cycle: they share one tuple.
            for before in {id(one): one for one in befores}.values():
                both = tuple(dict.fromkeys((*(before or ()), *words)))[:_WAITED_MAX]
                same = (
                    tasks
                    if befores.count(before) == len(tasks)
                    else [task for task, one in zip(tasks, befores, strict=True) if one is before]
                )
                self._waited.update(dict.fromkeys(same, both if both != before else before))

    def _stands_between(self, decision: Decision) -> tuple[str, ...]:
        words = []
        for candidate in decision.candidates:
            for other in self._dispatch.running_on(candidate.device, 2):
                priority = int(self._machine.priority[other])
                words.append(f"{candidate.device}, busy with {self._machine.name(other)} (priority {priority})")
        for refusal in decision.refusals:
            berth = self._fleet[refusal.device]
            if refusal.reason != self._fleet.unusable(berth):
                continue  # It would not have taken the task anyway.
            if berth.opening is not None:
                words.append(f"{refusal.device}, which was opening")
            elif not berth.usable:
                words.append(f"{refusal.device}, which {refusal.reason}")
        return tuple(words)

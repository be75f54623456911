"""Who goes where: the placement policy.

Ready tasks and the fleet come in, placements and their reasons go out; nothing is kept between calls, so `why`
can ask the same question again. Order is priority, then deadline, then submission; waiting raises priority by
one step per `aging_s`, so nothing starves. Among devices that can take a task now the best estimate wins:

    score = fidelity − slowness · duration_s − hunger · energy_j − cost

A better device that is busy is waited for when its score is higher even after the wait. Batched actions fill a device
in slices of about `slice_s` of its estimated work, so that a thousand short calls travel together and two long ones
do not queue behind each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from qaios.contracts import Berth, Placement, Placements, Ready
from qaios.core.values import ActionSpec, Candidate, Decision, Estimate, Mode, Refusal, Shape

Estimates = Callable[[str, int], Estimate]


@dataclass(frozen=True, slots=True)
class Greedy:
    """The built-in policy. The weights are per second, per joule and per unit of money, against a fidelity of 0..1."""

    name: ClassVar[str] = "greedy"
    aging_s: float = 60.0
    slowness_per_s: float = 0.002
    hunger_per_j: float = 1e-6
    slice_s: float = 0.25
    slice_tasks_max: int = 4096

    def place(self, ready: Ready, fleet: Sequence[Berth], estimates: Estimates, now_s: float) -> Placements:
        """Pure. Shapes: all columns of `ready` have equal length; `estimates(device, shape index)`."""
        desk = _Desk(self, ready, fleet, estimates, now_s)
        order = self._order(ready, now_s)
        for position, row in enumerate(order):
            if desk.exhausted:
                desk.hold_up(order[position:])
                break
            desk.consider(row)
        return Placements(desk.placed, desk.decisions, desk.waiting, desk.impossible)

    def _order(self, ready: Ready, now_s: float) -> Sequence[int]:
        waited = np.maximum(0.0, now_s - np.asarray(ready.ready_s, np.float64))
        urgency = np.asarray(ready.priorities, np.int64) - np.floor(waited / self.aging_s).astype(np.int64)
        order: list[int] = np.lexsort((np.asarray(ready.ids), np.asarray(ready.deadlines_s), urgency)).tolist()
        return order

    def score(self, estimate: Estimate) -> float:
        return (
            estimate.fidelity
            - self.slowness_per_s * estimate.duration_s
            - self.hunger_per_j * estimate.energy_j
            - estimate.cost
        )


@dataclass(slots=True)
class _Slot:
    """What a device can still take in this cycle."""

    berth: Berth
    free: int
    wait_s: float  # until it can take something again, with what it was given in this cycle
    slices: dict[int, int] = field(default_factory=dict)  # shape -> places left in its open slice


@dataclass(slots=True)
class _Desk:
    """One call of `place`: decides row by row, and once for all rows that differ in nothing that matters."""

    policy: Greedy
    ready: Ready
    fleet: Sequence[Berth]
    estimates: Estimates
    now_s: float
    placed: list[Placement] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    waiting: dict[int, int] = field(default_factory=dict)
    impossible: dict[int, int] = field(default_factory=dict)
    slots: dict[str, _Slot] = field(default_factory=dict)
    family: dict[str, int] = field(default_factory=dict)  # parent -> attempts it and those carved out of it can take
    full: set[int] = field(default_factory=set)  # decisions whose every candidate is full: nothing frees in a cycle
    exhausted: bool = False  # no device can take anything more in this cycle
    _known: dict[tuple[int, frozenset[str], str], tuple[int, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.slots = {berth.spec.name: _Slot(berth, berth.free, berth.wait_s) for berth in self.fleet}
        for berth in self.fleet:
            if berth.spec.parent:
                self.family[berth.spec.parent] = max(self.family.get(berth.spec.parent, 0), berth.free)
        for parent in self.family:
            if parent in self.slots and not self.slots[parent].berth.unusable:
                self.family[parent] = self.slots[parent].free

    def consider(self, row: int) -> None:
        task, shape = int(self.ready.ids[row]), int(self.ready.shapes[row])
        excluded = self.ready.excluded.get(task, frozenset())
        pinned = self.ready.pinned.get(task, "")
        decision, possible = self._decide(shape, excluded, pinned)
        if not possible:
            self.impossible[task] = decision
            return
        if decision not in self.full:
            device = self._choose(self.decisions[decision].candidates, shape)
            if device:
                self.placed.append(Placement(task, device, decision))
                return
            self.full.add(decision)
            self.exhausted = not any(slot.free > 0 or any(slot.slices.values()) for slot in self.slots.values())
        self.waiting[task] = decision

    def hold_up(self, rows: Sequence[int]) -> None:
        """The rest of the queue when nothing is free: its reasons, found per shape and not per task."""
        ids = np.asarray(self.ready.ids, np.int64)[rows]
        shapes = np.asarray(self.ready.shapes, np.int64)[rows]
        if self.ready.excluded or self.ready.pinned:
            special = np.isin(ids, [*self.ready.excluded, *self.ready.pinned])
            for row in np.asarray(rows)[special].tolist():
                self.consider(row)
            ids, shapes = ids[~special], shapes[~special]
        for shape in np.unique(shapes).tolist():
            decision, possible = self._decide(shape, frozenset(), "")
            answer = self.waiting if possible else self.impossible
            answer.update(dict.fromkeys(ids[shapes == shape].tolist(), decision))

    def _choose(self, candidates: Sequence[Candidate], shape: int) -> str:
        """The best device that is free, unless a better one is worth the wait; "" to wait."""
        worth_waiting = -np.inf
        for candidate in candidates:
            if worth_waiting >= candidate.score:
                return ""
            if self._take(candidate.device, shape):
                return candidate.device
            wait_s = self.slots[candidate.device].wait_s
            worth_waiting = max(worth_waiting, candidate.score - self.policy.slowness_per_s * wait_s)
        return ""

    def _decide(self, shape: int, excluded: frozenset[str], pinned: str) -> tuple[int, bool]:
        """The scored candidates, best first, for any task of this shape and these restrictions."""
        key = (shape, excluded, pinned)
        if key in self._known:
            return self._known[key]
        candidates, refusals, hope = [], [], False
        for berth in self.fleet:
            reason = self._refusal(berth, self.ready.shape_table[shape], excluded, pinned)
            if not reason:
                estimate = self.estimates(berth.spec.name, shape)
                reason = estimate.refusal
                if not reason:
                    terms = {"fidelity": estimate.fidelity, "duration_s": estimate.duration_s, **estimate.terms}
                    candidates.append(Candidate(berth.spec.name, round(self.policy.score(estimate), 6), terms))
                    continue
            hope = hope or bool(berth.unusable and reason == berth.unusable and not berth.hopeless)
            if berth.spec.action(self.ready.shape_table[shape].action) or pinned == berth.spec.name:
                refusals.append(Refusal(berth.spec.name, reason))
        candidates.sort(key=lambda one: (-one.score, one.device))
        self.decisions.append(
            Decision(tuple(candidates), tuple(refusals), policy=self.policy.name, at_s=round(self.now_s, 3))
        )
        self._known[key] = (len(self.decisions) - 1, bool(candidates) or hope)
        return self._known[key]

    def _refusal(self, berth: Berth, shape: Shape, excluded: frozenset[str], pinned: str) -> str:
        action = berth.spec.action(shape.action)
        if action is None:
            return f"does not do {shape.action}"
        if pinned and pinned != berth.spec.name:
            return f"the task asks for {pinned}"
        if berth.spec.name in excluded:
            return "failed at this task before"
        if action.quantum and shape.mode is Mode.CLASSICAL:
            return "is a quantum device; the task's mode is classical"
        if not action.quantum and shape.mode is Mode.NATIVE:
            return "is not a quantum device; the task's mode is native"
        return berth.unusable

    def _take(self, device: str, shape: int) -> bool:
        slot = self.slots[device]
        if slot.slices.get(shape, 0) > 0:
            slot.slices[shape] -= 1
            return True
        parent = slot.berth.spec.parent or device
        if slot.free <= 0 or self.family.get(parent, 1) <= 0:
            return False
        slot.free -= 1
        duration_s = self.estimates(device, shape).duration_s
        kin = [slot]
        if parent in self.family:
            self.family[parent] -= 1
            kin = [one for one in self.slots.values() if parent in (one.berth.spec.name, one.berth.spec.parent)]
        for one in kin:
            one.wait_s = min(one.wait_s, duration_s) if one.wait_s else duration_s
        if self._batched(slot.berth, shape):
            work_s = max(self.estimates(device, shape).duration_s, 1e-9)
            size = int(min(self.policy.slice_tasks_max, max(1, self.policy.slice_s / work_s)))
            slot.slices[shape] = size - 1
        return True

    def _batched(self, berth: Berth, shape: int) -> bool:
        action: ActionSpec | None = berth.spec.action(self.ready.shape_table[shape].action)
        return action is not None and action.batched

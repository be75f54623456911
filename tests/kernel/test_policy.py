"""The greedy policy: pure, ordered, fair, and able to say why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from qaios.contracts import Berth, Placements, Ready
from qaios.core.values import ActionSpec, DeviceSpec, Estimate, Mode, Shape
from qaios.kernel.policy import Greedy

ACT = ActionSpec("act", "one at a time")
CALL = ActionSpec("call", "thousands at a time", batched=True)
SAMPLE = ActionSpec("act", "the same on a QPU", quantum=True)


def berth(name: str, *actions: ActionSpec, free: int = 1, parent: str = "", **more: Any) -> Berth:
    spec = DeviceSpec(
        name=name, driver="test", kind="test", actions=actions or (ACT,), capacity=max(free, 1), parent=parent
    )
    return Berth(spec, free, 0, **more)


def ready(
    *priorities: int,
    deadlines_s: Sequence[float] | None = None,
    ready_s: Sequence[float] | None = None,
    shapes: Sequence[int] | None = None,
    table: Sequence[Shape] = (Shape("act", {}),),
    excluded: Mapping[int, frozenset[str]] | None = None,
    pinned: Mapping[int, str] | None = None,
) -> Ready:
    count = len(priorities)
    return Ready(
        range(count), shapes or [0] * count, priorities, deadlines_s or [float("inf")] * count,
        ready_s or [0.0] * count, excluded or {}, pinned or {}, table,
    )  # fmt: skip


def lasting(duration_s: float = 1.0, **refusals: str) -> Callable[[str, int], Estimate]:
    return lambda device, shape: Estimate(duration_s, refusal=refusals.get(device, ""))


def order(placements: Placements) -> list[int]:
    return [placement.task for placement in placements.placed]


def test_priority_comes_first_then_the_deadline_then_the_order_of_submission() -> None:
    asked = ready(5, 1, 5, 5, deadlines_s=[9.0, 9.0, 3.0, 9.0])
    assert order(Greedy().place(asked, [berth("d", free=4)], lasting(), 0.0)) == [1, 2, 0, 3]


def test_waiting_raises_priority_so_that_nothing_starves() -> None:
    fleet = [berth("d", free=1)]
    asked = ready(10, 1, ready_s=[0.0, 540.0])
    assert order(Greedy().place(asked, fleet, lasting(), 539.0)) == [1]
    assert order(Greedy().place(asked, fleet, lasting(), 600.0)) == [0]
    # However urgent the others are, after priority x aging seconds even the least urgent is first.
    late = ready(100, *([1] * 50), ready_s=[0.0, *([6000.0] * 50)])
    assert order(Greedy().place(late, fleet, lasting(), 6000.0)) == [0]


def test_the_best_estimate_wins_and_the_others_are_shown_with_their_scores() -> None:
    durations = {"slow": 100.0, "quick": 1.0, "middling": 10.0}
    fleet = [berth(name) for name in durations]
    placements = Greedy().place(ready(1), fleet, lambda device, _: Estimate(durations[device]), 0.0)
    assert placements.placed[0].device == "quick"
    assert [one.device for one in placements.decisions[0].candidates] == ["quick", "middling", "slow"]
    assert placements.decisions[0].candidates[0].terms["duration_s"] == 1.0


def test_fidelity_energy_and_money_count_as_well() -> None:
    estimates = {
        "good": Estimate(1.0, fidelity=0.99), "noisy": Estimate(1.0, fidelity=0.6),
        "hungry": Estimate(1.0, fidelity=0.99, energy_j=1e5), "dear": Estimate(1.0, fidelity=0.99, cost=0.5),
    }  # fmt: skip
    placements = Greedy().place(ready(1), [berth(name) for name in estimates], lambda device, _: estimates[device], 0.0)
    assert [one.device for one in placements.decisions[0].candidates] == ["good", "hungry", "noisy", "dear"]


def test_the_second_best_takes_what_the_best_has_no_place_for() -> None:
    fleet = [berth("quick"), berth("slow")]
    placements = Greedy().place(
        ready(1, 1, 1), fleet, lambda device, _: Estimate(1.0 if device == "quick" else 1.5), 0.0
    )
    assert [(one.task, one.device) for one in placements.placed] == [(0, "quick"), (1, "slow")]
    assert list(placements.waiting) == [2]


def test_equal_devices_share_the_work_of_one_cycle() -> None:
    placements = Greedy().place(ready(1, 1, 1), [berth("a"), berth("b"), berth("c")], lasting(), 0.0)
    assert [one.device for one in placements.placed] == ["a", "b", "c"]


def test_a_better_device_is_waited_for_while_that_is_worth_it() -> None:
    def placed(wait_s: float) -> list[str]:
        fleet = [berth("quick", free=0, wait_s=wait_s), berth("slow")]
        answer = Greedy().place(ready(1), fleet, lambda device, _: Estimate(1.0 if device == "quick" else 9.0), 0.0)
        return [one.device for one in answer.placed]

    assert placed(2.0) == []
    assert placed(20.0) == ["slow"]


def test_modes_choose_between_classical_and_quantum_devices() -> None:
    fleet = [berth("cpu", free=9), berth("qpu", SAMPLE, free=9)]
    table = [Shape("act", {}, mode) for mode in Mode]

    def best(device: str, _: int) -> Estimate:
        return Estimate(1.0 if device == "qpu" else 9.0)

    placements = Greedy().place(ready(1, 1, 1, shapes=[0, 1, 2], table=table), fleet, best, 0.0)
    chosen = {table[one.task].mode: one.device for one in placements.placed}
    assert chosen == {Mode.CLASSICAL: "cpu", Mode.ENHANCED: "qpu", Mode.NATIVE: "qpu"}
    alone = Greedy().place(ready(1, shapes=[2], table=table), fleet[:1], best, 0.0)
    assert alone.decisions[alone.impossible[0]].refusals[0].reason.startswith("is not a quantum device")


def test_a_pinned_task_goes_to_its_device_or_nowhere() -> None:
    fleet = [berth("a", free=3), berth("b", free=3)]
    placements = Greedy().place(ready(1, 1, pinned={0: "b", 1: "c"}), fleet, lasting(), 0.0)
    assert [(one.task, one.device) for one in placements.placed] == [(0, "b")]
    assert list(placements.impossible) == [1]


def test_an_excluded_device_is_refused_with_its_reason() -> None:
    placements = Greedy().place(ready(1, excluded={0: frozenset({"a"})}), [berth("a"), berth("b")], lasting(), 0.0)
    assert placements.placed[0].device == "b"
    assert placements.decisions[0].refusals[0].reason == "failed at this task before"


def test_a_task_waits_for_a_device_that_may_come_back_and_is_impossible_without_one() -> None:
    def outcome(**more: Any) -> Placements:
        return Greedy().place(ready(1), [berth("d", free=0, **more)], lasting(), 0.0)

    assert list(outcome().waiting) == [0], "busy"
    assert list(outcome(unusable="is opening").waiting) == [0]
    assert list(outcome(unusable="is lost", hopeless=True).impossible) == [0]
    assert list(Greedy().place(ready(1), [berth("d", CALL)], lasting(), 0.0).impossible) == [0]
    refused = Greedy().place(ready(1), [berth("d")], lasting(d="too many qubits"), 0.0)
    assert refused.decisions[refused.impossible[0]].refusals[0].reason == "too many qubits"


def test_batched_tasks_fill_a_device_in_slices_of_its_estimated_work() -> None:
    table = [Shape("call", {})]
    asked = ready(*([1] * 10), table=table)
    for duration_s, free, taken in ((0.05, 1, 5), (0.05, 2, 10), (0.125, 1, 2), (10.0, 3, 3), (0.0, 1, 10)):
        placements = Greedy().place(asked, [berth("d", CALL, free=free)], lasting(duration_s), 0.0)
        assert len(placements.placed) == taken, (duration_s, free)


def test_devices_carved_out_of_one_share_its_capacity() -> None:
    parent = berth("qpu", CALL, free=2)
    fleet = [parent, *(berth(f"region-{number}", free=1, parent="qpu") for number in range(4))]
    placements = Greedy().place(ready(1, 1, 1, 1), fleet, lasting(), 0.0)
    assert len(placements.placed) == 2
    busy = [berth("qpu", CALL, free=0), *fleet[1:]]
    assert not Greedy().place(ready(1, 1), busy, lasting(), 0.0).placed


names = st.sampled_from(["a", "b", "c"])


@st.composite
def situations(draw: st.DrawFn) -> tuple[Ready, list[Berth], dict[tuple[str, int], Estimate], float]:
    count = draw(st.integers(0, 12))
    table = [Shape(draw(st.sampled_from(["act", "call"])), {}, draw(st.sampled_from(Mode))) for _ in range(3)]

    def column(strategy: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(strategy, min_size=count, max_size=count))

    asked = Ready(
        range(count), column(st.integers(0, 2)), column(st.integers(0, 9)),
        column(st.sampled_from([5.0, 50.0, float("inf")])), column(st.floats(0, 100)),
        draw(st.dictionaries(st.integers(0, 12), st.frozensets(names), max_size=3)),
        draw(st.dictionaries(st.integers(0, 12), names, max_size=3)), table,
    )  # fmt: skip
    fleet = [
        berth(
            name, *draw(st.sampled_from([(ACT,), (CALL,), (ACT, CALL), (SAMPLE,)])), free=draw(st.integers(0, 3)),
            unusable=draw(st.sampled_from(["", "", "is lost"])), hopeless=draw(st.booleans()),
        )
        for name in "abc"
    ]  # fmt: skip
    seconds = st.floats(0, 5)
    estimates = {
        (name, shape): Estimate(draw(seconds), refusal=draw(st.sampled_from(["", "", "no"])))
        for name in "abc"
        for shape in range(3)
    }
    return asked, fleet, estimates, draw(st.floats(100, 500))


@settings(max_examples=60, deadline=None)
@given(situations())
def test_placing_is_pure_and_every_task_gets_exactly_one_answer(
    situation: tuple[Ready, list[Berth], dict[tuple[str, int], Estimate], float],
) -> None:
    asked, fleet, estimates, now_s = situation

    def estimate(device: str, shape: int) -> Estimate:
        return estimates[device, shape]

    once, again = (Greedy().place(asked, fleet, estimate, now_s) for _ in range(2))
    assert once == again
    answered = [*order(once), *once.waiting, *once.impossible]
    assert sorted(answered) == list(asked.ids)
    for one in once.placed:
        there = next(berth for berth in fleet if berth.spec.name == one.device)
        shape = asked.shape_table[asked.shapes[one.task]]
        assert not there.unusable and there.spec.action(shape.action) is not None
        assert one.device not in asked.excluded.get(one.task, ())
        assert asked.pinned.get(one.task, one.device) == one.device
        assert not estimates[one.device, asked.shapes[one.task]].refusal
    singles = [one for one in once.placed if asked.shape_table[asked.shapes[one.task]].action == "act"]
    for there in fleet:
        assert sum(one.device == there.spec.name for one in singles) <= there.free

"""Schedules and success probabilities are what one works out by hand."""

from __future__ import annotations

import math

import pytest

from qaios.quantum.calibration import load
from qaios.quantum.estimate import Kind, Operation, expect, idle_fidelity, operation, prior, schedule


def step(name: str, *qubits: int, length_s: float = 1.0, kind: Kind = Kind.GATE, error: float = 0.0) -> Operation:
    return Operation(kind, name, qubits, length_s, error)


def test_operations_start_as_late_as_they_may() -> None:
    timeline = schedule([step("x", 0), step("x", 1), step("x", 1), step("cx", 0, 1, length_s=2.0)])
    assert timeline.duration_s == 4.0
    assert timeline.start_s == (1.0, 0.0, 1.0, 2.0)
    assert timeline.idles == (), "waiting in the ground state costs nothing"


def test_a_qubit_that_waits_between_two_operations_is_idle() -> None:
    timeline = schedule([step("cx", 0, 1), step("x", 1), step("x", 1), step("cx", 0, 1)])
    assert [(idle.before, idle.qubit, idle.duration_s) for idle in timeline.idles] == [(3, 0, 2.0)]


def test_a_delay_is_part_of_the_wait_and_a_barrier_takes_no_time() -> None:
    waiting = schedule([step("x", 0), step("delay", 0, length_s=5.0, kind=Kind.DELAY), step("x", 0)])
    assert [(idle.before, idle.duration_s) for idle in waiting.idles] == [(2, 5.0)]
    fenced = schedule([step("x", 0), step("barrier", 0, 1, length_s=0.0, kind=Kind.BARRIER), step("x", 1)])
    assert fenced.duration_s == 2.0
    assert fenced.start_s == (0.0, 1.0, 1.0)


def test_an_empty_circuit_takes_no_time() -> None:
    assert schedule([]).duration_s == 0.0


def test_success_is_the_product_of_its_parts() -> None:
    boston = load("boston")
    (first, second), gate = next(iter(boston.gates["cz"].items()))
    steps = [
        operation(boston, "sx", (first,)),
        operation(boston, "cz", (first, second)),
        operation(boston, "measure", (first,)),
        operation(boston, "measure", (second,)),
    ]
    expected = expect(boston, steps, schedule(steps))
    assert expected.gate_success == pytest.approx((1 - boston.gates["sx"][first,].error) * (1 - gate.error))
    readout = (1 - (boston.p01[first] + boston.p10[first]) / 2) * (1 - (boston.p01[second] + boston.p10[second]) / 2)
    assert expected.readout_success == pytest.approx(readout)
    assert expected.success == pytest.approx(expected.gate_success * expected.readout_success * expected.idle_success)
    assert expected.qpu_s(1000) == pytest.approx(1000 * (expected.shot_s + 250e-6))
    assert (expected.qubits, expected.two_qubit_gates) == (2, 1)


def test_waiting_keeps_everything_at_first_and_ends_in_the_ground_state() -> None:
    assert idle_fidelity(0.0, 1e-4, 1e-4) == pytest.approx(1.0)
    assert idle_fidelity(1.0, 1e-4, 1e-4) == pytest.approx(0.5)
    assert idle_fidelity(1e-4, 1e-4, 1e-4) == pytest.approx(0.5 + math.exp(-1) / 2)


def test_a_gate_on_a_dead_coupler_does_not_exist() -> None:
    with pytest.raises(KeyError):
        operation(load("sherbrooke"), "ecr", (6, 5))


def test_the_prior_ranks_machines_by_their_medians() -> None:
    size = {"qubits": 9, "two_qubit_gates": 100, "layers": 60}
    better, worse = prior(load("boston"), **size), prior(load("sherbrooke"), **size)
    assert 0 < worse.success < better.success < 1

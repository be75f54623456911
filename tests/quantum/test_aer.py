"""What the worker does: counts that repeat by seed, bits in reading order, refusals before the work."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qaios.core.errors import DeviceFault, Invalid, Refused
from qaios.quantum import aer
from qaios.quantum.qubo import solve_classical
from tests.quantum.circuits_for_tests import BELL, ghz, one_qubit, request, run
from tests.quantum.test_qubo import GRID

TWO_REGISTERS = (
    'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[3] q;\nbit[2] low;\nbit[1] high;\n'
    "x q[0];\nx q[2];\nlow[0] = measure q[0];\nlow[1] = measure q[1];\nhigh[0] = measure q[2];\n"
)


def test_a_bell_pair_is_counted() -> None:
    answer = run(request(circuit=BELL, shots=4000))
    counts = answer["value"]["counts"]
    assert sum(counts.values()) == answer["value"]["shots"] == 4000
    assert (counts["00"] + counts["11"]) / 4000 > 0.97
    assert abs(counts["00"] - counts["11"]) < 400


def test_the_same_seed_gives_the_same_counts_and_another_seed_others() -> None:
    first, again = run(request(circuit=ghz(5), seed=3)), run(request(circuit=ghz(5), seed=3))
    assert first == again
    assert run(request(circuit=ghz(5), seed=4))["value"] != first["value"]
    assert run(request(circuit=ghz(5), seed=4, **{}))["provenance"]["seed"] == 4


def test_a_seed_in_the_arguments_wins_over_the_missions() -> None:
    arguments = {"circuit": BELL, "seed": 11}
    answers = [run(aer.Request("boston", "quantum.sample", arguments, seed, 100_000, 60.0, 1 << 30)) for seed in (1, 2)]
    assert answers[0] == answers[1]


def test_registers_are_read_in_the_order_of_their_declaration_highest_bit_left() -> None:
    answer = run(request(circuit=TWO_REGISTERS, shots=200))
    assert max(answer["value"]["counts"], key=answer["value"]["counts"].get) == "01 1"
    assert answer["value"]["registers"] == [{"name": "low", "size": 2}, {"name": "high", "size": 1}]


def test_memory_holds_every_shot_and_agrees_with_the_counts() -> None:
    value = run(request(circuit=BELL, shots=300, memory=True))["value"]
    assert len(value["memory"]) == 300
    assert {bits: value["memory"].count(bits) for bits in set(value["memory"])} == value["counts"]
    assert "memory" not in run(request(circuit=BELL, shots=300))["value"]


def test_parameters_are_given_by_name() -> None:
    text = one_qubit("rx(theta) q[0];").replace("qubit[1]", "input float[64] theta;\nqubit[1]")
    assert run(request(circuit=text, parameters={"theta": 3.14159265}))["value"]["counts"]["1"] > 1000
    with pytest.raises(Invalid, match="theta"):
        run(request(circuit=text))


def test_measuring_in_the_middle_and_resetting_run() -> None:
    text = (
        'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[1] q;\nbit[2] c;\n'
        "x q[0];\nc[0] = measure q[0];\nreset q[0];\nc[1] = measure q[0];\n"
    )
    counts = run(request(circuit=text, shots=500))["value"]["counts"]
    assert counts["01"] > 450


def test_a_teleported_qubit_arrives() -> None:
    text = (
        'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[3] q;\nbit[1] a;\nbit[1] b;\nbit[1] out;\n'
        "ry(1.0) q[0];\nh q[1];\ncx q[1], q[2];\ncx q[0], q[1];\nh q[0];\n"
        "a[0] = measure q[0];\nb[0] = measure q[1];\n"
        "if (b[0]) { x q[2]; }\nif (a[0]) { z q[2]; }\nout[0] = measure q[2];\n"
    )
    answer = run(request(circuit=text, shots=4000))
    ones = sum(times for bits, times in answer["value"]["counts"].items() if bits.endswith("1")) / 4000
    assert abs(ones - math.sin(0.5) ** 2) < 0.04
    assert 0.9 < answer["provenance"]["esp"] < 1


def test_provenance_says_what_is_real_and_what_is_simulated() -> None:
    origin = run(request(circuit=BELL))["provenance"]
    assert origin["simulated"] is True
    assert origin["machine"] == "ibm_boston"
    assert origin["calibration_date"].startswith("2026-04-17")
    assert origin["method"] == "density_matrix"
    assert origin["transpile_level"] == 2
    assert 0.9 < origin["esp"] < 1
    assert origin["seed"] == 7
    assert len(origin["layout"][0]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "circuit:"),
        ({"circuit": 5}, "circuit:"),
        ({"circuit": BELL, "shots": 0}, "shots: 0"),
        ({"circuit": BELL, "shots": True}, "shots"),
        ({"circuit": BELL, "shots": 100_001}, "shots: 100001"),
        ({"circuit": BELL, "seed": -1}, "seed"),
        ({"circuit": BELL, "memory": 1}, "memory"),
        ({"circuit": BELL, "parameters": [1]}, "parameters"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        run(request(**arguments))


def test_a_simulation_that_would_eat_the_machine_is_refused_before_it_starts() -> None:
    asked = aer.Request("boston", "quantum.sample", {"circuit": ghz(20), "shots": 100_000}, 1, 100_000, 5.0, 1 << 30)
    with pytest.raises(Refused, match="would need density_matrix"):
        run(asked)
    (planned,) = aer.plan([asked])
    assert "would need density_matrix" in planned.refusal


def test_a_simulator_that_fails_is_a_fault_and_never_a_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        success = False
        status = "ERROR: out of range"

        def run(self, *_: Any, **__: Any) -> Failing:
            return self

        def result(self) -> Failing:
            return self

    monkeypatch.setattr(aer, "_simulator", lambda *_: Failing())
    with pytest.raises(DeviceFault, match="out of range"):
        run(request(circuit=BELL))


def test_a_plan_gives_time_on_the_machine_and_success() -> None:
    (planned,) = aer.plan([request(circuit=ghz(4), shots=2000)])
    assert not planned.refusal
    assert planned.terms["qpu_s"] == pytest.approx(2000 * (planned.terms["shot_s"] + 250e-6))
    assert planned.duration_s == max(planned.terms["qpu_s"], planned.terms["simulation_s"])
    assert planned.fidelity == pytest.approx(run(request(circuit=ghz(4)))["provenance"]["esp"])


def test_plans_of_wrong_tasks_are_refusals_with_the_place_of_the_fault() -> None:
    wrong = BELL.replace("cx", "cnot")
    plans = aer.plan([request(circuit=wrong), request(circuit=BELL, shots=0), request("quantum.optimize")])
    assert "circuit:6:1: 'cnot' is not defined" in plans[0].refusal
    assert "shots: 0" in plans[1].refusal
    assert "problem" in plans[2].refusal


@pytest.mark.parametrize("parts", [2, 4])
def test_sectors_are_split_with_the_optimum_beside(parts: int) -> None:
    asked = {**GRID, "parts": parts, "shots": 512, "p": 1}
    answer = run(request("quantum.optimize", **asked))
    value = answer["value"]
    assert value["optimal_cost"] == solve_classical(asked)["optimal_cost"]
    assert value["optimal_cost"] <= value["cost"] <= value["sample_mean"] < value["random_mean"]
    assert sorted(cell for part in value["parts"] for cell in part) == [f"c{i}" for i in range(8)]
    assert (value["p"], value["shots"]) == (1, 512)
    assert "Farhi" in answer["provenance"]["algorithm"]
    assert run(request("quantum.optimize", **asked)) == answer


def test_a_qubo_is_minimised() -> None:
    answer = run(
        request("quantum.optimize", problem="qubo", linear=[-1.0, -1.0, -1.0], quadratic=[[0, 1, 2.0], [1, 2, 2.0]])
    )
    assert answer["value"]["assignment"] == answer["value"]["optimal_assignment"] == [1, 0, 1]
    assert answer["value"]["cost"] == answer["value"]["optimal_cost"] == -2.0

"""Compiling: live couplers only, few qubits, the same answer each time, and a clear no to what cannot run."""

from __future__ import annotations

import pytest

from qaios.bridge.circuits import parse
from qaios.core.errors import Invalid, Refused
from qaios.quantum.calibration import load
from qaios.quantum.compile import bind, compile_circuit
from qaios.quantum.estimate import Kind
from tests.quantum.circuits_for_tests import BELL, ghz, one_qubit

RING = (
    'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[6] q;\nbit[6] c;\n'
    + "".join(f"h q[{i}];\ncx q[{i}], q[{(i + 1) % 6}];\ncx q[{i}], q[{(i + 3) % 6}];\n" for i in range(6))
    + "c = measure q;\n"
)


@pytest.mark.parametrize("snapshot", ["sherbrooke", "boston", "torino", "cusco", "rochester"])
@pytest.mark.parametrize("text", [ghz(2), ghz(12), RING], ids=["bell", "chain", "ring"])
def test_only_live_couplers_are_used(snapshot: str, text: str) -> None:
    machine = load(snapshot)
    compiled = compile_circuit(parse(text), snapshot)
    pairs = [step.qubits for step in compiled.operations if len(step.qubits) == 2 and step.kind is Kind.GATE]
    assert pairs
    assert not set(pairs) & set(machine.dead_couplers)
    assert all(machine.gates[machine.entangler][pair].error < 0.5 for pair in pairs)
    assert set(compiled.physical) <= set(machine.region)


def test_the_circuit_is_cut_down_to_the_qubits_it_uses() -> None:
    compiled = compile_circuit(parse(BELL), "boston")
    assert compiled.circuit.num_qubits == 2
    assert len(compiled.operations) == len(compiled.circuit.data)
    assert sorted(compiled.initial) == sorted(compiled.physical)
    assert compiled.final_measurements


def test_compiling_twice_gives_the_same_layout() -> None:
    first, second = compile_circuit(parse(RING), "sherbrooke"), compile_circuit(parse(RING), "sherbrooke")
    assert first.physical == second.physical
    assert first.operations == second.operations


def test_measuring_in_the_middle_is_noticed() -> None:
    text = one_qubit("bit[1] d;", "d = measure q;", "x q[0];")
    assert not compile_circuit(parse(text), "boston").final_measurements


def test_a_circuit_too_large_is_refused_with_both_sizes() -> None:
    with pytest.raises(Refused, match=r"needs 7 qubits; .* has 5"):
        compile_circuit(parse(ghz(7)), "lima")


def test_a_circuit_that_measures_nothing_is_invalid() -> None:
    with pytest.raises(Invalid, match="measures nothing"):
        compile_circuit(parse('OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[2] q;\nh q[0];\n'), "boston")


@pytest.mark.parametrize(
    ("statement", "construct"),
    [
        ("while (c[0]) { x q[0]; c = measure q; }", "while_loop"),
        ("if (c[0]) { for int i in [0:3] { h q[0]; } }", "for_loop"),
    ],
)
def test_classical_control_beyond_if_is_refused_by_construct(statement: str, construct: str) -> None:
    with pytest.raises(Refused, match=construct):
        compile_circuit(parse(one_qubit("c = measure q;", statement)), "boston")


def test_a_branch_counts_as_its_worst_way() -> None:
    text = one_qubit("c = measure q;", "if (c[0]) { x q[0]; } else { h q[0]; }")
    (step,) = [step for step in compile_circuit(parse(text), "boston").operations if step.kind is Kind.BRANCH]
    machine, (qubit,) = load("boston"), step.qubits
    assert {inner.name for inner in step.inner} >= {"x", "sx"}
    assert step.error == pytest.approx(max(machine.gates["x"][qubit,].error, machine.gates["sx"][qubit,].error))


def test_parameters_are_bound_after_compiling_and_missing_ones_are_named() -> None:
    text = one_qubit("rx(theta) q[0];").replace("qubit[1]", "input float[64] theta;\nqubit[1]")
    compiled = compile_circuit(parse(text), "boston")
    assert not bind(compiled, {"theta": 0.5}).parameters
    with pytest.raises(Invalid, match="theta have no value"):
        bind(compiled, {})
    with pytest.raises(Invalid, match="no parameters phi"):
        bind(compiled, {"theta": 0.5, "phi": 1.0})

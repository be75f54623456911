"""The simulation method is chosen by predicted cost, and what does not fit is refused with the prediction."""

from __future__ import annotations

import pytest

from qaios.bridge.circuits import parse
from qaios.core.errors import Refused
from qaios.quantum.compile import Compiled, compile_circuit
from qaios.quantum.method import Choice, Limits, choose
from tests.quantum.circuits_for_tests import ghz


def chosen(compiled: Compiled, shots: int, limits: Limits | None = None) -> Choice:
    return choose(
        compiled.operations,
        compiled.timeline.idles,
        compiled.physical,
        shots=shots,
        final_measurements=compiled.final_measurements,
        limits=limits or Limits(),
    )


def test_small_circuits_take_the_density_matrix_and_long_chains_matrix_products() -> None:
    assert chosen(compile_circuit(parse(ghz(4)), "boston"), 4000).method == "density_matrix"
    assert chosen(compile_circuit(parse(ghz(24)), "boston"), 1000).method == "matrix_product_state"


def test_few_shots_of_a_middle_sized_circuit_take_trajectories() -> None:
    assert chosen(compile_circuit(parse(ghz(11)), "boston"), 10).method == "statevector"


def test_more_shots_never_cost_less() -> None:
    compiled = compile_circuit(parse(ghz(12)), "boston")
    costs = [chosen(compiled, shots).time_s for shots in (1, 10, 100, 1000, 10_000)]
    assert costs == sorted(costs)


def test_what_does_not_fit_in_time_is_refused_with_the_estimate_of_every_method() -> None:
    tangled = "".join(f"cx q[{i}], q[{(i * 7 + 3) % 30}];\nh q[{i}];\n" for i in range(30) if (i * 7 + 3) % 30 != i)
    text = f'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[30] q;\nbit[30] c;\n{tangled * 2}c = measure q;\n'
    compiled = compile_circuit(parse(text), "boston")
    with pytest.raises(Refused, match="30 noisy qubits") as caught:
        chosen(compiled, 1000)
    for method in ("density_matrix", "statevector", "matrix_product_state"):
        assert method in str(caught.value)


def test_memory_is_a_limit_of_its_own() -> None:
    compiled = compile_circuit(parse(ghz(8)), "boston")
    assert chosen(compiled, 4000).method == "density_matrix"
    tight = Limits(time_s=600.0, memory_bytes=3 << 19)
    assert chosen(compiled, 4000, tight).method != "density_matrix"

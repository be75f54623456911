"""Circuits as text, and one way to run them in the test's own process."""

from __future__ import annotations

from typing import Any

from qaios.quantum import aer

BELL = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[2];\ncreg c[2];\nh q[0];\ncx q[0],q[1];\nmeasure q -> c;\n'


def ghz(qubits: int) -> str:
    """OpenQASM 3 of a chain that entangles all its qubits."""
    links = "\n".join(f"cx q[{qubit}], q[{qubit + 1}];" for qubit in range(qubits - 1))
    declared = f"qubit[{qubits}] q;\nbit[{qubits}] c;"
    return f'OPENQASM 3.0;\ninclude "stdgates.inc";\n{declared}\nh q[0];\n{links}\nc = measure q;\n'


def one_qubit(*statements: str) -> str:
    body = "\n".join(statements)
    return f'OPENQASM 3.0;\ninclude "stdgates.inc";\nqubit[1] q;\nbit[1] c;\n{body}\nc = measure q;\n'


def request(
    action: str = "quantum.sample", *, snapshot: str = "boston", seed: int = 7, **arguments: Any
) -> aer.Request:
    return aer.Request(
        snapshot=snapshot,
        action=action,
        arguments=arguments,
        seed=seed,
        shots_max=100_000,
        time_max_s=60.0,
        memory_max_bytes=1 << 30,
    )


def run(asked: aer.Request) -> dict[str, Any]:
    """The answer of the worker's `run`, without a worker."""
    steps = aer.run(asked)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: dict[str, Any] = end.value
            return answer

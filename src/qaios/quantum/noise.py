"""The noise of a real machine, for the few qubits a circuit uses.

In goes a `Compiled` circuit and the machine's `Calibration`; out comes what Aer needs to simulate it: a noise
model of those qubits and a circuit in which waiting qubits decay. Runs in the worker.

Each gate gets a depolarising channel chosen so that together with relaxation over its length it has exactly the
error the calibration states (Aer's own construction); each readout flips with the calibrated p01 and p10; each
wait between operations relaxes with the qubit's T1 and T2, except inside branches. There is no crosstalk and no
leakage: errors are local, which is why the model may be cut down to the used qubits without changing any result.
Models are kept per (snapshot, qubits, gates used): building one takes tens of milliseconds, a run should not.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from qaios.quantum.calibration import Calibration, load
from qaios.quantum.compile import Compiled, target
from qaios.quantum.estimate import Kind, flat

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit_aer.noise import NoiseModel


Used = frozenset[tuple[str, tuple[int, ...]]]


def model_of(compiled: Compiled, snapshot: str) -> NoiseModel:
    """The noise of exactly the gates this circuit uses."""
    steps = flat(compiled.operations)
    used = frozenset((step.name, step.qubits) for step in steps if step.kind in (Kind.GATE, Kind.RESET))
    return model(snapshot, compiled.physical, used)


@functools.lru_cache(maxsize=256)
def model(snapshot: str, qubits: tuple[int, ...], used: Used) -> NoiseModel:
    """Errors of the gates `used` (name, physical qubits) and of all readouts; qubits are numbered as given."""
    from qiskit_aer.noise import NoiseModel, ReadoutError
    from qiskit_aer.noise.device import basic_device_gate_errors

    calibration = load(snapshot)
    machine = target(calibration, qubits, used)
    made = NoiseModel(basis_gates=sorted({*machine.operation_names} - {"measure", "reset", "delay"}))
    for name, places, error in basic_device_gate_errors(target=machine):
        made.add_quantum_error(error, name, list(places))
    for position, qubit in enumerate(qubits):
        p01, p10 = float(calibration.p01[qubit]), float(calibration.p10[qubit])
        made.add_readout_error(ReadoutError([[1 - p01, p01], [p10, 1 - p10]]), [position])
    return made


def with_waiting(circuit: QuantumCircuit, compiled: Compiled, calibration: Calibration) -> QuantumCircuit:
    """`circuit` (compiled, perhaps bound) with a relaxation channel wherever a qubit waits; delays become these too."""
    from qiskit_aer.noise import thermal_relaxation_error

    position = {qubit: index for index, qubit in enumerate(compiled.physical)}
    waits: dict[int, list[tuple[int, float]]] = {}
    for idle in compiled.timeline.idles:
        waits.setdefault(idle.before, []).append((idle.qubit, idle.duration_s))
    decaying = circuit.copy_empty_like()
    for index, step in enumerate(circuit.data):
        for qubit, duration_s in waits.get(index, ()):
            error = thermal_relaxation_error(float(calibration.t1_s[qubit]), float(calibration.t2_s[qubit]), duration_s)
            decaying.append(error.to_instruction(), [position[qubit]])
        if step.operation.name not in ("delay", "barrier"):
            decaying.append(step.operation, step.qubits, step.clbits, copy=False)
    return decaying

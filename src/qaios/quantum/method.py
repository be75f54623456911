"""How a circuit will be simulated, decided before it is, and refused when it would eat the machine.

In go the size and steps of a compiled circuit and the limits of a device; out comes a `Choice` with its
predicted time and memory, or a refusal that names what each method would need. Pure arithmetic: the worker
asks it before every run, and the estimate that placement sees comes from the same call.

Three exact-in-distribution methods of Aer compete. A density matrix holds all noise at once and pays 4^n per
step, but only once for all shots. State-vector trajectories draw the noise anew for each shot and pay 2^n per
step and shot. Matrix-product states do the same with a cost that grows with entanglement instead of size; the
bond dimension is bounded here by the entangling gates that cross each cut. The constants are fitted on
qiskit-aer 0.18 with one thread and are good to a factor of about two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qaios.core.errors import Refused
from qaios.quantum.estimate import Idle, Kind, Operation, flat

_DENSITY_STEP_S, _DENSITY_AMPLITUDE_S = 40e-6, 4e-9
_VECTOR_STEP_S, _VECTOR_AMPLITUDE_S = 2.5e-6, 4.3e-9
_MPS_STEP_S, _MPS_BOND_S = 20e-6, 150e-9
_FIXED_S = 0.02  # model, assembly and reading back


@dataclass(frozen=True, slots=True)
class Limits:
    """What one simulation may take."""

    time_s: float = 120.0
    memory_bytes: int = 2 << 30


@dataclass(frozen=True, slots=True)
class Choice:
    """A simulation method (Aer's name for it) and what it is predicted to need."""

    method: str
    time_s: float
    memory_bytes: int


def choose(
    operations: Sequence[Operation],
    idles: Sequence[Idle],
    qubits: Sequence[int],
    *,
    shots: int,
    final_measurements: bool,
    limits: Limits,
) -> Choice:
    """The quickest method within the limits. Raises `Refused` with every method's needs when there is none."""
    choices = predict(operations, idles, qubits, shots=shots, final_measurements=final_measurements)
    fitting = [c for c in choices if c.time_s <= limits.time_s and c.memory_bytes <= limits.memory_bytes]
    if fitting:
        return min(fitting, key=lambda choice: choice.time_s)
    needs = "; ".join(f"{c.method}: {_time(c.time_s)}, {_memory(c.memory_bytes)}" for c in choices)
    raise Refused(
        f"simulating {shots} shots on {len(qubits)} noisy qubits would need {needs}; "
        f"the limit is {_time(limits.time_s)} and {_memory(limits.memory_bytes)}",
        hint="fewer shots, qubits or gates, or a device with higher limits",
    )


def predict(
    operations: Sequence[Operation],
    idles: Sequence[Idle],
    qubits: Sequence[int],
    *,
    shots: int,
    final_measurements: bool,
) -> tuple[Choice, ...]:
    """What each method would need, quickest not first. `qubits` are the physical ones in simulation order."""
    width, operations = len(qubits), flat(operations)
    # Every gate is followed by its error channel, and every wait is a channel.
    steps = 2 * sum(1 for step in operations if step.kind is Kind.GATE and step.error > 0.0)
    steps += sum(1 for step in operations if step.kind is not Kind.BARRIER) + len(idles)
    bond, work = _bonds(operations, {qubit: index for index, qubit in enumerate(qubits)})
    passes = 1 if final_measurements else shots
    density_s = passes * steps * (_DENSITY_STEP_S + _DENSITY_AMPLITUDE_S * 4.0**width)
    vector_s = shots * steps * (_VECTOR_STEP_S + _VECTOR_AMPLITUDE_S * 2.0**width)
    mps_s = shots * (steps * _MPS_STEP_S + work * _MPS_BOND_S)
    return (
        Choice("density_matrix", _FIXED_S + density_s, (1 << 20) + 40 * 4**width),
        Choice("statevector", _FIXED_S + vector_s, (1 << 20) + 40 * 2**width),
        Choice("matrix_product_state", _FIXED_S + mps_s, (1 << 20) + 80 * width * bond * bond),
    )


def _bonds(operations: Sequence[Operation], position: dict[int, int]) -> tuple[int, float]:
    """Bounds for matrix-product states: the largest bond dimension, and the sum of its cubes over all gates.

    An entangling gate at most doubles the bond at every cut it crosses, and a cut never needs more than its
    smaller side; splitting a pair of sites costs the cube of the bond between them.
    """
    width = len(position)
    exponents = [0] * max(width - 1, 1)
    work = 0.0
    for step in operations:
        if step.kind is Kind.GATE and len(step.qubits) == 2:
            first, second = sorted(position[qubit] for qubit in step.qubits)
            for cut in range(first, second):
                exponents[cut] = min(exponents[cut] + 1, cut + 1, width - cut - 1, 40)
                work += 8.0 ** exponents[cut]
    return int(2 ** max(exponents, default=0)), work


def _time(time_s: float) -> str:
    if time_s < 120:
        return f"{time_s:.3g} s"
    return f"{time_s / 60:.3g} min" if time_s < 7200 else f"{time_s / 3600:.3g} h"


def _memory(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.3g} MiB" if size_bytes < 1 << 30 else f"{size_bytes / (1 << 30):.3g} GiB"

"""What a compiled circuit will cost on a machine: its time and the probability that a shot is right.

In go the operations of a circuit placed on physical qubits and the machine's `Calibration`; out come a
schedule and an `Expectation`. It is plain arithmetic on calibration figures, so it is exact, repeatable and
costs microseconds; no simulator and no SDK is involved. The worker calls it after compiling, the driver turns
the answer into `Estimate`, and the noise model uses the same schedule to know where qubits wait.

Success is the *estimated success probability* (ESP; Nishio et al., ACM JETC 16(3), 2020; Murali et al., ASPLOS
2019): the product of every gate's and readout's probability to go right, extended by the decay of waiting
qubits. A qubit that waits a time t under T1 and T2 keeps its state with the average fidelity
1/2 + exp(-t/T1)/6 + exp(-t/T2)/3 (Nielsen, Phys. Lett. A 303, 2002, applied to amplitude and phase damping),
the same measure of error that randomised benchmarking gives for gates.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass

from qaios.quantum.calibration import Calibration


class Kind(enum.StrEnum):
    GATE = "gate"
    MEASURE = "measure"
    RESET = "reset"
    DELAY = "delay"  # a wait the program asked for
    BARRIER = "barrier"
    BRANCH = "branch"  # operations that depend on a measured value


@dataclass(frozen=True, slots=True)
class Operation:
    """One step of a compiled circuit on physical qubits; `inner` are the steps of all ways a branch can take."""

    kind: Kind
    name: str
    qubits: tuple[int, ...]
    duration_s: float
    error: float  # probability to go wrong, 0..1
    inner: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True)
class Idle:
    """Qubit `qubit` waits for `duration_s` just before operation number `before`."""

    before: int
    qubit: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each operation starts, as late as possible, and where qubits wait meanwhile."""

    start_s: tuple[float, ...]
    duration_s: float
    idles: tuple[Idle, ...]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What one circuit is expected to do on one machine. Probabilities 0..1, times of one shot."""

    shot_s: float  # from the first pulse to the end of the last readout
    repetition_delay_s: float
    gate_success: float
    readout_success: float
    idle_success: float
    qubits: int
    two_qubit_gates: int

    @property
    def success(self) -> float:
        return self.gate_success * self.readout_success * self.idle_success

    def qpu_s(self, shots: int) -> float:
        """Time on the machine: every shot runs the circuit and then waits for the qubits to relax."""
        return shots * (self.shot_s + self.repetition_delay_s)


def operation(calibration: Calibration, name: str, qubits: tuple[int, ...], delay_s: float = 0.0) -> Operation:
    """The operation `name` on physical `qubits`, with the length and error its calibration states.

    Raises `KeyError` for a gate that does not exist on these qubits, which a dead coupler does not.
    """
    if name == "barrier":
        return Operation(Kind.BARRIER, name, qubits, 0.0, 0.0)
    if name == "delay":
        return Operation(Kind.DELAY, name, qubits, delay_s, 0.0)
    if name == "measure":
        (qubit,) = qubits
        wrong = (calibration.p01[qubit] + calibration.p10[qubit]) / 2
        return Operation(Kind.MEASURE, name, qubits, float(calibration.readout_s[qubit]), float(wrong))
    if name == "reset":
        stated = calibration.gates.get("reset", {}).get(qubits)
        length_s = stated.length_s if stated else float(calibration.readout_s[qubits[0]])
        return Operation(Kind.RESET, name, qubits, length_s, 0.0)
    gate = calibration.gates[name][qubits]
    return Operation(Kind.GATE, name, qubits, gate.length_s, gate.error)


def branch(
    calibration: Calibration, name: str, qubits: tuple[int, ...], ways: Sequence[Sequence[Operation]]
) -> Operation:
    """A branch as one operation: as long as its longest way and as wrong as its worst.

    The time the electronics takes to decide is not in the calibration and counts as nothing.
    """
    timelines = [schedule(way) for way in ways]
    worst = min(
        (expect(calibration, way, line).success for way, line in zip(ways, timelines, strict=True)), default=1.0
    )
    length_s = max((line.duration_s for line in timelines), default=0.0)
    return Operation(Kind.BRANCH, name, qubits, length_s, 1.0 - worst, tuple(step for way in ways for step in way))


def flat(operations: Sequence[Operation]) -> list[Operation]:
    """Every operation that may happen, those inside branches in place of the branch."""
    return [inner for step in operations for inner in (flat(step.inner) if step.kind is Kind.BRANCH else [step])]


def schedule(operations: Sequence[Operation]) -> Schedule:
    """Place each operation as late as its successors allow.

    As late as possible, because a qubit in its ground state loses nothing by waiting: only the gaps *between*
    a qubit's operations cost anything, and those are the idles returned. Waits asked for by the program count too.
    """
    from_end_s: dict[int, float] = {}
    to_end_s = [0.0] * len(operations)
    for index in range(len(operations) - 1, -1, -1):
        step = operations[index]
        until_s = max((from_end_s.get(qubit, 0.0) for qubit in step.qubits), default=0.0)
        to_end_s[index] = until_s + step.duration_s
        for qubit in step.qubits:
            from_end_s[qubit] = to_end_s[index]
    total_s = max(from_end_s.values(), default=0.0)
    starts_s = tuple(total_s - left_s for left_s in to_end_s)
    busy_until_s: dict[int, float] = {}
    idles: list[Idle] = []
    for index, step in enumerate(operations):
        if step.kind is Kind.BARRIER:
            continue
        for qubit in step.qubits:
            gap_s = starts_s[index] - busy_until_s.get(qubit, starts_s[index])
            if step.kind is not Kind.DELAY:
                if gap_s > 1e-12:
                    idles.append(Idle(index, qubit, gap_s))
                busy_until_s[qubit] = starts_s[index] + step.duration_s
            # A delay leaves `busy_until_s` alone: it becomes part of the gap before the next real operation.
    return Schedule(starts_s, total_s, tuple(idles))


def idle_fidelity(duration_s: float, t1_s: float, t2_s: float) -> float:
    """Average fidelity, 1/2..1, of a qubit that waits `duration_s` under relaxation T1 and dephasing T2."""
    return 0.5 + math.exp(-duration_s / t1_s) / 6 + math.exp(-duration_s / t2_s) / 3


def expect(calibration: Calibration, operations: Sequence[Operation], timeline: Schedule) -> Expectation:
    """What `operations`, run along `timeline`, are expected to do."""
    gates = readout = idle = 1.0
    for step in operations:
        if step.kind in (Kind.GATE, Kind.BRANCH):
            gates *= 1.0 - step.error
        elif step.kind is Kind.MEASURE:
            readout *= 1.0 - step.error
    for wait in timeline.idles:
        idle *= idle_fidelity(wait.duration_s, float(calibration.t1_s[wait.qubit]), float(calibration.t2_s[wait.qubit]))
    return Expectation(
        shot_s=timeline.duration_s,
        repetition_delay_s=calibration.repetition_delay_s,
        gate_success=gates,
        readout_success=readout,
        idle_success=idle,
        qubits=len({qubit for step in operations if step.kind is not Kind.BARRIER for qubit in step.qubits}),
        two_qubit_gates=sum(1 for step in flat(operations) if step.kind is Kind.GATE and len(step.qubits) == 2),
    )


def prior(calibration: Calibration, *, qubits: int, two_qubit_gates: int, layers: int) -> Expectation:
    """The expectation for a circuit nobody has seen yet, of a stated size, on a qubit of median quality.

    Used where arguments still refer to results that do not exist: it ranks machines by their medians and says
    nothing about the circuit.
    """
    middle = calibration.medians()
    return Expectation(
        shot_s=layers * middle["two_qubit_s"] + middle["readout_s"],
        repetition_delay_s=calibration.repetition_delay_s,
        gate_success=(1 - middle["two_qubit_error"]) ** two_qubit_gates
        * (1 - middle["single_qubit_error"]) ** (2 * two_qubit_gates),
        readout_success=(1 - middle["readout_error"]) ** qubits,
        idle_success=idle_fidelity(layers * middle["two_qubit_s"], middle["t1_s"], middle["t2_s"]) ** qubits,
        qubits=qubits,
        two_qubit_gates=two_qubit_gates,
    )

"""From a circuit as written to the same circuit on physical qubits, small enough to simulate.

In goes a `QuantumCircuit` and a `Calibration`; out comes a `Compiled`: the circuit in the machine's own gates,
cut down to the qubits it uses, with the physical qubit of each, its operations and its schedule. Runs in the
worker (it imports qiskit). The result is kept per circuit structure: a circuit with parameters is compiled
once and then only bound.

Two measured facts shape it. Simulating with the noise of all 127 qubits costs two seconds a run and with that
of the used ones ten milliseconds, hence the cut. And transpiling at levels 0 and 1 places circuits on couplers
that do not work, so the compile target holds only the region of live qubits and couplers, and the level is 2.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qaios.core.errors import Invalid, Refused
from qaios.quantum.calibration import Calibration, load
from qaios.quantum.estimate import Operation, Schedule, branch, operation, schedule

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit.circuit import CircuitInstruction
    from qiskit.transpiler import PassManager, Target

LEVEL = 2
SEED = 20  # of the layout search: one circuit has one layout, wherever and whenever it is compiled


@dataclass(frozen=True, slots=True, eq=False)
class Compiled:
    """A circuit on a machine. Qubit `i` of `circuit` is physical qubit `physical[i]`.

    `initial[j]` is where qubit `j` of the program starts, `operations` follow the circuit's instructions one by one.
    """

    circuit: QuantumCircuit
    physical: tuple[int, ...]
    initial: tuple[int, ...]
    operations: tuple[Operation, ...]
    timeline: Schedule
    final_measurements: bool  # nothing follows a measurement on its qubit: shots can be drawn from one final state


def compile_circuit(circuit: QuantumCircuit, snapshot: str) -> Compiled:
    """Compile for the machine of `snapshot`.

    Raises `Invalid` for a circuit no machine can run, `Refused` for one this machine cannot run.
    """
    calibration = load(snapshot)
    check(circuit, calibration)
    placed = _passes(snapshot).run(circuit)
    return _compact(placed, calibration)


def check(circuit: QuantumCircuit, calibration: Calibration) -> None:
    """Say no early and by name to what cannot be run. Raises `Invalid` or `Refused`."""
    from qiskit.circuit import ControlFlowOp, IfElseOp

    if circuit.num_qubits == 0:
        raise Invalid("the circuit has no qubits")
    if circuit.num_qubits > len(calibration.region):
        raise Refused(
            f"the circuit needs {circuit.num_qubits} qubits; {calibration.machine} has {len(calibration.region)} "
            "live and connected ones",
            hint="use a larger machine",
        )
    if not any(step.operation.name == "measure" for step in _flat(circuit)):
        raise Invalid("the circuit measures nothing, so there is nothing to count", hint="add a measurement")
    for step in _flat(circuit):
        if isinstance(step.operation, ControlFlowOp) and not isinstance(step.operation, IfElseOp):
            raise Refused(
                f"the circuit has a {step.operation.name!r}; of classical control this device runs 'if' and 'else'",
                hint="unroll it",
            )
    if circuit.num_vars:
        raise Refused("the circuit declares classical variables; this device runs only conditions on measured bits")


def bind(compiled: Compiled, values: Mapping[str, float]) -> QuantumCircuit:
    """The compiled circuit with every parameter given its value. Raises `Invalid` for a missing or unknown one."""
    wanted = {parameter.name: parameter for parameter in compiled.circuit.parameters}
    missing, unknown = sorted(wanted.keys() - values.keys()), sorted(values.keys() - wanted.keys())
    if missing:
        raise Invalid(f"the circuit's parameters {', '.join(missing)} have no value", hint="give them in 'parameters'")
    if unknown:
        raise Invalid(f"the circuit has no parameters {', '.join(unknown)}", hint=f"it has: {', '.join(wanted)}")
    if not wanted:
        return compiled.circuit
    return compiled.circuit.assign_parameters({wanted[name]: float(value) for name, value in values.items()})


def target(
    calibration: Calibration, qubits: tuple[int, ...], used: frozenset[tuple[str, tuple[int, ...]]] | None = None
) -> Target:
    """A compile target of some physical qubits, renumbered from 0, with only the gates that work.

    With `used` (gate names on physical qubits) it holds only those: what a noise model of one circuit needs.
    """
    from qiskit.circuit import Delay, IfElseOp, Measure, Parameter, Reset
    from qiskit.circuit.library import get_standard_gate_name_mapping
    from qiskit.transpiler import InstructionProperties, QubitProperties, Target

    index = {qubit: position for position, qubit in enumerate(qubits)}
    standard = get_standard_gate_name_mapping()
    made = Target(
        num_qubits=len(qubits),
        dt=calibration.dt_s,
        qubit_properties=[
            QubitProperties(t1=float(calibration.t1_s[qubit]), t2=float(calibration.t2_s[qubit])) for qubit in qubits
        ],
    )
    for name in _basis(calibration):
        made.add_instruction(
            standard[name],
            {
                tuple(index[qubit] for qubit in place): InstructionProperties(error=gate.error, duration=gate.length_s)
                for place, gate in calibration.gates[name].items()
                if all(qubit in index for qubit in place) and (used is None or (name, place) in used)
            },
        )
    steps = [operation(calibration, "measure", (qubit,)) for qubit in qubits]
    made.add_instruction(
        Measure(), {(i,): InstructionProperties(error=s.error, duration=s.duration_s) for i, s in enumerate(steps)}
    )
    resets = [operation(calibration, "reset", (q,)) for q in qubits if used is None or ("reset", (q,)) in used]
    made.add_instruction(Reset(), {(index[s.qubits[0]],): InstructionProperties(duration=s.duration_s) for s in resets})
    made.add_instruction(Delay(Parameter("t")), {(i,): None for i in range(len(qubits))})
    if used is None:
        made.add_instruction(IfElseOp, name="if_else")
    return made


def _basis(calibration: Calibration) -> tuple[str, ...]:
    """The gates we compile to: the plain ones. Fractional gates (rx, rzz) exist on some machines and are left out."""
    plain = ("id", "rz", "sx", "x", "u1", "u2", "u3")
    found = tuple(name for name in plain if name in calibration.gates)
    return (*found, calibration.entangler) if calibration.entangler else found


@functools.cache
def _passes(snapshot: str) -> PassManager:
    from qiskit.transpiler import generate_preset_pass_manager

    calibration = load(snapshot)
    machine = target(calibration, calibration.region)
    with _own_plugins_only():
        return generate_preset_pass_manager(optimization_level=LEVEL, target=machine, seed_transpiler=SEED)


@contextlib.contextmanager
def _own_plugins_only() -> Iterator[None]:
    """Let qiskit load only the compiler stages it ships itself.

    It imports every package that registers a stage, used or not; qiskit-ibm-runtime, which we have for its
    calibrations alone, then costs three CPU seconds and 190 MB in each worker.
    """
    import stevedore

    every = stevedore.ExtensionManager.list_entry_points

    def own(manager: Any) -> list[Any]:
        return [entry for entry in every(manager) if entry.value.startswith("qiskit.")]

    stevedore.ExtensionManager.list_entry_points = own  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        stevedore.ExtensionManager.list_entry_points = every  # type: ignore[method-assign]


def _compact(placed: QuantumCircuit, calibration: Calibration) -> Compiled:
    """Cut a placed circuit down to the qubits it uses, and note what happens when on which of them."""
    from qiskit import QuantumCircuit

    region = calibration.region
    used = sorted(
        {
            placed.find_bit(qubit).index
            for step in placed.data
            if step.operation.name not in ("barrier", "delay")
            for qubit in step.qubits
        }
    )
    position = {place: index for index, place in enumerate(used)}
    small = QuantumCircuit(len(used), name=placed.name, global_phase=placed.global_phase)
    small.add_bits(placed.clbits)
    for register in placed.cregs:
        small.add_register(register)
    operations: list[Operation] = []
    for step in placed.data:
        kept = [placed.find_bit(qubit).index for qubit in step.qubits]
        kept = [place for place in kept if place in position]
        if not kept:
            continue  # a barrier or a delay on qubits that nothing else touches
        instruction = step.operation if len(kept) == len(step.qubits) else _narrower(step, len(kept))
        small.append(instruction, [position[place] for place in kept], step.clbits, copy=False)
        qubits = tuple(region[place] for place in kept)
        operations.append(_operation(step, qubits, calibration))
    layout = placed.layout
    initial = (
        () if layout is None else tuple(region[place] for place in layout.initial_index_layout(filter_ancillas=True))
    )
    return Compiled(
        circuit=small,
        physical=tuple(region[place] for place in used),
        initial=initial,
        operations=tuple(operations),
        timeline=schedule(operations),
        final_measurements=_measures_last(placed),
    )


def _operation(step: CircuitInstruction, qubits: tuple[int, ...], calibration: Calibration) -> Operation:
    """What one instruction is for the estimate; of a branch, all ways it can take."""
    blocks = getattr(step.operation, "blocks", ())
    if not blocks:
        return operation(calibration, step.operation.name, qubits, _delay_s(step, calibration))
    ways = [
        [
            _operation(inner, tuple(qubits[block.find_bit(qubit).index] for qubit in inner.qubits), calibration)
            for inner in block.data
        ]
        for block in blocks
    ]
    return branch(calibration, step.operation.name, qubits, ways)


def _narrower(step: CircuitInstruction, width: int) -> Any:
    """A barrier over fewer qubits."""
    from qiskit.circuit.library import Barrier

    return Barrier(width, label=step.operation.label)


def _delay_s(step: CircuitInstruction, calibration: Calibration) -> float:
    if step.operation.name != "delay":
        return 0.0
    unit = step.operation.unit
    scale = {"dt": calibration.dt_s, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}
    if unit not in scale:
        raise Invalid(f"a delay in the unit {unit!r} cannot be timed", hint="use s, ms, us, ns or dt")
    return float(step.operation.duration) * scale[unit]


def _measures_last(circuit: QuantumCircuit) -> bool:
    measured: set[Any] = set()
    written: set[Any] = set()
    for step in circuit.data:
        if step.operation.name in ("barrier", "delay"):
            continue
        if any(qubit in measured for qubit in step.qubits) or any(bit in written for bit in step.clbits):
            return False
        if step.operation.name == "measure":
            measured.update(step.qubits)
            written.update(step.clbits)
    return True


def _flat(circuit: QuantumCircuit) -> list[CircuitInstruction]:
    """Every instruction, those inside branches included."""
    found: list[CircuitInstruction] = []
    for step in circuit.data:
        found.append(step)
        for block in getattr(step.operation, "blocks", ()):
            found.extend(_flat(block))
    return found

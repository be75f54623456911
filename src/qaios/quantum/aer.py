"""What runs in the worker process of a simulated quantum device: compile, estimate, simulate with noise.

The driver `qaios.drivers.aer` calls three functions here through its worker, with plain data in and out:
`warm` pays for the imports ahead of time, `plan` says what shapes of tasks would cost, `run` does one task and
yields its progress on the way. Everything that imports qiskit is reached from here and from nowhere else.

A run is refused before it starts when its predicted time or memory is beyond the limits (`method`), and its
counts are read only when the simulator says that it succeeded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from qaios.bridge import circuits
from qaios.core.errors import DeviceFault, Invalid, QaiError
from qaios.quantum import compile as compiling
from qaios.quantum import method, noise, qaoa, qubo, solve
from qaios.quantum.calibration import SOURCE, load
from qaios.quantum.estimate import Expectation, expect

if TYPE_CHECKING:
    from qaios.quantum.compile import Compiled

SHOTS = 1024  # where a task states none
_THREADS_FROM_S = 5.0  # shorter runs lose more to their threads waiting for each other than they gain
LAYERS = 1  # on today's noise a second layer loses about as much as it brings


class Request(msgspec.Struct, frozen=True):
    """One task for `run`: on which snapshot, within which limits."""

    snapshot: str
    action: str
    arguments: dict[str, Any]
    seed: int
    shots_max: int
    time_max_s: float
    memory_max_bytes: int

    @property
    def limits(self) -> method.Limits:
        return method.Limits(self.time_max_s, self.memory_max_bytes)


class Plan(msgspec.Struct, frozen=True):
    """What one task would cost, or why it is refused. Crosses from the worker to the driver."""

    duration_s: float = 0.0
    fidelity: float = 1.0
    refusal: str = ""
    terms: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class Sampling:
    """The checked arguments of `quantum.sample`."""

    text: str
    shots: int
    memory: bool
    parameters: Mapping[str, float]


def warm(snapshot: str) -> str:
    """Import what runs will need and build the compiler for `snapshot`; returns the simulator's version."""
    bell = 'OPENQASM 2.0;\ninclude "qelib1.inc";\nqreg q[2];\ncreg c[2];\nh q[0];\ncx q[0],q[1];\nmeasure q -> c;\n'
    compiled = _compiled(snapshot, bell)
    _simulate(snapshot, compiled, {}, shots=1, seed=0, memory=False, limits=method.Limits())
    return version("qiskit-aer")


def plan(requests: list[Any]) -> list[Plan]:
    """What each `Request` (plain data) would cost; a task that cannot be done is a plan with a refusal."""
    return [_plan(request) for request in msgspec.convert(requests, list[Request])]


def run(request: Request) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """Do one task; yields {"fraction", "note"} and returns {"value", "provenance"}.

    Raises `Invalid`, `Refused`, and `DeviceFault` when the simulator fails.
    """
    if request.action == "quantum.sample":
        return (yield from _sample(request))
    if request.action == "quantum.optimize":
        return (yield from _optimize(request))
    raise Invalid(f"{request.action} is not an action of this device")


def read_sampling(arguments: Mapping[str, Any], shots_max: int) -> Sampling:
    """The arguments of `quantum.sample`, checked. Raises `Invalid` naming the argument."""
    text = arguments.get("circuit")
    if not isinstance(text, str):
        raise Invalid("circuit: OpenQASM 2 or 3 text is needed", hint="circuit: | OPENQASM 3.0; …")
    parameters = arguments.get("parameters", {})
    if not isinstance(parameters, Mapping) or not all(isinstance(v, int | float) for v in parameters.values()):
        raise Invalid("parameters: a mapping of names to numbers is needed", hint="parameters: {theta: 0.5}")
    memory = arguments.get("memory", False)
    if not isinstance(memory, bool):
        raise Invalid(f"memory: {memory!r} is neither true nor false")
    return Sampling(text, read_shots(arguments, shots_max), memory, parameters)


def read_shots(arguments: Mapping[str, Any], shots_max: int) -> int:
    shots = arguments.get("shots", SHOTS)
    if isinstance(shots, bool) or not isinstance(shots, int) or not 1 <= shots <= shots_max:
        raise Invalid(f"shots: {shots!r} is not possible", hint=f"a whole number from 1 to {shots_max}")
    return shots


def read_seed(arguments: Mapping[str, Any], default: int) -> int:
    seed = arguments.get("seed", default)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise Invalid(f"seed: {seed!r} is not a whole number of at least 0")
    return seed % (1 << 31)


def read_layers(arguments: Mapping[str, Any]) -> int:
    layers = arguments.get("p", LAYERS)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= qaoa.LAYERS_MAX:
        raise Invalid(f"p: {layers!r} is not possible", hint=f"the number of QAOA layers, 1 to {qaoa.LAYERS_MAX}")
    return layers


# ---------------------------------------------------------------------------------------------- compile, once


@functools.lru_cache(maxsize=256)
def _compiled(snapshot: str, text: str) -> Compiled:
    return compiling.compile_circuit(circuits.parse(text), snapshot)


class _Qaoa:
    """Compiled QAOA circuits by problem, so that estimating one and running it compile it once."""

    kept: dict[tuple[Any, ...], Compiled] = {}

    @classmethod
    def compiled(cls, snapshot: str, problem: qubo.Qubo, layers: int) -> Compiled:
        key = (snapshot, layers, problem.linear.tobytes(), problem.quadratic.tobytes())
        if key not in cls.kept:
            if len(cls.kept) >= 256:
                cls.kept.pop(next(iter(cls.kept)))
            circuit = qaoa.circuit(problem, layers, qaoa.scale_of(problem.costs()))
            cls.kept[key] = compiling.compile_circuit(circuit, snapshot)
        return cls.kept[key]


# ---------------------------------------------------------------------------------------------- estimate


def _plan(request: Request) -> Plan:
    try:
        shots = read_shots(request.arguments, request.shots_max)
        if request.action == "quantum.sample":
            sampling = read_sampling(request.arguments, request.shots_max)
            compiled = [_compiled(request.snapshot, sampling.text)]
            compiling.bind(compiled[0], sampling.parameters)
        else:
            problem, layers = qubo.read_problem(request.arguments), read_layers(request.arguments)
            qubo.check_quantum_size(problem)
            halvings = solve.exact_halvings(problem) if isinstance(problem, qubo.SectorSplit) else [problem]
            compiled = [_Qaoa.compiled(request.snapshot, part, layers) for part in halvings]
        choices = [_choose(each, shots, request.limits) for each in compiled]
    except QaiError as error:
        return Plan(refusal=f"{error}" + (f" ({error.hint})" if error.hint else ""))
    calibration = load(request.snapshot)
    expected = [expect(calibration, each.operations, each.timeline) for each in compiled]
    qpu_s = sum(each.qpu_s(shots) for each in expected)
    simulation_s = sum(choice.time_s for choice in choices)
    return Plan(
        duration_s=max(qpu_s, simulation_s),
        fidelity=math.prod(each.success for each in expected),
        terms={**terms_of(expected), "qpu_s": qpu_s, "simulation_s": simulation_s, "shots": float(shots)},
    )


def terms_of(expected: list[Expectation]) -> dict[str, float]:
    """The parts an estimate is made of, over all circuits of a task."""
    return {
        "gate_success": math.prod(each.gate_success for each in expected),
        "readout_success": math.prod(each.readout_success for each in expected),
        "idle_success": math.prod(each.idle_success for each in expected),
        "shot_s": max((each.shot_s for each in expected), default=0.0),
        "repetition_delay_s": max((each.repetition_delay_s for each in expected), default=0.0),
        "qubits": float(max((each.qubits for each in expected), default=0)),
        "two_qubit_gates": float(sum(each.two_qubit_gates for each in expected)),
        "circuits": float(len(expected)),
    }


def _choose(compiled: Compiled, shots: int, limits: method.Limits) -> method.Choice:
    return method.choose(
        compiled.operations,
        compiled.timeline.idles,
        compiled.physical,
        shots=shots,
        final_measurements=compiled.final_measurements,
        limits=limits,
    )


# ---------------------------------------------------------------------------------------------- run


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one simulation gave: outcome numbers (bit `i` is classical bit `i`) and how often, and each shot's."""

    counts: dict[int, int]
    memory: list[int]
    choice: method.Choice


def _simulate(
    snapshot: str,
    compiled: Compiled,
    values: Mapping[str, float],
    *,
    shots: int,
    seed: int,
    memory: bool,
    limits: method.Limits,
) -> _Outcome:
    choice = _choose(compiled, shots, limits)
    bound = noise.with_waiting(compiling.bind(compiled, values), compiled, load(snapshot))
    answer = _simulator(choice.method, 1 if choice.time_s < _THREADS_FROM_S else 0).run(
        bound, noise_model=noise.model_of(compiled, snapshot), shots=shots, seed_simulator=seed, memory=memory
    )
    result = answer.result()
    if not result.success:
        # A failed run returns fast and looks like a result; nothing of it may be counted.
        raise DeviceFault(f"the simulator failed: {result.status}", retryable=False)
    data = result.data(0)
    counts = {int(outcome, 16): int(times) for outcome, times in data["counts"].items()}
    return _Outcome(counts, [int(outcome, 16) for outcome in data.get("memory", ())], choice)


@functools.cache
def _simulator(name: str, threads: int) -> Any:
    from qiskit_aer import AerSimulator

    # Shots one after the other: spread over threads, the numbers they draw would depend on the number of cores.
    return AerSimulator(method=name, max_parallel_threads=threads, max_parallel_shots=1, max_parallel_experiments=1)


def _sample(request: Request) -> Generator[dict[str, Any], None, dict[str, Any]]:
    sampling = read_sampling(request.arguments, request.shots_max)
    seed = read_seed(request.arguments, request.seed)
    yield {"fraction": 0.1, "note": "compiling"}
    compiled = _compiled(request.snapshot, sampling.text)
    yield {"fraction": 0.3, "note": "on the device"}
    outcome = _simulate(
        request.snapshot,
        compiled,
        sampling.parameters,
        shots=sampling.shots,
        seed=seed,
        memory=sampling.memory,
        limits=request.limits,
    )
    registers = circuits.registers_of(compiled.circuit)
    counts = {circuits.bit_string(number, registers): times for number, times in sorted(outcome.counts.items())}
    value: dict[str, Any] = {
        "counts": counts,
        "registers": [{"name": register.name, "size": len(register.bits)} for register in registers],
        "shots": sampling.shots,
    }
    if sampling.memory:
        value["memory"] = [circuits.bit_string(number, registers) for number in outcome.memory]
    return {"value": value, "provenance": _provenance(request.snapshot, [compiled], [outcome.choice], seed)}


def _optimize(request: Request) -> Generator[dict[str, Any], None, dict[str, Any]]:
    problem = qubo.read_problem(request.arguments)
    qubo.check_quantum_size(problem)
    layers, shots = read_layers(request.arguments), read_shots(request.arguments, request.shots_max)
    seed = read_seed(request.arguments, request.seed)
    done: list[tuple[Compiled, method.Choice]] = []

    def sampler(part: qubo.Qubo, angles: qaoa.Angles) -> np.ndarray[Any, np.dtype[np.int64]]:
        compiled = _Qaoa.compiled(request.snapshot, part, layers)
        outcome = _simulate(
            request.snapshot,
            compiled,
            angles.values(),
            shots=shots,
            seed=(seed + len(done)) % (1 << 31),
            memory=True,
            limits=request.limits,
        )
        done.append((compiled, outcome.choice))
        return np.asarray(outcome.memory, dtype=np.int64)

    yield {"fraction": 0.1, "note": "finding angles and sampling"}
    value = solve.solve(problem, layers, sampler)
    value |= {"p": layers, "shots": shots}
    compiled, choices = [each for each, _ in done], [choice for _, choice in done]
    provenance = _provenance(request.snapshot, compiled, choices, seed)
    provenance["algorithm"] = "QAOA (Farhi et al. 2014), angles by BFGS on the exact state vector, sampled with noise"
    return {"value": value, "provenance": provenance}


def _provenance(snapshot: str, compiled: list[Compiled], choices: list[method.Choice], seed: int) -> dict[str, Any]:
    """Where the numbers come from: machine, calibration, layout, method, versions, seed."""
    calibration = load(snapshot)
    expected = [expect(calibration, each.operations, each.timeline) for each in compiled]
    return {
        "simulated": True,
        "machine": calibration.machine,
        "processor": calibration.processor,
        "calibration": calibration.id,
        "calibration_date": calibration.date,
        "calibration_source": SOURCE,
        "noise": "depolarising and relaxation per gate, readout, relaxation while waiting; no crosstalk, no leakage",
        "method": "+".join(sorted({choice.method for choice in choices})),
        "layout": [list(each.initial) for each in compiled],
        "physical_qubits": [list(each.physical) for each in compiled],
        "transpile_level": compiling.LEVEL,
        "transpile_seed": compiling.SEED,
        "esp": math.prod(each.success for each in expected),
        "esp_terms": terms_of(expected),
        "seed": seed,
        "qiskit": version("qiskit"),
        "qiskit_aer": version("qiskit-aer"),
    }

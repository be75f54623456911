"""Calibration snapshots: what a real machine measured about itself on a stated day, as columns of numbers.

In goes the name of a snapshot that the package `qiskit-ibm-runtime` ships (`conf_*.json`, `props_*.json`);
out comes a `Calibration`. The estimator, the noise model and the compile target all read from it, so what
the placement believes and what the simulation does come from the same figures. The JSON is read without
importing the package, because its import costs seconds and 190 MB and the kernel's process needs neither.

Two repairs are made to the raw figures and both are kept visible. A coupler that was not working is published
with error 1.0, so any error of one half or more counts as dead and is stripped. A T2 above 2·T1, which no
qubit can have and which only measurement scatter produces, is clipped to 2·T1.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import DeviceFault, NotFound

DEAD_ERROR = 0.5  # a gate that fails every other time is switched off, not noisy
PACKAGE = "qiskit_ibm_runtime"
SOURCE = "IBM Quantum calibration data, as shipped in qiskit-ibm-runtime (Apache-2.0)"
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_REPETITION_DELAY_S = 250e-6  # IBM's default where an old snapshot states none


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate on one set of qubits: average infidelity 0..1 from randomised benchmarking, and its length."""

    error: float
    length_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """One snapshot of one machine; every array has one entry per physical qubit.

    `p01` is the probability to read 1 having prepared 0, `p10` the other way round. `gates` maps a gate's
    name to the qubits it works on, dead ones left out. `region` is the largest connected set of live qubits.
    """

    name: str  # "sherbrooke"
    machine: str  # "ibm_sherbrooke", as the maker calls it
    id: str  # changes when any figure does
    date: str  # ISO 8601, when the figures were last updated
    processor: str  # "Eagle r3"
    t1_s: NDArray[np.float64]
    t2_s: NDArray[np.float64]
    p01: NDArray[np.float64]
    p10: NDArray[np.float64]
    readout_s: NDArray[np.float64]
    gates: Mapping[str, Mapping[tuple[int, ...], Gate]]
    entangler: str  # the name of the two-qubit gate
    dead_couplers: tuple[tuple[int, int], ...]
    region: tuple[int, ...]
    repetition_delay_s: float
    shots_max: int
    dt_s: float

    @property
    def qubits(self) -> int:
        return len(self.t1_s)

    def medians(self) -> Mapping[str, float]:
        """The figures people compare machines by, over the live qubits and couplers."""
        return _medians(self)


def snapshots() -> tuple[str, ...]:
    """Names of all snapshots that are installed here; empty when the package is not."""
    root = _root()
    if root is None:
        return ()
    return tuple(sorted(path.parent.name for path in root.glob("*/props_*.json")))


@functools.cache
def load(name: str) -> Calibration:
    """The snapshot `name` ("sherbrooke", "boston", …).

    Raises `DeviceFault` when the package that ships the snapshots is not installed, and `NotFound` when it
    ships none of that name. The answer is cached: snapshots do not change while the process lives.
    """
    root = _root()
    if root is None:
        raise DeviceFault(
            f"the calibration snapshot {name!r} cannot be read: the package qiskit-ibm-runtime is not installed",
            retryable=False,
            hint="install the extra: pip install 'qaios[ibm]'",
        )
    properties, configuration = root / name / f"props_{name}.json", root / name / f"conf_{name}.json"
    if not (properties.is_file() and configuration.is_file()):
        known = ", ".join(snapshots())
        raise NotFound(f"there is no calibration snapshot {name!r}", hint=f"installed are: {known}")
    return read(name, properties.read_bytes(), configuration.read_bytes())


def read(name: str, properties: bytes, configuration: bytes) -> Calibration:
    """A `Calibration` from the two JSON documents of a snapshot (IBM's backend properties and configuration)."""
    measured, built = json.loads(properties), json.loads(configuration)
    count = int(built["n_qubits"])
    columns = {key: np.full(count, math.nan) for key in ("T1", "T2", "p01", "p10", "readout_length")}
    faulty: set[int] = set()
    for qubit, entries in enumerate(measured["qubits"]):
        figures = {entry["name"]: _value(entry) for entry in entries}
        columns["T1"][qubit] = figures.get("T1", math.nan)
        columns["T2"][qubit] = figures.get("T2", math.nan)
        either = figures.get("readout_error", math.nan)
        columns["p01"][qubit] = figures.get("prob_meas1_prep0", either)
        columns["p10"][qubit] = figures.get("prob_meas0_prep1", either)
        columns["readout_length"][qubit] = figures.get("readout_length", math.nan)
        if figures.get("operational", 1.0) == 0.0:
            faulty.add(qubit)
    gates, dead = _gates(measured["gates"], faulty)
    readout = (columns["p01"] + columns["p10"]) / 2
    whole = ~np.isnan(columns["T1"]) & ~np.isnan(columns["T2"]) & (readout < DEAD_ERROR)
    entangler = max(("ecr", "cz", "cx"), key=lambda gate: len(gates.get(gate, {})))
    entangler = entangler if entangler in gates else ""
    region = _largest_region(count, gates.get(entangler, {}), set(np.flatnonzero(whole).tolist()) - faulty)
    lengths = columns["readout_length"]
    delay_us = built.get("default_rep_delay")
    kind = built.get("processor_type") or {}
    return Calibration(
        name=name,
        machine=str(measured["backend_name"]),
        id=f"{name}-{hashlib.sha256(properties + configuration).hexdigest()[:12]}",
        date=str(measured["last_update_date"]),
        processor=f"{kind.get('family', 'unknown')} r{kind.get('revision', '?')}",
        t1_s=columns["T1"],
        t2_s=np.minimum(columns["T2"], 2 * columns["T1"]),
        p01=columns["p01"],
        p10=columns["p10"],
        readout_s=np.where(np.isnan(lengths), np.nanmedian(lengths) if np.any(~np.isnan(lengths)) else 1e-6, lengths),
        gates=gates,
        entangler=entangler,
        dead_couplers=tuple(sorted(dead.get(entangler or next(iter(dead), ""), ()))),
        region=region,
        repetition_delay_s=_REPETITION_DELAY_S if delay_us is None else float(delay_us) * 1e-6,
        shots_max=int(built.get("max_shots", 8192)),
        dt_s=float(built.get("dt", 0.2222)) * 1e-9,
    )


@functools.lru_cache(maxsize=128)
def _medians(machine: Calibration) -> Mapping[str, float]:
    live = list(machine.region)
    pairs = list(machine.gates.get(machine.entangler, {}).values()) or [Gate(0.0, 0.0)]
    singles = list(machine.gates.get("sx", machine.gates.get("u2", {})).values()) or [Gate(0.0, 0.0)]
    return MappingProxyType(
        {
            "t1_s": float(np.median(machine.t1_s[live])),
            "t2_s": float(np.median(machine.t2_s[live])),
            "readout_error": float(np.median((machine.p01[live] + machine.p10[live]) / 2)),
            "single_qubit_error": float(np.median([gate.error for gate in singles])),
            "two_qubit_error": float(np.median([gate.error for gate in pairs])),
            "two_qubit_s": float(np.median([gate.length_s for gate in pairs])),
            "readout_s": float(np.median(machine.readout_s[live])),
        }
    )


def _root() -> Path | None:
    """Where the package keeps its snapshots, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "fake_provider" / "backends"


def _value(entry: Mapping[str, Any]) -> float:
    """A figure in SI units: times in seconds, probabilities as they are, frequencies left in the maker's GHz."""
    return float(entry["value"]) * _SECONDS.get(entry.get("unit", ""), 1.0)


def _gates(
    entries: list[dict[str, Any]], faulty: set[int]
) -> tuple[dict[str, dict[tuple[int, ...], Gate]], dict[str, set[tuple[int, int]]]]:
    """Live gates, and dead couplers, by the name of the gate. A dead one-qubit gate makes its qubit faulty."""
    gates: dict[str, dict[tuple[int, ...], Gate]] = {}
    dead: dict[str, set[tuple[int, int]]] = {}
    for entry in entries:
        figures = {parameter["name"]: _value(parameter) for parameter in entry["parameters"]}
        qubits = tuple(int(qubit) for qubit in entry["qubits"])
        error = figures.get("gate_error", 0.0)
        if error >= DEAD_ERROR or figures.get("operational", 1.0) == 0.0:
            if len(qubits) == 2:
                dead.setdefault(entry["gate"], set()).add((qubits[0], qubits[1]))
            else:
                faulty.add(qubits[0])
            continue
        gates.setdefault(entry["gate"], {})[qubits] = Gate(error, figures.get("gate_length", 0.0))
    return gates, dead


def _largest_region(count: int, couplers: Mapping[tuple[int, ...], Gate], live: set[int]) -> tuple[int, ...]:
    """The largest set of live qubits that live couplers connect; programs are placed inside it only."""
    neighbours: dict[int, set[int]] = {qubit: set() for qubit in range(count) if qubit in live}
    for first, second in couplers:
        if first in neighbours and second in neighbours:
            neighbours[first].add(second)
            neighbours[second].add(first)
    best: list[int] = []
    unseen = set(neighbours)
    while unseen:
        frontier, reached = [min(unseen)], {min(unseen)}
        while frontier:
            for other in neighbours[frontier.pop()] - reached:
                reached.add(other)
                frontier.append(other)
        unseen -= reached
        if len(reached) > len(best):
            best = sorted(reached)
    return tuple(best)

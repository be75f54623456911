"""Problems with yes-or-no variables, their exact answers, and the question of splitting an area into sectors.

In goes a problem as plain data, as it stands in a mission file; out comes a `Qubo` (minimise a quadratic of
bits) or a `SectorSplit` (cells with loads and neighbours, to be parted evenly with short borders), and from
those the classical optimum. `solve_classical` is what the compute device runs when no quantum device helps, and
the reference that every quantum answer is reported beside. numpy only: it must not cost an import.

The sector split is graph partitioning in the form of Lucas (*Ising formulations of many NP problems*, Frontiers
in Physics 2:5, 2014, §2.2), with loads for the vertices and weights for the edges. For `k` parts of a graph with
total load T and mean load m

    cost = sum of the weights of edges between parts + balance · 2 · Σ_parts (load − T/k)² / m²

which for two parts is his  B·Σ w(1 − s_i s_j)/2 + A·(Σ load·s)²  with B = 1, A = balance / m². Four parts are
made by splitting in two and each half in two again, so the reported optimum, over all four-part splits, may be
better than anything that recursion can reach; it is reported all the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Invalid

CELLS_MAX = 10  # of a sector split: all four-part splits of ten cells can be listed
VARIABLES_MAX = 12  # of a QUBO sent to a quantum device
EXACT_MAX = 20  # variables up to which the classical answer is by listing all
_CLASSICAL_MAX = 2000  # variables the annealer takes
_ANNEAL_SWEEPS = 400

_LISTED = {"method": "exhaustive", "exact": True}


@dataclass(frozen=True, slots=True, eq=False)
class Qubo:
    """Minimise  offset + Σ linear_i x_i + Σ quadratic_ij x_i x_j  over bits x; `quadratic` has i < j only."""

    linear: NDArray[np.float64]
    quadratic: NDArray[np.float64]
    offset: float = 0.0

    @property
    def variables(self) -> int:
        return len(self.linear)

    def cost(self, bits: Sequence[int] | NDArray[Any]) -> float:
        x = np.asarray(bits, dtype=np.float64)
        return float(self.offset + self.linear @ x + x @ self.quadratic @ x)

    def costs(self) -> NDArray[np.float64]:
        """The cost of all 2^n assignments; bit `i` of the index is variable `i`. At most `EXACT_MAX` variables."""
        values = np.array([self.offset])
        weights = np.zeros((self.variables, 1))  # what each later variable would add, given the bits listed so far
        for index in range(self.variables):
            step = self.linear[index] + weights[index]
            values = np.concatenate([values, values + step])
            weights = np.concatenate([weights, weights + self.quadratic[index][:, None]], axis=1)
        return values

    def ising(self) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """The same cost as  constant + Σ h_i s_i + Σ J_ij s_i s_j  of spins s = 1 − 2x: (h, J, constant)."""
        whole = self.quadratic + self.quadratic.T
        h = -self.linear / 2 - whole.sum(axis=1) / 4
        constant = self.offset + float(self.linear.sum()) / 2 + float(self.quadratic.sum()) / 4
        return h, self.quadratic / 4, constant


@dataclass(frozen=True, slots=True, eq=False)
class SectorSplit:
    """Cells to be parted evenly by load, cutting edges of little weight. See the module for the cost."""

    cells: tuple[str, ...]
    loads: NDArray[np.float64]
    edges: tuple[tuple[int, int, float], ...]
    parts: int
    balance: float

    def cost(self, parting: Sequence[int] | NDArray[Any]) -> float:
        return float(self.costs_of(np.asarray([parting]))[0])

    def costs_of(self, partings: NDArray[Any]) -> NDArray[np.float64]:
        """The cost of many partings at once: rows of part numbers, one column a cell."""
        values = np.zeros(len(partings))
        for first, second, weight in self.edges:
            values += weight * (partings[:, first] != partings[:, second])
        scale = 2 * self.balance / float(self.loads.mean()) ** 2
        for part in range(self.parts):
            values += scale * ((partings == part) @ self.loads - self.loads.sum() / self.parts) ** 2
        return values

    def halving(self, members: Sequence[int]) -> Qubo:
        """Splitting `members` in two, as bits of all but the first of them, which stays in the first half."""
        loads = self.loads[list(members)]
        place = {cell: index for index, cell in enumerate(members)}
        scale = self.balance / float(self.loads.mean()) ** 2
        total = float(loads.sum())
        linear = scale * (-4 * total * loads + 4 * loads**2)
        quadratic = np.triu(8 * scale * np.outer(loads, loads), 1)
        for first, second, weight in self.edges:
            if first in place and second in place:
                low, high = sorted((place[first], place[second]))
                linear[low] += weight
                linear[high] += weight
                quadratic[low, high] -= 2 * weight
        # Naming the halves the other way round changes nothing, so one cell is fixed and one qubit saved.
        return Qubo(linear[1:], quadratic[1:, 1:], scale * total**2)

    def optimum(self) -> tuple[float, tuple[int, ...]]:
        """The cheapest parting into `parts` parts, by listing all of them; the first cell is in part 0."""
        partings = self.partings()
        values = self.costs_of(partings)
        best = int(np.argmin(values))
        return float(values[best]), tuple(int(part) for part in partings[best])

    def partings(self) -> NDArray[np.int8]:
        """All partings that have the first cell in part 0, one a row; naming parts otherwise makes no other parting."""
        others = len(self.cells) - 1
        index = np.arange(self.parts**others)
        columns = [np.zeros_like(index)] + [(index // self.parts**cell) % self.parts for cell in range(others)]
        return np.stack(columns, axis=1).astype(np.int8)


def read_problem(arguments: Mapping[str, Any]) -> Qubo | SectorSplit:
    """The problem in a task's arguments. Raises `Invalid` naming the field and what it should be."""
    kind = arguments.get("problem")
    if kind == "sector-split":
        return _read_split(arguments)
    if kind == "qubo":
        return _read_qubo(arguments)
    raise Invalid(f"problem: {kind!r} is not known", hint="use 'sector-split' or 'qubo'")


def check_quantum_size(problem: Qubo | SectorSplit) -> None:
    """Raise `Invalid` for a problem with more variables than a quantum device is asked to take."""
    if isinstance(problem, Qubo) and problem.variables > VARIABLES_MAX:
        raise Invalid(
            f"the QUBO has {problem.variables} variables; a quantum device takes at most {VARIABLES_MAX}",
            hint="use optimize.classical",
        )


def minimum(qubo: Qubo) -> tuple[float, tuple[int, ...]]:
    """The lowest cost and its bits, by listing all; among equals the smallest index, so that it is always the same."""
    values = qubo.costs()
    best = int(np.argmin(values))
    return float(values[best]), bits_of(best, qubo.variables)


def bits_of(index: int, variables: int) -> tuple[int, ...]:
    return tuple((index >> variable) & 1 for variable in range(variables))


def anneal(qubo: Qubo, seed: int, sweeps: int = _ANNEAL_SWEEPS) -> tuple[float, tuple[int, ...]]:
    """A low cost and its bits, by seeded simulated annealing over a fixed number of sweeps."""
    random = np.random.default_rng(seed)
    whole = qubo.quadratic + qubo.quadratic.T
    bits = random.integers(0, 2, qubo.variables).astype(np.float64)
    field = qubo.linear + whole @ bits
    hottest = float(np.max(np.abs(qubo.linear) + np.abs(whole).sum(axis=1), initial=1e-9))
    value = qubo.cost(bits)
    best, best_bits = value, bits.copy()
    for temperature in np.geomspace(hottest, hottest * 1e-4, sweeps):
        for variable in random.permutation(qubo.variables):
            turn = 1 - 2 * bits[variable]
            change = turn * field[variable]
            if change <= 0 or random.random() < math.exp(-change / temperature):
                bits[variable] += turn
                field += turn * whole[variable]
                value += change
                if value < best - 1e-12:
                    best, best_bits = value, bits.copy()
    return qubo.cost(best_bits), tuple(int(bit) for bit in best_bits)


def solve_classical(arguments: Mapping[str, Any] | None = None, /, **fields: Any) -> dict[str, Any]:
    """`optimize.classical`: the same arguments as `quantum.optimize`, the same shape of answer, no quantum device.

    Exact where all assignments can be listed (sector splits always, QUBOs up to 20 variables), else seeded
    simulated annealing, and then `exact` is false and `optimal_cost` is None. Fields that only matter on a quantum
    device (`shots`, `p`) are ignored. Raises `Invalid`.
    """
    given = {**(arguments or {}), **fields}
    problem = read_problem(given)
    if isinstance(problem, SectorSplit):
        cost, parting = problem.optimum()
        return {**describe(problem, parting), "cost": cost, **optimum_fields(problem), **_LISTED}
    if problem.variables <= EXACT_MAX:
        cost, bits = minimum(problem)
        return {"assignment": list(bits), "cost": cost, **optimum_fields(problem), **_LISTED}
    cost, bits = anneal(problem, int(given.get("seed", 0)))
    unknown = {"optimal_cost": None, "optimal_assignment": None}
    return {"assignment": list(bits), "cost": cost, **unknown, "method": "simulated annealing", "exact": False}


def describe(problem: SectorSplit, parting: Sequence[int]) -> dict[str, Any]:
    """A parting in the words of the problem: part of each cell, cells of each part, load of each part."""
    named = {cell: int(part) for cell, part in zip(problem.cells, parting, strict=True)}
    groups = [[cell for cell in problem.cells if named[cell] == part] for part in range(problem.parts)]
    loads = [
        float(sum(load for load, part in zip(problem.loads, parting, strict=True) if part == number))
        for number in range(problem.parts)
    ]
    return {"assignment": named, "parts": groups, "loads": loads}


def optimum_fields(problem: Qubo | SectorSplit) -> dict[str, Any]:
    """The classical optimum, by listing all, in the words of the problem."""
    if isinstance(problem, SectorSplit):
        cost, parting = problem.optimum()
        return {"optimal_cost": cost, "optimal_assignment": describe(problem, parting)["assignment"]}
    cost, bits = minimum(problem)
    return {"optimal_cost": cost, "optimal_assignment": list(bits)}


def _read_split(arguments: Mapping[str, Any]) -> SectorSplit:
    cells = arguments.get("cells")
    if not isinstance(cells, Sequence) or isinstance(cells, str) or not cells:
        raise Invalid("cells: a list of {id, load} is needed", hint="cells: [{id: a, load: 1.0}, …]")
    names: list[str] = []
    loads: list[float] = []
    for place, cell in enumerate(cells):
        if not isinstance(cell, Mapping) or "id" not in cell:
            raise Invalid(f"cells[{place}]: {cell!r} is not {{id, load}}", hint="write {id: a, load: 1.0}")
        names.append(str(cell["id"]))
        loads.append(_number(cell.get("load", 1.0), f"cells[{place}].load", low=0.0))
    if len(set(names)) != len(names):
        raise Invalid("cells: two cells have the same id", hint="give each its own")
    parts = arguments.get("parts", 2)
    if parts not in (2, 4) or isinstance(parts, bool):
        raise Invalid(f"parts: {parts!r} is not possible", hint="2 or 4")
    if not parts <= len(names) <= CELLS_MAX:
        raise Invalid(
            f"cells: {len(names)} cells cannot be split into {parts} parts here", hint=f"{parts} to {CELLS_MAX} cells"
        )
    if sum(loads) <= 0:
        raise Invalid("cells: all loads are zero", hint="give at least one cell a load")
    edges = _edges(arguments.get("edges", ()), len(names), "edges", names)
    if any(weight < 0 for _, _, weight in edges):
        raise Invalid("edges: a weight is negative", hint="weights are the length of a shared border: 0 or more")
    degree = np.zeros(len(names))
    for first, second, weight in edges:
        degree[[first, second]] += weight
    # Lucas: evenness must weigh at least a quarter of what one cell can save in borders; twice that is safe.
    usual = max(float(degree.max(initial=0.0)) / 2, 0.5)
    balance = _number(arguments.get("balance", usual), "balance", low=0.0)
    return SectorSplit(tuple(names), np.asarray(loads), edges, int(parts), balance)


def _read_qubo(arguments: Mapping[str, Any]) -> Qubo:
    linear = arguments.get("linear")
    if not isinstance(linear, Sequence) or isinstance(linear, str) or not linear:
        raise Invalid("linear: a list with one number for each variable is needed")
    if len(linear) > _CLASSICAL_MAX:
        raise Invalid(f"linear: {len(linear)} variables are too many", hint=f"at most {_CLASSICAL_MAX}")
    column = np.asarray([_number(value, f"linear[{place}]") for place, value in enumerate(linear)])
    quadratic = np.zeros((len(column), len(column)))
    for first, second, weight in _edges(arguments.get("quadratic", ()), len(column), "quadratic", None):
        quadratic[first, second] += weight
    return Qubo(column, quadratic, _number(arguments.get("offset", 0.0), "offset"))


def _edges(given: Any, count: int, field: str, names: list[str] | None) -> tuple[tuple[int, int, float], ...]:
    """Triples [i, j, weight], i and j as numbers from 0 or as cell ids; i < j in the answer."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise Invalid(f"{field}: a list of [i, j, weight] is needed")
    read: list[tuple[int, int, float]] = []
    for place, edge in enumerate(given):
        if not isinstance(edge, Sequence) or isinstance(edge, str) or len(edge) != 3:
            raise Invalid(f"{field}[{place}]: {edge!r} is not [i, j, weight]")
        ends = [names.index(end) if names and isinstance(end, str) and end in names else end for end in edge[:2]]
        for end in ends:
            if not isinstance(end, int) or isinstance(end, bool) or not 0 <= end < count:
                raise Invalid(f"{field}[{place}]: there is no variable {end!r}", hint=f"0 to {count - 1}")
        if ends[0] == ends[1]:
            raise Invalid(f"{field}[{place}]: {ends[0]} is joined with itself", hint="use two different variables")
        low, high = sorted(ends)
        read.append((low, high, _number(edge[2], f"{field}[{place}]")))
    return tuple(read)


def _number(value: Any, field: str, low: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < low:
        need = "a finite number" if low == -math.inf else f"a finite number of at least {low:g}"
        raise Invalid(f"{field}: {value!r} is not {need}")
    return float(value)

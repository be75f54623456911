"""The quantum approximate optimisation algorithm (Farhi, Goldstone, Gutmann, arXiv:1411.4028, 2014).

In goes a `Qubo`; out come the angles of a p-layer QAOA and the circuit to sample with them. The angles are found
here, on the exact state vector in numpy, because that costs milliseconds at these sizes and because noise would
only blur the search; the *sampling* is what the quantum device does. Being honest about what this is: at sizes
where the state vector fits, listing all assignments is cheaper still, and the caller reports that optimum beside
the samples.

Angles for p layers start from those for p − 1 by interpolation (Zhou et al., Phys. Rev. X 10, 021067, 2020). The
search stops on a number of steps, never on time, and draws no random numbers: one problem, one answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qaios.quantum.qubo import Qubo

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

LAYERS_MAX = 3
_GRID = 20
_STEPS = 20  # of the search, for each layer


@dataclass(frozen=True, slots=True)
class Angles:
    """Angles of a QAOA, in radians, for costs divided by `scale`; `expected` is the mean cost without noise."""

    gamma: tuple[float, ...]
    beta: tuple[float, ...]
    scale: float
    expected: float

    @property
    def layers(self) -> int:
        return len(self.gamma)

    def values(self) -> dict[str, float]:
        """By the parameter names of `circuit`."""
        return {
            **{f"gamma{layer}": angle for layer, angle in enumerate(self.gamma)},
            **{f"beta{layer}": angle for layer, angle in enumerate(self.beta)},
        }


def scale_of(costs: NDArray[np.float64]) -> float:
    """The spread of the costs; dividing by it makes good angles look alike for all problems."""
    spread = float(costs.std())
    return spread if spread > 0 else 1.0


def state(costs: NDArray[np.float64], gamma: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.complex128]:
    """The state after the layers, as 2^n amplitudes; bit `i` of the index is qubit `i`. `costs` are already scaled."""
    size = len(costs)
    amplitudes = np.full(size, 1 / math.sqrt(size), dtype=np.complex128)
    for phase, mix in zip(gamma, beta, strict=True):
        amplitudes = amplitudes * np.exp(-1j * phase * costs)
        cosine, sine = math.cos(mix), -1j * math.sin(mix)
        width = 1
        while width < size:  # exp(−iβX) on each qubit in turn
            pairs = amplitudes.reshape(-1, 2, width)
            amplitudes = (cosine * pairs + sine * pairs[:, ::-1, :]).reshape(-1)
            width *= 2
    return amplitudes


def find_angles(costs: NDArray[np.float64], layers: int) -> Angles:
    """The angles with the lowest mean cost found for `layers` layers (1 to 3) over all costs of a `Qubo`.

    Uses scipy's BFGS: a tenth of COBYLA's time here, and it found the lower mean wherever the two differed.
    """
    from scipy.optimize import minimize

    scale = scale_of(costs)
    scaled = (costs - costs.mean()) / scale

    def mean_cost(angles: NDArray[np.float64]) -> float:
        half = len(angles) // 2
        return float(np.abs(state(scaled, angles[:half], angles[half:])) ** 2 @ scaled)

    best = _coarse(scaled)
    for depth in range(1, layers + 1):
        start = best if depth == 1 else np.concatenate([_stretch(best[: depth - 1]), _stretch(best[depth - 1 :])])
        found = minimize(mean_cost, start, method="BFGS", options={"maxiter": _STEPS * depth})
        best = found.x if found.fun <= mean_cost(start) else start
    expected = mean_cost(best) * scale + float(costs.mean())
    return Angles(tuple(map(float, best[:layers])), tuple(map(float, best[layers:])), scale, expected)


def circuit(qubo: Qubo, layers: int, scale: float) -> QuantumCircuit:
    """The circuit, with parameters `gamma0…` and `beta0…`; qubit `i` is variable `i`. Imports qiskit."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import Parameter

    h, couplings, _ = qubo.ising()
    count = qubo.variables
    made = QuantumCircuit(count, count, name=f"qaoa-{count}-p{layers}")
    made.h(range(count))
    for layer in range(layers):
        gamma, beta = Parameter(f"gamma{layer}"), Parameter(f"beta{layer}")
        for first, second in np.argwhere(couplings):
            made.rzz(2 * gamma * float(couplings[first, second]) / scale, int(first), int(second))
        for qubit in np.flatnonzero(h):
            made.rz(2 * gamma * float(h[qubit]) / scale, int(qubit))
        made.rx(2 * beta, range(count))
    made.measure(range(count), range(count))
    return made


def _coarse(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best point of a grid for one layer; beyond two spreads of phase the landscape only repeats."""
    grid = [
        (gamma, beta)
        for gamma in np.linspace(0.1, 2.0, _GRID)
        for beta in np.linspace(-math.pi / 2, math.pi / 2, _GRID, endpoint=False)
    ]
    means = [float(np.abs(state(scaled, np.array([g]), np.array([b]))) ** 2 @ scaled) for g, b in grid]
    return np.array(grid[int(np.argmin(means))])


def _stretch(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """One layer more along the same curve."""
    depth = len(angles)
    padded = np.concatenate([[0.0], angles, [0.0]])
    steps = np.arange(1, depth + 2)
    return np.asarray((steps - 1) / depth * padded[:-1] + (depth - steps + 1) / depth * padded[1:])

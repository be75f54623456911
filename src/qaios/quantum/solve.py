"""A problem, a quantum sampler and the classical optimum: what `quantum.optimize` does, without any device.

In goes a `Qubo` or a `SectorSplit` and a function that samples a QAOA circuit somewhere; out comes the answer as
plain data: the best assignment among the samples, how good the samples were on average, what guessing would have
given, and the exact optimum, always. A two-part split is one circuit; a four-part split is three, each half
being split again, and `halving_cost` says what that way of splitting reaches when each step is solved exactly.

How to read the figures: `cost` is the best of `shots` samples, and with few variables the best of as many random
guesses is just as good. `sample_mean` against `random_mean`, and `success_probability` against
`random_success_probability`, say what the quantum circuit contributed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaios.quantum import qaoa
from qaios.quantum.qubo import Qubo, SectorSplit, bits_of, describe, minimum, optimum_fields

Sampler = Callable[[Qubo, qaoa.Angles], NDArray[np.int64]]
"""Samples the QAOA circuit of a `Qubo` at the given angles: one outcome a shot, bit `i` is variable `i`."""

_SAME = 1e-9  # costs closer than this are equal


def solve(problem: Qubo | SectorSplit, layers: int, sampler: Sampler) -> dict[str, Any]:
    """The answer of `quantum.optimize`, as plain data."""
    if isinstance(problem, SectorSplit):
        return _solve_split(problem, layers, sampler)
    samples, circuit = _sample(problem, layers, sampler)
    costs = problem.costs()
    best = _best(costs, samples)
    return {
        "assignment": list(bits_of(best, problem.variables)),
        "cost": float(costs[best]),
        **optimum_fields(problem),
        "sample_mean": circuit["sample_mean"],
        "random_mean": circuit["random_mean"],
        "success_probability": circuit["success_probability"],
        "random_success_probability": circuit["random_success_probability"],
        "angles": [circuit["angles"]],
        "circuits": [circuit],
    }


def exact_halvings(problem: SectorSplit) -> list[Qubo]:
    """The circuits' problems if every halving were solved exactly: what an estimate is made from."""
    everyone = list(range(len(problem.cells)))
    first = problem.halving(everyone)
    if problem.parts == 2:
        return [first]
    sides = _sides(everyone, (0, *minimum(first)[1]))
    return [first, *(problem.halving(side) for side in sides if len(side) > 1)]


def exact_halving_cost(problem: SectorSplit) -> float:
    """The cost when every halving is solved exactly: what halving and halving again comes to."""
    parting = np.zeros(len(problem.cells), dtype=np.int8)
    everyone = list(range(len(problem.cells)))
    first = np.array([0, *minimum(problem.halving(everyone))[1]], dtype=np.int8)
    if problem.parts == 2:
        return problem.cost(first)
    for number, side in enumerate(_sides(everyone, first)):
        parting[side] = 2 * number
        if len(side) > 1:
            parting[side] += np.array([0, *minimum(problem.halving(side))[1]], dtype=np.int8)
    return problem.cost(parting)


def _solve_split(problem: SectorSplit, layers: int, sampler: Sampler) -> dict[str, Any]:
    """Halve the cells, and each half again for four parts; the samples of the last level make whole partings."""
    everyone = list(range(len(problem.cells)))
    first = problem.halving(everyone)
    samples, circuit = _sample(first, layers, sampler)
    circuits = [circuit]
    if problem.parts == 2:
        partings = _columns(samples, first.variables)
        reached = 1.0
    else:
        best = _best(first.costs(), samples)
        reached = float(np.mean(samples == best))
        partings = np.zeros((len(samples), len(everyone)), dtype=np.int8)
        for number, side in enumerate(_sides(everyone, (0, *bits_of(best, first.variables)))):
            partings[:, side] = 2 * number
            if len(side) > 1:
                half = problem.halving(side)
                drawn, circuit = _sample(half, layers, sampler)
                circuits.append(circuit)
                # Shots of the two halves are independent draws, so pairing them by number makes whole samples.
                partings[:, side] += _columns(drawn, half.variables)
    costs = problem.costs_of(partings)
    chosen = partings[int(np.argmin(costs))]
    optimum = optimum_fields(problem)
    everything = problem.costs_of(problem.partings())
    return {
        **describe(problem, [int(part) for part in chosen]),
        "cost": float(costs.min()),
        **optimum,
        "halving_cost": exact_halving_cost(problem),
        "sample_mean": float(costs.mean()),
        "random_mean": float(everything.mean()),
        "success_probability": reached * float(np.mean(costs <= optimum["optimal_cost"] + _SAME)),
        "random_success_probability": float(np.mean(everything <= optimum["optimal_cost"] + _SAME)),
        "angles": [each["angles"] for each in circuits],
        "circuits": circuits,
    }


def _sample(problem: Qubo, layers: int, sampler: Sampler) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Find angles, sample, and judge the samples against guessing and against the optimum."""
    costs = problem.costs()
    angles = qaoa.find_angles(costs, layers)
    samples = sampler(problem, angles)
    optimum = float(costs.min())
    return samples, {
        "variables": problem.variables,
        "angles": {"gamma": list(angles.gamma), "beta": list(angles.beta), "scale": angles.scale},
        "noiseless_mean": angles.expected,
        "sample_mean": float(costs[samples].mean()),
        "random_mean": float(costs.mean()),
        "best_cost": float(costs[samples].min()),
        "optimal_cost": optimum,
        "success_probability": float(np.mean(costs[samples] <= optimum + _SAME)),
        "random_success_probability": float(np.mean(costs <= optimum + _SAME)),
    }


def _best(costs: NDArray[np.float64], samples: NDArray[np.int64]) -> int:
    """The cheapest outcome seen; among equals the smallest number, so that the order of shots decides nothing."""
    seen = np.unique(samples)
    return int(seen[int(np.argmin(costs[seen]))])


def _columns(samples: NDArray[np.int64], variables: int) -> NDArray[np.int8]:
    """Samples of a halving as rows of 0 and 1, the fixed first cell in front."""
    bits = (samples[:, None] >> np.arange(variables)) & 1
    return np.concatenate([np.zeros((len(samples), 1), dtype=np.int64), bits], axis=1).astype(np.int8)


def _sides(members: Sequence[int], bits: Sequence[int] | NDArray[np.int8]) -> tuple[list[int], list[int]]:
    zero = [cell for cell, bit in zip(members, bits, strict=True) if bit == 0]
    one = [cell for cell, bit in zip(members, bits, strict=True) if bit == 1]
    return zero, one

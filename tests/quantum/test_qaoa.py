"""QAOA in numpy is QAOA in qiskit; its answers are judged against guessing and against the optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qaios.quantum import qaoa
from qaios.quantum.qubo import Qubo, SectorSplit, read_problem, solve_classical
from qaios.quantum.solve import exact_halvings, solve
from tests.quantum.test_qubo import GRID, random_qubo


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_state_is_that_of_qiskit(layers: int) -> None:
    from qiskit.quantum_info import Statevector

    problem = random_qubo(5, 5)
    random = np.random.default_rng(layers)
    gamma, beta = random.uniform(-1, 1, layers), random.uniform(-1, 1, layers)
    costs = problem.costs()
    scale = qaoa.scale_of(costs)
    angles = qaoa.Angles(tuple(gamma), tuple(beta), scale, 0.0)
    circuit = qaoa.circuit(problem, layers, scale).remove_final_measurements(inplace=False)
    theirs = Statevector(circuit.assign_parameters(angles.values())).data
    ours = qaoa.state(costs / scale, gamma, beta)
    overlap = abs(np.vdot(theirs, ours))
    assert overlap == pytest.approx(1.0, abs=1e-12), "equal up to a global phase"


def test_more_layers_are_never_worse_and_any_is_better_than_guessing() -> None:
    costs = random_qubo(11, 7).costs()
    means = [qaoa.find_angles(costs, layers).expected for layers in (1, 2, 3)]
    assert costs.mean() > means[0] >= means[1] - 1e-9 >= means[2] - 2e-9
    assert means[2] >= costs.min()


def test_one_problem_has_one_answer() -> None:
    costs = random_qubo(3, 6).costs()
    assert qaoa.find_angles(costs, 2) == qaoa.find_angles(costs, 2)


def test_a_problem_without_any_difference_does_not_break_it() -> None:
    angles = qaoa.find_angles(np.zeros(4), 1)
    assert angles.expected == 0.0


def noiseless(seed: int, shots: int = 2000) -> Any:
    random = np.random.default_rng(seed)

    def sampler(problem: Qubo, angles: qaoa.Angles) -> NDArray[np.int64]:
        costs = problem.costs()
        scaled = (costs - costs.mean()) / angles.scale
        chances = np.abs(qaoa.state(scaled, np.array(angles.gamma), np.array(angles.beta))) ** 2
        return random.choice(len(costs), size=shots, p=chances / chances.sum()).astype(np.int64)

    return sampler


@pytest.mark.parametrize("parts", [2, 4])
def test_a_split_is_answered_beside_the_classical_optimum(parts: int) -> None:
    asked = {**GRID, "parts": parts}
    problem = read_problem(asked)
    assert isinstance(problem, SectorSplit)
    answer = solve(problem, 2, noiseless(1))
    classical = solve_classical(asked)
    assert answer["optimal_cost"] == classical["optimal_cost"]
    assert answer["optimal_cost"] <= answer["cost"] <= answer["sample_mean"] < answer["random_mean"]
    assert answer["cost"] == pytest.approx(problem.cost([answer["assignment"][cell] for cell in problem.cells]))
    assert len(answer["circuits"]) == len(exact_halvings(problem)) == (1 if parts == 2 else 3)
    assert answer["optimal_cost"] <= answer["halving_cost"] < answer["random_mean"]
    if parts == 2:
        assert answer["halving_cost"] == pytest.approx(answer["optimal_cost"])
        assert answer["cost"] == pytest.approx(answer["optimal_cost"])
        assert answer["success_probability"] > answer["random_success_probability"]


def test_the_mean_of_noiseless_samples_is_the_expected_one() -> None:
    problem = random_qubo(8, 6)
    answer = solve(problem, 2, noiseless(4, shots=20_000))
    assert answer["sample_mean"] == pytest.approx(answer["circuits"][0]["noiseless_mean"], abs=0.05)
    assert answer["random_mean"] == pytest.approx(float(problem.costs().mean()))


def test_the_smallest_splits_work() -> None:
    two = {"problem": "sector-split", "cells": [{"id": "a"}, {"id": "b"}], "parts": 2}
    assert solve(read_problem(two), 1, noiseless(1))["loads"] == [1.0, 1.0]
    four = {"problem": "sector-split", "cells": [{"id": i} for i in "abcd"], "parts": 4}
    answer = solve(read_problem(four), 1, noiseless(1))
    assert answer["loads"] == [1.0] * 4

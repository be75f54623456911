"""Problems are read with clear errors, and the classical optimum is the optimum."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaios.core.errors import Invalid
from qaios.quantum.qubo import (
    Qubo,
    SectorSplit,
    anneal,
    bits_of,
    check_quantum_size,
    minimum,
    read_problem,
    solve_classical,
)

GRID: dict[str, Any] = {
    "problem": "sector-split",
    "cells": [{"id": f"c{i}", "load": 1.0 + 0.1 * i} for i in range(8)],
    "edges": [[0, 1, 1.0], [1, 2, 1.0], [2, 3, 1.0], [4, 5, 1.0], [5, 6, 1.0], [6, 7, 1.0]]
    + [[i, i + 4, 2.0] for i in range(4)],
}


def random_qubo(seed: int, variables: int) -> Qubo:
    random = np.random.default_rng(seed)
    return Qubo(random.normal(size=variables), np.triu(random.normal(size=(variables, variables)), 1), 0.25)


@given(st.integers(0, 10_000), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_all_costs_are_those_of_the_formula_written_out(seed: int, variables: int) -> None:
    problem = random_qubo(seed, variables)
    by_hand = []
    for index in range(2**variables):
        x = bits_of(index, variables)
        value = problem.offset + sum(problem.linear[i] * x[i] for i in range(variables))
        value += sum(problem.quadratic[i, j] * x[i] * x[j] for i, j in itertools.combinations(range(variables), 2))
        by_hand.append(value)
    assert np.allclose(problem.costs(), by_hand)
    assert minimum(problem)[0] == pytest.approx(min(by_hand))


@given(st.integers(0, 10_000), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_spins_give_the_same_cost_as_bits(seed: int, variables: int) -> None:
    problem = random_qubo(seed, variables)
    h, couplings, constant = problem.ising()
    for index in range(2**variables):
        bits = np.array(bits_of(index, variables))
        spins = 1 - 2 * bits
        assert constant + h @ spins + spins @ couplings @ spins == pytest.approx(problem.cost(bits))


@pytest.mark.parametrize("parts", [2, 4])
def test_the_reported_optimum_of_a_split_is_the_best_of_all_splits(parts: int) -> None:
    answer = solve_classical({**GRID, "parts": parts})
    problem = read_problem({**GRID, "parts": parts})
    assert isinstance(problem, SectorSplit)
    best = min(
        independent_cost(problem, (0, *rest)) for rest in itertools.product(range(parts), repeat=len(problem.cells) - 1)
    )
    assert answer["cost"] == answer["optimal_cost"] == pytest.approx(best)
    assert independent_cost(problem, [answer["assignment"][cell] for cell in problem.cells]) == pytest.approx(best)
    assert sorted(cell for group in answer["parts"] for cell in group) == sorted(problem.cells)
    assert sum(answer["loads"]) == pytest.approx(sum(problem.loads))
    assert answer["exact"] is True


def independent_cost(problem: SectorSplit, parting: Any) -> float:
    """Cut and imbalance, said in loops."""
    cut = sum(weight for first, second, weight in problem.edges if parting[first] != parting[second])
    fair = sum(problem.loads) / problem.parts
    mean = sum(problem.loads) / len(problem.loads)
    uneven = 0.0
    for part in range(problem.parts):
        uneven += (sum(load for load, mine in zip(problem.loads, parting, strict=True) if mine == part) - fair) ** 2
    return float(cut + problem.balance * 2 * uneven / mean**2)


def test_a_halving_costs_what_the_split_it_stands_for_costs() -> None:
    problem = read_problem({**GRID, "parts": 2})
    assert isinstance(problem, SectorSplit)
    half = problem.halving(range(8))
    assert half.variables == 7, "one cell is fixed, because naming the halves is free"
    for index in (0, 1, 17, 90, 127):
        bits = bits_of(index, 7)
        assert half.cost(bits) == pytest.approx(independent_cost(problem, (0, *bits)))


def test_even_loads_come_out_even() -> None:
    cells = [{"id": i, "load": 1.0} for i in range(10)]
    edges = [[i, i + 1, 1.0] for i in range(9)]
    answer = solve_classical(problem="sector-split", cells=cells, edges=edges, parts=2)
    assert answer["loads"] == [5.0, 5.0]
    assert answer["cost"] == 1.0, "a chain is cut once"


def test_edges_may_name_cells() -> None:
    named = {**GRID, "edges": [["c0", "c1", 1.0]]}
    assert solve_classical(named)["cost"] == solve_classical({**GRID, "edges": [[0, 1, 1.0]]})["cost"]


def test_annealing_reaches_the_optimum_of_problems_that_can_be_listed_and_repeats_itself() -> None:
    for seed in range(5):
        problem = random_qubo(seed, 14)
        value, bits = anneal(problem, seed)
        assert value == pytest.approx(minimum(problem)[0])
        assert problem.cost(bits) == pytest.approx(value)
        assert anneal(problem, seed) == (value, bits)


def test_a_problem_too_large_to_list_is_annealed_and_says_so() -> None:
    random = np.random.default_rng(2)
    answer = solve_classical(problem="qubo", linear=random.normal(size=40).tolist(), seed=3)
    assert answer["exact"] is False and answer["optimal_cost"] is None
    assert answer["method"] == "simulated annealing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": "tsp"}, "problem: 'tsp'"),
        ({"cells": []}, "cells: a list"),
        ({"cells": [{"load": 1.0}] * 4}, r"cells\[0\]"),
        ({"cells": [{"id": "a"}, {"id": "a"}]}, "same id"),
        ({"cells": [{"id": "a", "load": -1.0}, {"id": "b"}]}, r"cells\[0\].load"),
        ({"cells": [{"id": "a", "load": "heavy"}, {"id": "b"}]}, r"cells\[0\].load: 'heavy'"),
        ({"cells": [{"id": str(i)} for i in range(11)]}, "11 cells"),
        ({"parts": 3}, "parts: 3"),
        ({"edges": [[0, 99, 1.0]]}, r"edges\[0\]: there is no variable 99"),
        ({"edges": [[0, 0, 1.0]]}, "joined with itself"),
        ({"edges": [[0, 1]]}, r"edges\[0\]"),
        ({"edges": [[0, 1, float("nan")]]}, "finite"),
        ({"edges": [[0, 1, -2.0]]}, "negative"),
        ({"problem": "qubo"}, "linear"),
        ({"problem": "qubo", "linear": [1.0, "x"]}, r"linear\[1\]"),
    ],
)
def test_a_wrong_problem_is_refused_by_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read_problem({**GRID, **change})


def test_a_qubo_too_large_for_a_quantum_device_is_refused() -> None:
    with pytest.raises(Invalid, match="13 variables"):
        check_quantum_size(read_problem({"problem": "qubo", "linear": [0.0] * 13}))

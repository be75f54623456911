"""The liquid cell: a closed-form continuous-time network (CfC) in numpy, with its gradient written by hand.

Hasani et al., "Closed-form continuous-time neural networks", Nature Machine Intelligence 2022 (arXiv 2106.13898),
without backbone, the four heads fused into one product:

    [f1, f2, a, b] = [x, h] W + w          f1, f2 through tanh
    s  = sigmoid(a · gap + b)              the time gap opens or closes the gate
    h' = f1 + s (f2 - f1)                  a mix of two bounded values, so |h'| ≤ 1 whatever comes in

Irregular gaps are an input of the cell itself, not something to be resampled away. It starts as a memory that leaks
with time (f1 keeps the state, the gate is nearly shut, for each unit at a pace of its own, as in Tallec & Ollivier
2018, arXiv 1804.11188); from a plain random start it forgets within some steps and never learns to integrate. The
backward pass is the same loop read from the end; `tests/learning/test_liquid.py` holds every parameter of it
against central differences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qaios.learning.network import Array, Parameters, sigmoid, weights

MEMORY_STEPS_MAX = 100.0


@dataclass(frozen=True, slots=True)
class LiquidTape:
    """A forward run, kept for the way back."""

    inputs: Array
    gaps: Array
    before: Array  # the state each step started from
    states: Array
    first: Array  # f1
    second: Array  # f2
    gate: Array  # s


class LiquidCell:
    """A CfC cell of `units` states over `features` inputs; see `network.Cell`."""

    kind = "liquid"

    def __init__(self, features: int, units: int, random: np.random.Generator) -> None:
        self.features = features
        self.units = units
        keeping = np.eye(units)  # f1 begins as "as it was", so that a state can outlast hundreds of samples
        patience = -np.log(random.uniform(2.0, MEMORY_STEPS_MAX, units))  # the gate begins nearly shut
        self.parameters: Parameters = {
            "Wx": np.hstack(
                [weights(random, features, units, 0.3), *(weights(random, features, units) for _ in "234")]
            ),
            "Wh": np.hstack([keeping, *(weights(random, units, units, 0.5) for _ in range(3))]),
            "w": np.concatenate([np.zeros(2 * units), np.full(units, 0.1), patience]),
        }

    def run(self, inputs: Array, gaps: Array, state: Array | None = None) -> LiquidTape:
        """Inputs (steps, batch, features), gaps (steps, batch) in the unit it was trained with."""
        steps, batch, _ = inputs.shape
        n, recurrent = self.units, self.parameters["Wh"]
        driven = inputs @ self.parameters["Wx"] + self.parameters["w"]  # all steps in one product
        before, states, first, second, gate = (np.empty((steps, batch, n)) for _ in range(5))
        h = np.zeros((batch, n)) if state is None else state
        for t in range(steps):
            before[t] = h
            z = driven[t] + h @ recurrent
            np.tanh(z[:, :n], out=first[t])
            np.tanh(z[:, n : 2 * n], out=second[t])
            gate[t] = sigmoid(z[:, 2 * n : 3 * n] * gaps[t][:, None] + z[:, 3 * n :])
            h = first[t] + gate[t] * (second[t] - first[t])
            states[t] = h
        return LiquidTape(inputs, gaps, before, states, first, second, gate)

    def gradients(self, tape: LiquidTape, of_states: Array) -> tuple[Parameters, Array]:
        """Backpropagation through time; see `network.Cell.gradients`."""
        steps, batch, n = of_states.shape
        recurrent = self.parameters["Wh"].T
        # All that does not depend on what comes from later steps is done for every step at once.
        slope = np.empty((steps, batch, 4 * n))
        slope[..., :n] = (1.0 - tape.gate) * (1.0 - tape.first**2)
        slope[..., n : 2 * n] = tape.gate * (1.0 - tape.second**2)
        opening = (tape.second - tape.first) * tape.gate * (1.0 - tape.gate)
        slope[..., 2 * n : 3 * n] = opening * tape.gaps[..., None]
        slope[..., 3 * n :] = opening
        of_sums = np.empty_like(slope)
        later = np.zeros((batch, n))
        for t in range(steps - 1, -1, -1):
            h = of_states[t] + later
            of_sums[t] = slope[t] * np.concatenate((h, h, h, h), axis=1)
            later = of_sums[t] @ recurrent
        flat = of_sums.reshape(-1, 4 * n)
        return {
            "Wx": tape.inputs.reshape(-1, self.features).T @ flat,
            "Wh": tape.before.reshape(-1, n).T @ flat,
            "w": flat.sum(axis=0),
        }, later

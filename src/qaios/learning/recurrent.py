"""The gated recurrent unit, in the same style as the liquid cell, so that validation can choose between them.

Cho et al. 2014 (arXiv 1406.1078), with the time gap given as one more input, which is what makes it a fair rival
on irregular samples:

    r = sigmoid(x Wr + h Ur + br)      z = sigmoid(x Wz + h Uz + bz)
    n = tanh(x Wn + bn + r (h Un + cn))
    h' = (1 - z) n + z h               bounded by 1 as long as the first state is
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qaios.learning.network import Array, Parameters, sigmoid, weights


@dataclass(frozen=True, slots=True)
class GruTape:
    """A forward run, kept for the way back."""

    inputs: Array  # with the gap as last feature
    before: Array
    states: Array
    reset: Array
    keep: Array
    fresh: Array
    recalled: Array  # h Un + cn, before the reset gate


class GruCell:
    """A GRU of `units` states over `features` inputs and the gap; see `network.Cell`."""

    kind = "gru"

    def __init__(self, features: int, units: int, random: np.random.Generator) -> None:
        self.features = features
        self.units = units
        self.parameters: Parameters = {
            "Wx": np.hstack([weights(random, features + 1, units) for _ in range(3)]),
            "Wh": np.hstack([weights(random, units, units) for _ in range(3)]),
            "w": np.zeros(3 * units),
            "c": np.zeros(units),
        }

    def run(self, inputs: Array, gaps: Array, state: Array | None = None) -> GruTape:
        """Inputs (steps, batch, features), gaps (steps, batch) in the unit it was trained with."""
        steps, batch, _ = inputs.shape
        n, recurrent, c = self.units, self.parameters["Wh"], self.parameters["c"]
        timed = np.concatenate((inputs, gaps[..., None]), axis=2)
        driven = timed @ self.parameters["Wx"] + self.parameters["w"]
        before, states, reset, keep, fresh, recalled = (np.empty((steps, batch, n)) for _ in range(6))
        h = np.zeros((batch, n)) if state is None else state
        for t in range(steps):
            before[t] = h
            own = h @ recurrent
            reset[t] = sigmoid(driven[t][:, :n] + own[:, :n])
            keep[t] = sigmoid(driven[t][:, n : 2 * n] + own[:, n : 2 * n])
            recalled[t] = own[:, 2 * n :] + c
            np.tanh(driven[t][:, 2 * n :] + reset[t] * recalled[t], out=fresh[t])
            h = fresh[t] + keep[t] * (h - fresh[t])
            states[t] = h
        return GruTape(timed, before, states, reset, keep, fresh, recalled)

    def gradients(self, tape: GruTape, of_states: Array) -> tuple[Parameters, Array]:
        """Backpropagation through time; see `network.Cell.gradients`."""
        steps, batch, n = of_states.shape
        recurrent = self.parameters["Wh"].T
        of_sums = np.empty((steps, batch, 3 * n))  # with respect to driven
        of_own = np.empty((steps, batch, 3 * n))  # with respect to h Wh
        later = np.zeros((batch, n))
        for t in range(steps - 1, -1, -1):
            r, z, fresh = tape.reset[t], tape.keep[t], tape.fresh[t]
            h = of_states[t] + later
            of_fresh = h * (1.0 - z) * (1.0 - fresh**2)
            of_sums[t, :, :n] = of_fresh * tape.recalled[t] * r * (1.0 - r)
            of_sums[t, :, n : 2 * n] = h * (tape.before[t] - fresh) * z * (1.0 - z)
            of_sums[t, :, 2 * n :] = of_fresh
            of_own[t] = of_sums[t]
            of_own[t, :, 2 * n :] *= r
            later = of_own[t] @ recurrent + h * z
        flat, own = of_sums.reshape(-1, 3 * n), of_own.reshape(-1, 3 * n)
        return {
            "Wx": tape.inputs.reshape(-1, self.features + 1).T @ flat,
            "Wh": tape.before.reshape(-1, n).T @ own,
            "w": flat.sum(axis=0),
            "c": own[:, 2 * n :].sum(axis=0),
        }, later

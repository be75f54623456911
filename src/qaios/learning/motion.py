"""The network's part in the map: how the plume is displaced *now*, told by the stream of the fleet's samples.

The samples of all drones make one stream with truly irregular gaps. At each sample the network has been told the
one before (what was measured against what the steady field expects there, and which way the field slopes) and the
time since; from its state it says, for this moment: louder or fainter, shifted east and north, turned about the
heart of the plume. The steady field is then read at the displaced place. With four numbers per moment it can follow
a plume that swings with the wind and cannot draw one of its own; where the air stands still, it learns to say
nothing.

Held-out samples are in the stream as moments without a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qaios.learning.field import EXPONENT_MAX, Field
from qaios.learning.network import Array, Network, Parameters
from qaios.learning.samples import Samples

FEATURES = 8
OUTPUTS = 4  # louder, east, north, turn
LOUDER_MAX = 0.5
TURN_MAX_RAD = 0.5
SHIFT_MAX = 0.12  # of the extent of the survey
GAP_MAX = 20.0  # in mean gaps
WINDOW, COUNTED = 192, 64  # each window is run over 192 moments, the last 64 of which count


@dataclass(frozen=True, slots=True)
class Stream:
    """The moments of a survey, ready for a network: `told` are the features of each moment's own measurement."""

    at_m: Array
    gaps: Array  # in mean gaps
    told: Array  # (count, FEATURES), before it is hidden
    rows: NDArray[np.int64]  # (WINDOW, windows): which moment, -1 before the beginning
    step: NDArray[np.int64]  # where each moment counts: its step ...
    window: NDArray[np.int64]  # ... and its window

    def inputs(self, seen: NDArray[np.bool_]) -> tuple[Array, Array]:
        """(inputs, gaps) in windows: at each moment the network hears of the one before, if that was seen."""
        told = np.vstack([np.zeros(FEATURES), np.where(seen[:, None], self.told, 0.0)[:-1], np.zeros(FEATURES)])
        gaps = np.append(self.gaps, 0.0)
        return told[self.rows], gaps[self.rows]

    def gather(self, windows: Array) -> Array:
        """From (WINDOW, windows, outputs) to one row per moment."""
        return windows[self.step, self.window]

    def scatter(self, rows: Array) -> Array:
        """The transpose of `gather`."""
        windows = np.zeros((*self.rows.shape, rows.shape[1]))
        windows[self.step, self.window] = rows
        return windows


@dataclass(frozen=True, slots=True)
class Frame:
    """What displacements are measured in and around."""

    heart_m: Array  # (2,) the place the plume turns about: where the steady field is strongest
    extent_m: float


def frame_of(field: Field, samples: Samples) -> Frame:
    heart = samples.at_m[int(np.argmax(field.exponent(samples.at_m))), :2]
    return Frame(heart, float(np.maximum(np.ptp(samples.at_m[:, :2], axis=0).max(), 10.0)))


def imagined(field: Field, samples: Samples, frame: Frame, random: np.random.Generator) -> tuple[Samples, Samples]:
    """The same flight through the same field under an invented swing: (as measured, without noise).

    Strength and pace of the swing are drawn anew each time, and often it is nothing at all.
    """
    pace_s = float(np.exp(random.uniform(np.log(10.0), np.log(120.0))))
    strength = random.uniform(0.0, 1.0) * np.array([0.4, 0.3, 0.3, 0.8]) * (random.random(OUTPUTS) < 0.6)
    keep = np.exp(-np.diff(samples.t_s, prepend=samples.t_s[0]) / pace_s)
    path, draws = np.empty((len(samples), OUTPUTS)), random.standard_normal((len(samples), OUTPUTS))
    path[0] = draws[0]
    for k in range(1, len(samples)):
        path[k] = keep[k] * path[k - 1] + np.sqrt(1.0 - keep[k] ** 2) * draws[k]
    clean = predict(field, path * strength, samples.at_m, frame)
    dirty = np.maximum(clean + samples.sigma * random.standard_normal(len(samples)), 0.0)
    return replace(samples, pm25=dirty), replace(samples, pm25=clean)


def stream_of(samples: Samples, field: Field, gap_unit_s: float) -> Stream:
    """Measurements against the steady field, in windows."""
    f, slopes = field.value_and_slopes(samples.at_m)
    grown = np.exp(np.minimum(f, EXPONENT_MAX))
    surprise = np.tanh((samples.pm25 - field.floor - grown) / samples.sigma / 3.0)
    lean = np.tanh(slopes[:, :2] * (10.0 * grown / samples.sigma)[:, None] / 3.0)
    centre, half = samples.at_m.mean(axis=0), np.maximum(np.ptp(samples.at_m, axis=0) / 2.0, 5.0)
    told = np.column_stack(
        [surprise, surprise[:, None] * lean, lean, (samples.at_m - centre)[:, :2] / half[:2], np.ones(len(samples))]
    )
    gaps = np.minimum(np.diff(samples.t_s, prepend=samples.t_s[0]) / gap_unit_s, GAP_MAX)
    count = len(samples)
    windows = -(-count // COUNTED)
    moments = np.arange(count)
    rows = np.arange(WINDOW)[:, None] + COUNTED * np.arange(windows)[None, :] - (WINDOW - COUNTED)
    rows = np.where((rows >= 0) & (rows < count), rows, -1)
    return Stream(samples.at_m, gaps, told, rows, moments % COUNTED + WINDOW - COUNTED, moments // COUNTED)


def displaced(said: Array, at_m: Array, frame: Frame) -> tuple[Array, Array]:
    """(places in the steady field, louder) for what the network said at each moment; shapes (count, 3), (count,)."""
    bounded = np.tanh(said)
    turn = TURN_MAX_RAD * bounded[:, 3]
    c, s = np.cos(turn), np.sin(turn)
    away = at_m[:, :2] - frame.heart_m - SHIFT_MAX * frame.extent_m * bounded[:, 1:3]
    back = np.column_stack([c * away[:, 0] + s * away[:, 1], c * away[:, 1] - s * away[:, 0]])
    return np.column_stack([frame.heart_m + back, at_m[:, 2]]), LOUDER_MAX * bounded[:, 0]


def predict(field: Field, said: Array, at_m: Array, frame: Frame) -> Array:
    """Concentration at each place, at the moment of what was said."""
    places, louder = displaced(said, at_m, frame)
    return field.floor + np.exp(np.minimum(field.exponent(places) + louder, EXPONENT_MAX))


def loss_and_slopes(
    field: Field, said: Array, samples: Samples, frame: Frame, counted: NDArray[np.bool_], shyness: float
) -> tuple[float, Array]:
    """Half the mean squared error in sigmas over the counted moments, plus shyness; and its slope in `said`."""
    bounded = np.tanh(said)
    places, louder = displaced(said, samples.at_m, frame)
    f, slopes = field.value_and_slopes(places)
    grown = np.exp(np.minimum(f + louder, EXPONENT_MAX))
    residual = np.where(counted, (field.floor + grown - samples.pm25) / samples.sigma, 0.0)
    count = max(1, int(counted.sum()))
    loss = 0.5 * float(residual @ residual) / count + 0.5 * shyness * float(np.mean((bounded**2).sum(axis=1)))
    of_f = residual * grown / samples.sigma / count
    turn = TURN_MAX_RAD * bounded[:, 3]
    c, s = np.cos(turn), np.sin(turn)
    of_back = of_f[:, None] * slopes[:, :2]
    of_away = np.column_stack([c * of_back[:, 0] - s * of_back[:, 1], s * of_back[:, 0] + c * of_back[:, 1]])
    back = places[:, :2] - frame.heart_m
    of_turn = of_back[:, 0] * back[:, 1] - of_back[:, 1] * back[:, 0]
    of_bounded = np.column_stack([LOUDER_MAX * of_f, -SHIFT_MAX * frame.extent_m * of_away, TURN_MAX_RAD * of_turn])
    of_bounded += shyness * bounded / len(samples)
    return loss, of_bounded * (1.0 - bounded**2)


def say(network: Network, stream: Stream, seen: NDArray[np.bool_]) -> Array:
    """What the network says at each moment, having heard the seen ones; shape (count, OUTPUTS)."""
    return stream.gather(network.run(*stream.inputs(seen))[0])


def learn(
    network: Network,
    stream: Stream,
    field: Field,
    samples: Samples,
    frame: Frame,
    seen: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    shyness: float,
) -> tuple[float, Parameters]:
    """(loss, gradient) of one epoch."""
    windows, tape = network.run(*stream.inputs(seen))
    loss, slopes = loss_and_slopes(field, stream.gather(windows), samples, frame, counted, shyness)
    return loss, network.gradients(tape, stream.scatter(slopes))

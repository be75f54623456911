"""The samples of a survey as columns: read, checked, cut into tracks, and partly held out.

In come rows `[time_s, east_m, north_m, up_m, pm25_ug_m3, sigma_ug_m3]` from the drones, nested as the mission left them
(one list per drone, per swath, or one long list). Out comes one stream in order of time, each sample knowing its track.

Held out are *contiguous pieces of track*, never single samples: the neighbours of a single sample, half a second
away, would give it away and every method would look good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Invalid
from qaios.learning.network import Array

COLUMNS = ("t_s", "east_m", "north_m", "up_m", "pm25_ug_m3", "sigma_ug_m3")
SAMPLES_MIN = 40
PIECE_S = 12.0  # length of a held-out piece of track: some swath widths of flight
BREAK_S = 20.0  # a longer silence begins a new track
SPEED_MPS_MAX = 12.0  # so does a sample too far away to have been flown to
POSITION_M = 5.0  # tolerance for the vehicle's idea of where it is


@dataclass(frozen=True, slots=True)
class Samples:
    """`count` samples in order of time; all columns have that length."""

    t_s: Array
    at_m: Array  # (count, 3): east, north, up
    pm25: Array  # ug/m3
    sigma: Array  # ug/m3, one standard deviation of the sensor's noise
    track: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t_s)

    def part(self, chosen: NDArray[np.bool_]) -> Samples:
        return Samples(self.t_s[chosen], self.at_m[chosen], self.pm25[chosen], self.sigma[chosen], self.track[chosen])

    @property
    def sha256(self) -> str:
        """Address of the data, so that a model can say what it was trained on."""
        columns = np.column_stack([self.t_s, self.at_m, self.pm25, self.sigma])
        return hashlib.sha256(np.ascontiguousarray(columns).tobytes()).hexdigest()


def read(rows: Any) -> Samples:
    """Samples from rows nested in any way; mappings are entered by their key `samples`. The same row twice counts once.

    Raises `Invalid` for a row that is not six finite numbers, for sigma ≤ 0, and for fewer than 40 samples.
    """
    listed = list(dict.fromkeys(_rows(rows, "samples")))
    if len(listed) < SAMPLES_MIN:
        raise Invalid(
            f"{len(listed)} air samples are too few to learn from, {SAMPLES_MIN} are needed",
            hint="Fly more swaths, or give the samples of all drones: samples: ${fly.*.samples}",
        )
    table = np.array(listed, dtype=np.float64)
    bad = ~np.isfinite(table).all(axis=1) | (table[:, 5] <= 0.0)
    if bad.any():
        raise Invalid(f"air sample {listed[int(np.argmax(bad))]} needs six finite numbers {COLUMNS} and sigma > 0")
    table = table[np.lexsort((table[:, 2], table[:, 1], table[:, 0]))]
    return Samples(table[:, 0], table[:, 1:4], table[:, 4], table[:, 5], _tracks(table[:, 0], table[:, 1:4]))


def _rows(item: Any, where: str) -> Iterator[tuple[float, ...]]:
    if isinstance(item, Mapping):
        if "samples" not in item:
            raise Invalid(f"{where} is a mapping without the key `samples`")
        yield from _rows(item["samples"], f"{where}.samples")
    elif isinstance(item, Sequence) and not isinstance(item, str | bytes):
        if item and all(isinstance(number, int | float) for number in item):
            if len(item) != len(COLUMNS):
                raise Invalid(f"{where} has {len(item)} numbers, an air sample has six: {', '.join(COLUMNS)}")
            yield tuple(float(number) for number in item)
        else:
            for index, inner in enumerate(item):
                yield from _rows(inner, f"{where}[{index}]")
    else:
        raise Invalid(f"{where} is {item!r}, not a list of air samples [{', '.join(COLUMNS)}]")


def _tracks(t_s: Array, at_m: Array) -> NDArray[np.int64]:
    """Which vehicle's path each sample belongs to: the open path whose end is nearest, or a new one."""
    track = np.zeros(len(t_s), dtype=np.int64)
    ends: list[tuple[float, Array]] = []
    for k, (time_s, place) in enumerate(zip(t_s, at_m, strict=True)):
        reach = [
            float(np.linalg.norm(place - end)) if 0.0 < time_s - last_s <= BREAK_S else np.inf for last_s, end in ends
        ]
        nearest = int(np.argmin(reach)) if reach else -1
        if nearest < 0 or reach[nearest] > POSITION_M + SPEED_MPS_MAX * (time_s - ends[nearest][0]):
            nearest = len(ends)
            ends.append((time_s, place))
        ends[nearest] = (time_s, place)
        track[k] = nearest
    return track


def hold_out(
    samples: Samples, fraction: float, random: np.random.Generator, piece_s: float = PIECE_S
) -> NDArray[np.int64]:
    """Cut every track into pieces of about `piece_s` and deal them out: 0 to learn, 1 to validate, 2 to test.

    `fraction` of the pieces goes to each of 1 and 2, at least one.
    """
    label = samples.track * 1_000_000
    for number in np.unique(samples.track):
        own = samples.track == number
        label[own] += ((samples.t_s[own] - samples.t_s[own][0]) // piece_s).astype(np.int64)
    pieces = random.permutation(np.unique(label))
    if len(pieces) < 4:
        return hold_out(samples, fraction, random, piece_s / 4.0)
    share = max(1, round(fraction * len(pieces)))
    role = np.zeros(len(samples), dtype=np.int64)
    role[np.isin(label, pieces[:share])] = 1
    role[np.isin(label, pieces[share : 2 * share])] = 2
    return role


def thinned(samples: Samples, count_max: int) -> Samples:
    """At most `count_max` samples, evenly spread over the stream."""
    if len(samples) <= count_max:
        return samples
    chosen = np.zeros(len(samples), dtype=np.bool_)
    chosen[np.linspace(0, len(samples) - 1, count_max).astype(np.int64)] = True
    return samples.part(chosen)

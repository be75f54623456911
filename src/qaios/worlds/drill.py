"""Drills: who dies when, drawn from the seed.

A drill kills one vehicle process between two instants. The moment and an order of preference among the vehicles are
drawn when it is armed, from the world's seed and how many drills came before; when the moment has come the first
vehicle of that order that is in the air dies. So the same seed and the same flight lose the same vehicle.
A drill is known by its key for as long as the world lives: arming twice is arming once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qaios.worlds import wire


@dataclass(slots=True)
class _Armed:
    at_s: float
    order: list[int]
    state: wire.Drill = field(default_factory=lambda: wire.Drill("", "armed"))


class Drills:
    """The drills of one world."""

    def __init__(self, seed: int, vehicles: int) -> None:
        self._seed, self._vehicles = seed, vehicles
        self._drills: dict[str, _Armed] = {}

    def arm(self, ask: wire.ArmDrill, now_s: float) -> wire.Drill:
        """Arm; a key that is known already is left as it is. What is not a window gives state `refused`."""
        if ask.key in self._drills:
            return self.state(ask.key)
        if not (math.isfinite(ask.to_s) and 0.0 <= ask.from_s <= ask.to_s):
            return wire.Drill(ask.key, "refused")
        random = np.random.default_rng([self._seed, 7919, len(self._drills)])
        at_s = now_s + float(random.uniform(ask.from_s, ask.to_s))
        order = [int(i) for i in random.permutation(self._vehicles)]
        self._drills[ask.key] = _Armed(at_s, order, wire.Drill(ask.key, "armed"))
        return self.state(ask.key)

    def disarm(self, key: str) -> wire.Drill:
        """Call it off, unless it has happened."""
        drill = self._drills.get(key)
        if drill is not None and drill.state.state in ("armed", "waiting"):
            drill.state = wire.Drill(key, "disarmed")
        return self.state(key)

    def state(self, key: str) -> wire.Drill:
        drill = self._drills.get(key)
        return drill.state if drill is not None else wire.Drill(key, "never")

    def due(self, now_s: float, flying: Sequence[bool]) -> int | None:
        """Index of the vehicle to kill now, if any; at most one per call."""
        for key, drill in self._drills.items():
            if drill.state.state not in ("armed", "waiting") or now_s < drill.at_s:
                continue
            victim = next((i for i in drill.order if flying[i]), None)
            if victim is None:
                drill.state = wire.Drill(key, "waiting")
                continue
            drill.state = wire.Drill(key, "done", f"drone-{victim + 1}", now_s)
            return victim
        return None

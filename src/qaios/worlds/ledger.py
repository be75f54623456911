"""Ground truth about the flight, noted once per barrier: separation, batteries, touches, distance.

No vehicle and no kernel sees it while flying; it is what a flight is judged by afterwards. A wreck that falls after
its process died is a crash, not a contact: contacts are what a live vehicle should have avoided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qaios.worlds.airframe import REST_HEIGHT_M

if TYPE_CHECKING:
    from qaios.worlds.fleet import Fleet

HARD_LANDING_MPS = 2.0


class Ledger:
    """What happened so far. `min_separation_m` is inf until two live drones were in the air together."""

    def __init__(self, model: Any, count: int) -> None:
        body_of_geom = np.asarray(model.geom_bodyid)
        first = int(model.body("drone0").id)
        self._drone_of_geom = [int(body) - first if body else -1 for body in body_of_geom]
        self._ground = int(model.geom("ground").id)
        self._touching: set[tuple[int, int]] = set()
        self._last: NDArray[np.float64] | None = None
        self.min_separation_m = float("inf")
        self.min_battery = np.ones(count)
        self.contacts = np.zeros(count, dtype=np.int64)
        self.crashed = np.zeros(count, dtype=bool)
        self.flown_m = np.zeros(count)

    def note(self, fleet: Fleet, velocity_before: NDArray[np.float64]) -> None:
        """Take in the state after one barrier; `velocity_before` is (count, 3) at its start."""
        positions = fleet.positions_m
        if self._last is not None:
            moved = np.linalg.norm(positions - self._last, axis=1)
            self.flown_m += np.where(fleet.airborne, moved, 0.0)
        self._last = positions
        self.min_battery = np.minimum(self.min_battery, fleet.batteries.fraction)
        flying = positions[fleet.airborne & fleet.live]
        if len(flying) > 1:
            apart = np.linalg.norm(flying[:, None] - flying[None, :], axis=2)
            apart[np.diag_indices(len(flying))] = np.inf
            self.min_separation_m = min(self.min_separation_m, float(apart.min()))
        if fleet.data.ncon or self._touching:
            self._note_contacts(fleet, velocity_before)

    def _note_contacts(self, fleet: Fleet, velocity_before: NDArray[np.float64]) -> None:
        touching = {(int(a), int(b)) for a, b in np.asarray(fleet.data.contact.geom).reshape(-1, 2)}
        for pair in touching - self._touching:
            for geom, other in (pair, pair[::-1]):
                drone = self._drone_of_geom[geom]
                if drone < 0:
                    continue
                hard = float(np.linalg.norm(velocity_before[drone])) > HARD_LANDING_MPS
                if fleet.live[drone] and (other != self._ground or hard):
                    self.contacts[drone] += 1
                if hard and fleet.positions_m[drone, 2] < REST_HEIGHT_M + 0.5:
                    self.crashed[drone] = True
        self._touching = touching

"""When a vehicle decides for itself: the watch that runs at every barrier, whatever mode it is in.

`Watch.look` gives at most one verdict, the gravest first:

    tilted     over 70 degrees for a second: it is falling or pinned; motors off
    emergency  battery under BAT_EMERGEN_THR: land here
    critical   battery under BAT_CRIT_THR: return
    breach     the fence is broken, or would be within the braking distance: return
    link       no ground station's HEARTBEAT for COM_DL_LOSS_T while one had been there: return

A verdict is given once and again only after its cause has gone. A person or kernel may overrule a return with a
new command only when its cause has gone (the autopilot refuses otherwise).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from qaios.robotics.vehicle.plan import Fence, Parameters
from qaios.worlds.wire import Sense

TILT_MAX_RAD = math.radians(70.0)
TILT_PATIENCE_S = 1.0
BRAKING_MPS2 = 2.5
BRAKING_UP_MPS2 = 2.0
REACTION_S = 0.4


class Verdict(enum.IntEnum):
    """Graver is larger."""

    LINK = 1
    BREACH = 2
    CRITICAL = 3
    EMERGENCY = 4
    TILTED = 5


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    text: str  # for STATUSTEXT, at most 50 characters


class Watch:
    """One vehicle's judgement of its own safety."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self.heard_s: float | None = None  # when a ground station was last heard
        self._upright_s = 0.0
        self.standing: set[Verdict] = set()

    def heard(self, now_s: float) -> None:
        self.heard_s = now_s

    def look(self, sense: Sense, fence: Fence) -> Finding | None:
        """The gravest new finding of a flying vehicle, or None."""
        found = {finding.verdict: finding for finding in self._all(sense, fence)}
        fresh = [finding for verdict, finding in found.items() if verdict not in self.standing]
        self.standing = set(found)
        return max(fresh, key=lambda finding: finding.verdict, default=None)

    def rest(self, sense: Sense) -> None:
        """On the ground: nothing stands but what the battery says."""
        self._upright_s = sense.t_s
        self.standing = {finding.verdict for finding in self._battery(sense)}

    def _all(self, sense: Sense, fence: Fence) -> list[Finding]:
        found = self._battery(sense)
        roll, pitch, _ = sense.attitude_rad
        if math.cos(roll) * math.cos(pitch) > math.cos(TILT_MAX_RAD):
            self._upright_s = sense.t_s
        elif sense.t_s - self._upright_s > TILT_PATIENCE_S:
            found.append(Finding(Verdict.TILTED, "tilted over 70 deg: motors off"))
        breach = self._breach(sense, fence)
        if breach:
            found.append(Finding(Verdict.BREACH, f"geofence: {breach}"[:42] + ": RTL"))
        lost_s = self._parameters["COM_DL_LOSS_T"]
        if self.heard_s is not None and sense.t_s - self.heard_s > lost_s:
            found.append(Finding(Verdict.LINK, f"link lost for {lost_s:g} s: RTL"))
        return found

    def _battery(self, sense: Sense) -> list[Finding]:
        left = sense.battery_fraction
        if left < self._parameters["BAT_EMERGEN_THR"]:
            return [Finding(Verdict.EMERGENCY, f"battery {left:.0%}: landing here")]
        if left < self._parameters["BAT_CRIT_THR"]:
            return [Finding(Verdict.CRITICAL, f"battery {left:.0%}: RTL")]
        return []

    @staticmethod
    def _breach(sense: Sense, fence: Fence) -> str:
        """The breach here, or where it would stop if it braked now."""
        x, y, z = sense.position_m
        vx, vy, vz = sense.velocity_mps
        here = fence.breach(x, y, z)
        if here:
            return here
        speed, climb = math.hypot(vx, vy), max(0.0, vz)
        if max(speed, climb) < 0.5:
            return ""
        reach = REACTION_S + speed / (2.0 * BRAKING_MPS2)
        rise = REACTION_S + climb / (2.0 * BRAKING_UP_MPS2)
        return fence.breach(x + vx * reach, y + vy * reach, z + climb * rise)

"""What flying costs: the batteries of all drones at once.

Electrical power of a motor is the ideal induced power of a hovering rotor disk by momentum theory,
P = T^(3/2) / sqrt(2 rho A) (Leishman, *Principles of Helicopter Aerodynamics*, 2nd ed., eq. 2.15), over one
figure that stands for profile losses, motor and controller together, plus a constant for avionics. Forward
flight is charged as hover; real drones gain a little there, so the estimate is on the safe side.

An empty battery gives nothing: `alive` turns false and the fleet stops that drone's motors.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qaios.worlds.airframe import AIR_DENSITY_KGPM3, GRAVITY_MPS2, MASS_KG, ROTOR_RADIUS_M

EFFICIENCY = 0.55  # rotor figure of merit 0.7 times motor and controller 0.78
AVIONICS_W = 6.0
FULL_V = 12.6  # three lithium cells
EMPTY_V = 9.9
_DISK_N = math.sqrt(2.0 * AIR_DENSITY_KGPM3 * math.pi * ROTOR_RADIUS_M**2)


def motor_power_w(thrust_n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Electrical power of each motor, W, for its thrust, N; any shape."""
    pushing = np.maximum(thrust_n, 0.0)
    return pushing * np.sqrt(pushing) / (_DISK_N * EFFICIENCY)


def hover_power_w() -> float:
    """Electrical power of one drone hovering in still air."""
    return float(4.0 * motor_power_w(np.array(MASS_KG * GRAVITY_MPS2 / 4.0))) + AVIONICS_W


class Batteries:
    """State of charge of every drone; arrays have shape (drones,)."""

    def __init__(self, count: int, capacity_wh: float) -> None:
        self.capacity_j = capacity_wh * 3600.0
        self.used_j = np.zeros(count)
        self.power_w = np.zeros(count)

    @property
    def fraction(self) -> NDArray[np.float64]:
        return np.maximum(0.0, 1.0 - self.used_j / self.capacity_j)

    @property
    def alive(self) -> NDArray[np.bool_]:
        return self.used_j < self.capacity_j

    def draw(self, energy_j: NDArray[np.float64], duration_s: float) -> None:
        """Take `energy_j` of motor energy and the avionics' share over `duration_s`."""
        taken = np.where(self.alive, energy_j + AVIONICS_W * duration_s, 0.0)
        self.power_w = taken / duration_s
        self.used_j += taken

    def voltage_v(self, index: int) -> float:
        """Terminal voltage, linear in the state of charge."""
        return EMPTY_V + (FULL_V - EMPTY_V) * float(self.fraction[index])

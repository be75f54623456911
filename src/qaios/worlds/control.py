"""The inner loops of every drone at once: velocity -> attitude on SO(3) -> body rate -> motors.

The vehicles' own processes decide where to go and hand down a velocity and a heading at 25 Hz (the position loop
is theirs); what must be fast runs here, vectorised over the drones. `outer` (50 Hz) is a PI velocity loop that
yields a thrust and a desired attitude; a drone that stands and is not asked to climb idles. `inner` (every physics
step) is a quaternion attitude law, a rate law and the mixer, after Lee, Leok & McClamroch, "Geometric tracking
control of a quadrotor UAV on SE(3)" (CDC 2010), with the attitude error written as the vector part of the error
quaternion: linear in the measured quaternion, so that a step costs a handful of small numpy calls.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qaios.worlds.airframe import GRAVITY_MPS2, INERTIA_KGM2, MASS_KG, THRUST_MAX_N, mixer

Array = NDArray[np.float64]

ACCELERATION_MAX_MPS2 = 3.5  # of the velocity reference
TILT_ACCELERATION_MAX_MPS2 = 5.5  # about 29 degrees
VELOCITY_GAIN = 3.0
INTEGRAL_GAIN = 1.2
INTEGRAL_MAX_MPS2 = 3.0
ATTITUDE_GAIN = 9.0  # rad/s of rate per rad of error
RATE_GAIN = 28.0
YAW_TORQUE_MAX_NM = 0.06  # about 1 N more on one pair of motors and less on the other
RESTING_MPS = (0.0, 0.0, -3.0)  # reference of a drone that stands and is not asked to climb: motors idle


class Controller:
    """State of the loops for `count` drones. Arrays are east-north-up; quaternions are w, x, y, z."""

    def __init__(self, count: int) -> None:
        self.velocity_mps = np.zeros((count, 3))  # what is asked for
        self.yaw_rad = np.zeros(count)
        self._reference = np.zeros((count, 3))
        self._integral = np.zeros((count, 3))
        self._thrust = np.zeros((count, 1))
        self._error = np.zeros((count, 4, 4))  # quaternion -> error quaternion
        self._mix = mixer()[:, 1:].T.copy()
        self._rate_gain = RATE_GAIN * INERTIA_KGM2
        self._attitude = np.zeros((count, 4))

    def reset(self, index: int) -> None:
        """Forget the past of one drone: it has just been armed."""
        self._reference[index] = 0.0
        self._integral[index] = 0.0

    def outer(self, velocity: Array, quaternion: Array, on_ground: NDArray[np.bool_], dt_s: float) -> None:
        """Velocity loop: (count, 3), (count, 4), (count,) -> stored thrust and desired attitude."""
        resting = on_ground & (self.velocity_mps[:, 2] <= 0.0)
        self._reference[resting] = RESTING_MPS
        leaving = on_ground & ~resting
        self._reference[leaving, 2] = np.maximum(self._reference[leaving, 2], 0.0)
        step = self.velocity_mps - self._reference
        length = np.sqrt((step * step).sum(axis=1, keepdims=True))
        limit = ACCELERATION_MAX_MPS2 * dt_s
        ramp = step * np.minimum(1.0, limit / np.maximum(length, 1e-9))
        ramp[resting] = 0.0
        self._reference += ramp
        error = self._reference - velocity
        self._integral += INTEGRAL_GAIN * dt_s * error
        np.clip(self._integral, -INTEGRAL_MAX_MPS2, INTEGRAL_MAX_MPS2, out=self._integral)
        self._integral[on_ground] = 0.0
        wanted = VELOCITY_GAIN * error + self._integral + ramp / dt_s
        horizontal = np.sqrt(wanted[:, 0] ** 2 + wanted[:, 1] ** 2)
        wanted[:, :2] *= np.minimum(1.0, TILT_ACCELERATION_MAX_MPS2 / np.maximum(horizontal, 1e-9))[:, None]
        wanted[:, 2] = np.clip(wanted[:, 2], -0.6 * GRAVITY_MPS2, 0.8 * GRAVITY_MPS2) + GRAVITY_MPS2
        self._aim(wanted, quaternion)

    def _aim(self, specific_force: Array, quaternion: Array) -> None:
        """Thrust along the body axis, and the attitude that points it along `specific_force` at the wanted heading."""
        norm = np.sqrt((specific_force * specific_force).sum(axis=1))
        axis = specific_force / norm[:, None]
        w, x, y, z = quaternion.T
        up = np.stack([2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y)], axis=1)
        alignment = np.maximum(0.3, (axis * up).sum(axis=1))
        self._thrust[:, 0] = np.clip(MASS_KG * norm * alignment / 4.0, 0.0, 0.9 * THRUST_MAX_N)
        tilt_w = np.sqrt(np.maximum(0.0, (1.0 + axis[:, 2]) / 2.0))
        tilt_x, tilt_y = -axis[:, 1] / (2.0 * tilt_w), axis[:, 0] / (2.0 * tilt_w)
        c, s = np.cos(self.yaw_rad / 2.0), np.sin(self.yaw_rad / 2.0)
        a, b, d, e = tilt_w * c, tilt_x * c + tilt_y * s, tilt_y * c - tilt_x * s, tilt_w * s
        # Left multiplication by the conjugate of the desired attitude (a, b, d, e).
        m = self._error
        m[:, 0, 0], m[:, 0, 1], m[:, 0, 2], m[:, 0, 3] = a, b, d, e
        m[:, 1, 0], m[:, 1, 1], m[:, 1, 2], m[:, 1, 3] = -b, a, e, -d
        m[:, 2, 0], m[:, 2, 1], m[:, 2, 2], m[:, 2, 3] = -d, -e, a, b
        m[:, 3, 0], m[:, 3, 1], m[:, 3, 2], m[:, 3, 3] = -e, d, -b, a

    def inner(self, quaternion: Array, rates: Array, out: Array) -> None:
        """Attitude and rate loop: write the thrust of each motor, N, into `out` (count, 4)."""
        error = np.matmul(self._error, quaternion[:, :, None])[:, :, 0]
        wanted = error[:, 1:] * (-2.0 * ATTITUDE_GAIN * np.sign(error[:, :1]))
        torque = (wanted - rates) * self._rate_gain
        # A turn must not take the motors to their stops: that would lift the drone.
        yaw = torque[:, 2]
        np.minimum(yaw, YAW_TORQUE_MAX_NM, out=yaw)
        np.maximum(yaw, -YAW_TORQUE_MAX_NM, out=yaw)
        np.matmul(torque, self._mix, out=out)
        out += self._thrust
        np.maximum(out, 0.0, out=out)
        np.minimum(out, THRUST_MAX_N, out=out)

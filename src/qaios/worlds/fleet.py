"""The physics of all drones of a scene: one MuJoCo model, stepped one barrier (40 ms) at a time.

The world process calls `command`, `advance` and `sense` in turn; tests do the same without any process. All
chance (gusts, sensor instants and noise) is drawn from generators spawned from one seed, each with its own
purpose, so that one drone more or less does not change another's noise.

A drone's motors turn only while it is armed, its vehicle process lives and its battery is not empty.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Invalid
from qaios.worlds import airframe
from qaios.worlds.air import AirSensor, PlumeField, noisy
from qaios.worlds.battery import Batteries, motor_power_w
from qaios.worlds.control import Controller
from qaios.worlds.ledger import Ledger
from qaios.worlds.scene import Scene
from qaios.worlds.wind import DrydenWind
from qaios.worlds.wire import Beacon, Sense, StationReading

STEP_S = 0.004
STEPS_PER_BARRIER = 10
STEPS_PER_OUTER = 5
BARRIER_S = STEP_S * STEPS_PER_BARRIER
LIDAR_RAYS = 24
LIDAR_MAX_M = 20.0
TILT_RAD = math.radians(15.0)
TILT_REACH_M = 8.0
GROUND_CLUTTER_M = 0.5
DOWN_MAX_M = 60.0
BEACON_RANGE_M = 80.0
VEHICLES_MAX = 16


class Fleet:
    """`count` drones on the pads of `scene`; time starts at zero."""

    def __init__(self, scene: Scene, count: int, seed: int) -> None:
        import mujoco

        if not 1 <= count <= min(VEHICLES_MAX, len(scene.pads_m)):
            raise Invalid(
                f"{count} vehicles: scene {scene.name!r} has {len(scene.pads_m)} pads, 1 to 16 vehicles can fly"
            )
        self.scene, self.count, self.seed = scene, count, seed
        self._mujoco = mujoco
        self.model = mujoco.MjModel.from_xml_string(airframe.mjcf(scene, count, STEP_S))
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self._qpos: NDArray[np.float64] = self.data.qpos.reshape(count, 7)
        self._qvel: NDArray[np.float64] = self.data.qvel.reshape(count, 6)
        self._motors: NDArray[np.float64] = self.data.ctrl.reshape(count, 4)
        roots = np.random.SeedSequence(seed).spawn(2 + 2 * VEHICLES_MAX)
        generators = [np.random.default_rng(root) for root in roots]
        self.wind = DrydenWind(scene.wind_mps, scene.gust_mps, generators[0], step_s=BARRIER_S)
        self._station_random = generators[1]
        self.field = PlumeField(scene)
        self._air = [AirSensor(self.field, generators[2 + i]) for i in range(count)]
        self.batteries = Batteries(count, scene.battery_wh)
        self.controller = Controller(count)
        self.armed = np.zeros(count, dtype=bool)
        self.live = np.ones(count, dtype=bool)  # the vehicle process answers
        self.barriers = 0
        self.ledger = Ledger(self.model, count)
        self._down_m = np.zeros(count)
        self._beacons: list[Beacon | None] = [None] * count
        self._wind_now = self.wind.mean_mps
        self._digest = hashlib.sha256()
        bearings = np.arange(LIDAR_RAYS) * (2.0 * math.pi / LIDAR_RAYS)
        level = np.stack([np.sin(bearings), np.cos(bearings), np.zeros(LIDAR_RAYS)], axis=1)
        tilted = level * math.cos(TILT_RAD) - [0.0, 0.0, math.sin(TILT_RAD)]
        self._rays = np.concatenate([level, tilted, [[0.0, 0.0, -1.0]]]).ravel()
        self._seen = np.array([1, 0, 0, 0, 0, 0], dtype=np.uint8)
        self._hit = np.zeros(2 * LIDAR_RAYS + 1, dtype=np.int32)
        self._range = np.zeros(2 * LIDAR_RAYS + 1)

    @property
    def t_s(self) -> float:
        return self.barriers * BARRIER_S

    @property
    def positions_m(self) -> NDArray[np.float64]:
        """A copy, shape (count, 3)."""
        return self._qpos[:, :3].copy()

    @property
    def velocities_mps(self) -> NDArray[np.float64]:
        return self._qvel[:, :3].copy()

    @property
    def airborne(self) -> NDArray[np.bool_]:
        """Whether each drone is off whatever is beneath it."""
        return self._down_m > airframe.REST_HEIGHT_M + 0.1

    @property
    def powered(self) -> NDArray[np.bool_]:
        return self.armed & self.live & self.batteries.alive

    def command(
        self,
        index: int,
        *,
        armed: bool,
        velocity_mps: tuple[float, float, float],
        yaw_rad: float,
        beacon: Beacon | None = None,
    ) -> None:
        """What drone `index` is to do from the next `advance` on."""
        if not (all(map(math.isfinite, velocity_mps)) and math.isfinite(yaw_rad)):
            raise Invalid(f"drone {index + 1}: a setpoint that is not a number: {velocity_mps}, {yaw_rad}")
        if armed and not self.armed[index]:
            self.controller.reset(index)
        self.armed[index] = armed
        self.controller.velocity_mps[index] = velocity_mps
        self.controller.yaw_rad[index] = yaw_rad
        self._beacons[index] = beacon

    def stop(self, index: int) -> None:
        """The vehicle process of drone `index` is gone: its motors stop for good and it falls silent."""
        self.live[index] = False
        self._beacons[index] = None

    def advance(self) -> None:
        """One barrier of physics. A drone whose battery empties on the way loses its motors at the next one."""
        mj_step, model, data, motors = self._mujoco.mj_step, self.model, self.data, self._motors
        self._wind_now = self.wind.step()
        model.opt.wind[:] = self._wind_now
        off = ~self.powered
        energy = np.zeros(self.count)
        before = self.velocities_mps
        quaternion, rates = self._qpos[:, 3:], self._qvel[:, 3:]
        for step in range(STEPS_PER_BARRIER):
            if step % STEPS_PER_OUTER == 0:
                on_ground = self._down_m < airframe.REST_HEIGHT_M + 0.03
                self.controller.outer(self._qvel[:, :3], quaternion, on_ground, STEP_S * STEPS_PER_OUTER)
            self.controller.inner(quaternion, rates, motors)
            motors[off] = 0.0
            energy += motor_power_w(motors).sum(axis=1)
            mj_step(model, data)
        self.batteries.draw(np.where(self.live, energy * STEP_S, 0.0), BARRIER_S)
        self.barriers += 1
        self._range_all()
        self.ledger.note(self, before)
        self._digest.update(np.round(self._qpos, 9).tobytes())

    def digest(self) -> str:
        """SHA-256 of all positions and attitudes so far."""
        return self._digest.hexdigest()

    def _range_all(self) -> None:
        """Ranges of every drone: `_down_m` is (count,), `_lidar` is (count, rays), cut at the sensor's reach.

        The lidar has two rings, level and tilted down. A return of the lower ring counts, at its horizontal distance,
        when it is near (so less than about 2 m below) and not the ground: a level ring alone does not see the roof
        that a descending drone is about to touch.
        """
        ranges = np.empty((self.count, 2 * LIDAR_RAYS + 1))
        for i in range(self.count):
            self._mujoco.mj_multiRay(
                self.model, self.data, self._qpos[i, :3], self._rays, self._seen, 1, -1,
                self._hit, self._range, None, 2 * LIDAR_RAYS + 1, DOWN_MAX_M,
            )  # fmt: skip
            ranges[i] = self._range
        ranges[ranges < 0.0] = DOWN_MAX_M
        self._down_m = ranges[:, -1]
        lower = ranges[:, LIDAR_RAYS:-1]
        above_ground = self._qpos[:, 2:3] - lower * math.sin(TILT_RAD) > GROUND_CLUTTER_M
        level = np.minimum(ranges[:, :LIDAR_RAYS], LIDAR_MAX_M)
        near = (lower < TILT_REACH_M) & above_ground
        self._lidar = np.where(near, np.minimum(level, lower * math.cos(TILT_RAD)), level)

    def sense(self, index: int) -> Sense:
        """What the sensors of drone `index` read now."""
        if self.barriers == 0:
            self._range_all()
        x, y, z, qw, qx, qy, qz = self._qpos[index].tolist()
        vx, vy, vz, p, q, r = self._qvel[index].tolist()
        roll = math.atan2(2.0 * (qw * qx + qy * qz), 1.0 - 2.0 * (qx * qx + qy * qy))
        pitch = math.asin(max(-1.0, min(1.0, 2.0 * (qw * qy - qz * qx))))
        yaw = math.atan2(2.0 * (qw * qz + qx * qy), 1.0 - 2.0 * (qy * qy + qz * qz))
        voltage = self.batteries.voltage_v(index)
        return Sense(
            t_s=self.t_s,
            position_m=(x, y, z),
            velocity_mps=(vx, vy, vz),
            attitude_rad=(roll, -pitch, math.pi / 2.0 - yaw),
            rates_radps=(p, -q, -r),
            battery_fraction=float(self.batteries.fraction[index]),
            battery_v=voltage,
            battery_a=float(self.batteries.power_w[index]) / voltage,
            battery_used_j=float(self.batteries.used_j[index]),
            lidar_m=tuple(self._lidar[index].tolist()),
            down_m=float(self._down_m[index]),
            beacons=self._heard(index, x, y, z),
            air=self._air[index].sample(self.t_s, (x, y, z)) if self.batteries.alive[index] else (),
        )

    def _heard(self, index: int, x: float, y: float, z: float) -> tuple[Beacon, ...]:
        return tuple(
            beacon
            for other, beacon in enumerate(self._beacons)
            if beacon is not None and other != index and math.dist(beacon.position_m, (x, y, z)) <= BEACON_RANGE_M
        )

    def stations(self) -> tuple[StationReading, ...]:
        """A reading of each ground station, with its noise."""
        wind = (float(self._wind_now[0]), float(self._wind_now[1]))
        readings = []
        for station in self.scene.stations:
            place = (station.east_m, station.north_m, station.height_m)
            value, sigma = noisy(float(self.field.pm25_ugm3(place)), self._station_random)
            readings.append(StationReading(station.name, place, value, sigma, wind, self.t_s))
        return tuple(readings)

    def picture(self) -> Any:
        """The MuJoCo (model, data) pair, for a renderer."""
        return self.model, self.data

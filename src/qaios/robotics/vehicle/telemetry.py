"""What a vehicle tells its peers by itself, each message at its own rate of world time.

    5 Hz   GLOBAL_POSITION_INT
    2 Hz   LOCAL_POSITION_NED, ATTITUDE, OBSTACLE_DISTANCE
    1 Hz   HEARTBEAT, SYS_STATUS, BATTERY_STATUS, EXTENDED_SYS_STATE, MISSION_CURRENT, SYSTEM_TIME, GPS_RAW_INT,
           ESTIMATOR_STATUS; HOME_POSITION every 5 s

Packing a message in Python costs more than deciding what to fly, so nothing is sent faster than it is useful. Rates
follow barriers, staggered by system id, so that sixteen vehicles do not all speak at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qaios.robotics.vehicle.plan import FlightMode
from qaios.worlds.wire import Sense

if TYPE_CHECKING:
    from qaios.robotics.vehicle.endpoint import Address, Endpoint

BARRIERS_PER_S = 25
LIDAR_MAX_CM = 2000
NOT_KNOWN_16 = 0xFFFF


class Telemetry:
    """Builds and sends the streams of one endpoint; commands ask it for single messages too."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._mav = endpoint.mav
        self._d = endpoint.dialect
        self._barrier = endpoint.autopilot.sysid * 7
        self._last_mission: tuple[Any, ...] = ()

    def tick(self, sense: Sense) -> None:
        """Send what is due at this barrier."""
        self._barrier += 1
        out = self._endpoint.broadcast
        if self._barrier % 5 == 0:
            out(self.global_position(sense))
        match self._barrier % 12:
            case 1:
                out(self.attitude(sense))
            case 5:
                out(self.local_position(sense))
            case 9:
                out(self.obstacle_distance(sense))
        self._each_second(sense, self._barrier % BARRIERS_PER_S)
        autopilot = self._endpoint.autopilot
        mission = (autopilot.current, autopilot.mission, autopilot.plan_id, autopilot.mode)
        if mission != self._last_mission or self._barrier % BARRIERS_PER_S == 14:
            if self._last_mission and mission[3] is not self._last_mission[3]:
                out(self.heartbeat())
            self._last_mission = mission
            self._endpoint.mission_current()

    def _each_second(self, sense: Sense, phase: int) -> None:
        out = self._endpoint.broadcast
        match phase:
            case 0:
                out(self.heartbeat())
            case 2:
                out(self.sys_status(sense))
            case 4:
                out(self.battery_status(sense))
            case 6:
                out(self.extended_state())
            case 8:
                out(self.system_time(sense))
            case 10:
                out(self.gps_raw(sense))
            case 12:
                out(self.estimator_status(sense))
            case 16 if self._barrier % (5 * BARRIERS_PER_S) == 16:
                out(self.home_position(sense))

    def on_request(self, message_id: int, sense: Sense, peer: Address) -> bool:
        """Send message `message_id` to `peer` now; False when we have no such message."""
        makers: dict[int, Callable[[], Any]] = {
            0: self.heartbeat, 1: lambda: self.sys_status(sense), 2: lambda: self.system_time(sense),
            24: lambda: self.gps_raw(sense), 30: lambda: self.attitude(sense), 32: lambda: self.local_position(sense),
            33: lambda: self.global_position(sense), 147: lambda: self.battery_status(sense),
            148: self.autopilot_version, 230: lambda: self.estimator_status(sense), 245: self.extended_state,
            242: lambda: self.home_position(sense), 330: lambda: self.obstacle_distance(sense),
        }  # fmt: skip
        if message_id == 42:
            self._endpoint.mission_current(peer)
            return True
        if message_id not in makers:
            return False
        self._endpoint.answer(makers[message_id](), peer)
        return True

    def heartbeat(self) -> Any:
        autopilot, d = self._endpoint.autopilot, self._d
        base = d.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | d.MAV_MODE_FLAG_STABILIZE_ENABLED | d.MAV_MODE_FLAG_GUIDED_ENABLED
        base |= d.MAV_MODE_FLAG_AUTO_ENABLED if autopilot.mode is not FlightMode.OFFBOARD else 0
        base |= d.MAV_MODE_FLAG_SAFETY_ARMED if autopilot.armed else 0
        state = d.MAV_STATE_ACTIVE if autopilot.armed else d.MAV_STATE_STANDBY
        if autopilot.armed and autopilot.watch.standing:
            state = d.MAV_STATE_CRITICAL
        return self._mav.heartbeat_encode(
            d.MAV_TYPE_QUADROTOR, d.MAV_AUTOPILOT_PX4, base, autopilot.mode.custom_mode, state
        )

    def global_position(self, sense: Sense) -> Any:
        x, y, z = sense.position_m
        lat, lon = self._endpoint.globe_e7(x, y)
        heading = math.degrees(sense.attitude_rad[2]) % 360.0
        ve, vn, vu = (round(100.0 * v) for v in sense.velocity_mps)
        up = round(1000.0 * z)
        return self._mav.global_position_int_encode(
            _boot_ms(sense), lat, lon, up, up, vn, ve, -vu, min(35999, round(100.0 * heading))
        )

    def local_position(self, sense: Sense) -> Any:
        (x, y, z), (ve, vn, vu) = sense.position_m, sense.velocity_mps
        return self._mav.local_position_ned_encode(_boot_ms(sense), y, x, -z, vn, ve, -vu)

    def attitude(self, sense: Sense) -> Any:
        roll, pitch, yaw = sense.attitude_rad
        return self._mav.attitude_encode(
            _boot_ms(sense), roll, pitch, math.remainder(yaw, 2.0 * math.pi), *sense.rates_radps
        )

    def obstacle_distance(self, sense: Sense) -> Any:
        """Level ranges clockwise from north, frame MAV_FRAME_GLOBAL; max + 1 where nothing is seen."""
        ranges = [round(100.0 * r) if r < 19.9 else LIDAR_MAX_CM + 1 for r in sense.lidar_m]
        ranges += [NOT_KNOWN_16] * (72 - len(ranges))
        return self._mav.obstacle_distance_encode(
            _boot_ms(sense) * 1000, self._d.MAV_DISTANCE_SENSOR_LASER, ranges, 0, 20, LIDAR_MAX_CM,
            360.0 / len(sense.lidar_m), 0.0, self._d.MAV_FRAME_GLOBAL,
        )  # fmt: skip

    def sys_status(self, sense: Sense) -> Any:
        d = self._d
        sensors = (
            d.MAV_SYS_STATUS_SENSOR_3D_GYRO | d.MAV_SYS_STATUS_SENSOR_3D_ACCEL | d.MAV_SYS_STATUS_SENSOR_3D_MAG
            | d.MAV_SYS_STATUS_SENSOR_GPS | d.MAV_SYS_STATUS_SENSOR_BATTERY | d.MAV_SYS_STATUS_GEOFENCE
        )  # fmt: skip
        return self._mav.sys_status_encode(
            sensors, sensors, sensors, 100, round(1000.0 * sense.battery_v), round(100.0 * sense.battery_a),
            _percent(sense), 0, 0, self._endpoint.malformed & 0xFFFF, 0, 0, 0,
        )  # fmt: skip

    def battery_status(self, sense: Sense) -> Any:
        d = self._d
        cells = [round(1000.0 * sense.battery_v / 3.0)] * 3 + [NOT_KNOWN_16] * 7
        return self._mav.battery_status_encode(
            0, d.MAV_BATTERY_FUNCTION_ALL, d.MAV_BATTERY_TYPE_LIPO, 0x7FFF, cells, round(100.0 * sense.battery_a),
            -1, round(sense.battery_used_j / 100.0), _percent(sense),
        )  # fmt: skip

    def extended_state(self) -> Any:
        autopilot, d = self._endpoint.autopilot, self._d
        if not autopilot.airborne:
            landed = d.MAV_LANDED_STATE_ON_GROUND
        elif autopilot.mode is FlightMode.TAKEOFF:
            landed = d.MAV_LANDED_STATE_TAKEOFF
        elif autopilot.mode is FlightMode.LAND:
            landed = d.MAV_LANDED_STATE_LANDING
        else:
            landed = d.MAV_LANDED_STATE_IN_AIR
        return self._mav.extended_sys_state_encode(0, landed)

    def system_time(self, sense: Sense) -> Any:
        return self._mav.system_time_encode(round(1e6 * (self._endpoint.epoch_s + sense.t_s)), _boot_ms(sense))

    def gps_raw(self, sense: Sense) -> Any:
        x, y, z = sense.position_m
        lat, lon = self._endpoint.globe_e7(x, y)
        ve, vn, _ = sense.velocity_mps
        return self._mav.gps_raw_int_encode(
            _boot_ms(sense) * 1000, self._d.GPS_FIX_TYPE_RTK_FIXED, lat, lon, round(1000.0 * z), 30, 40,
            round(100.0 * math.hypot(ve, vn)), round(100.0 * (math.degrees(math.atan2(ve, vn)) % 360.0)) % 36000, 18,
        )  # fmt: skip

    def estimator_status(self, sense: Sense) -> Any:
        good = 1 | 2 | 4 | 8 | 16 | 32 | 64 | 256 | 512  # attitude, velocities, positions, predictions
        return self._mav.estimator_status_encode(_boot_ms(sense) * 1000, good, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.1, 0.1)

    def home_position(self, sense: Sense) -> Any:
        x, y, z = self._endpoint.autopilot.home_m
        lat, lon = self._endpoint.globe_e7(x, y)
        return self._mav.home_position_encode(
            lat, lon, 0, y, x, -z, [1.0, 0.0, 0.0, 0.0], 0.0, 0.0, 0.0, _boot_ms(sense) * 1000
        )

    def autopilot_version(self) -> Any:
        d = self._d
        can = (
            d.MAV_PROTOCOL_CAPABILITY_MISSION_INT | d.MAV_PROTOCOL_CAPABILITY_COMMAND_INT
            | d.MAV_PROTOCOL_CAPABILITY_PARAM_FLOAT | d.MAV_PROTOCOL_CAPABILITY_MAVLINK2
            | d.MAV_PROTOCOL_CAPABILITY_MISSION_FENCE | d.MAV_PROTOCOL_CAPABILITY_SET_POSITION_TARGET_LOCAL_NED
        )  # fmt: skip
        version = 1 << 24 | 255  # 1.0.0, release
        blank = [0] * 8
        return self._mav.autopilot_version_encode(
            can, version, version, version, 0, blank, blank, blank, 0, 0, self._endpoint.autopilot.sysid
        )


def _boot_ms(sense: Sense) -> int:
    return round(1000.0 * sense.t_s)


def _percent(sense: Sense) -> int:
    return round(100.0 * sense.battery_fraction)

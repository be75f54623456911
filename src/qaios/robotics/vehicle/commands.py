"""Commands, mode changes, setpoints and parameters: MAVLink in, the autopilot's verbs out, an honest answer back.

COMMAND_LONG and COMMAND_INT are answered with what came of them: ACCEPTED, TEMPORARILY_REJECTED (a `Conflict`: not
in this state), DENIED (an `Invalid`: wrong arguments), UNSUPPORTED. The reason goes out as STATUSTEXT. A repeated
command is harmless: each verb leaves a vehicle that already does it as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from qaios.core.errors import Conflict, Invalid
from qaios.robotics.vehicle.autopilot import FORCE_DISARM
from qaios.robotics.vehicle.plan import FlightMode

if TYPE_CHECKING:
    from qaios.robotics.vehicle.endpoint import Address, Endpoint

VELOCITY_IGNORED = 0b111_000
POSITION_IGNORED = 0b111


@dataclass(frozen=True, slots=True)
class Order:
    """A command with its seven parameters, whichever message brought it; NaN where it says nothing."""

    command: int
    p: tuple[float, float, float, float]
    place_m: tuple[float, float, float] | None  # parameters 5 to 7 where they are a place
    height_m: float  # parameter 7 alone


class Commands:
    """Carries out what comes in on one endpoint."""

    KINDS: ClassVar[frozenset[str]] = frozenset(
        {
            "COMMAND_LONG",
            "COMMAND_INT",
            "SET_MODE",
            "SET_POSITION_TARGET_LOCAL_NED",
            "PARAM_REQUEST_READ",
            "PARAM_REQUEST_LIST",
            "PARAM_SET",
        }
    )

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._autopilot = endpoint.autopilot
        self._d = endpoint.dialect

    def take(self, message: Any, peer: Address) -> None:
        """Carry out one message."""
        match message.get_type():
            case "COMMAND_LONG" | "COMMAND_INT":
                self._command(message, peer)
            case "SET_MODE":
                self._attempt(lambda: self._set_mode(message.custom_mode >> 16 & 0xFF, message.custom_mode >> 24))
            case "SET_POSITION_TARGET_LOCAL_NED":
                self._setpoint(message)
            case "PARAM_REQUEST_LIST":
                for name in self._autopilot.parameters.names:
                    self._tell_parameter(name, peer)
            case "PARAM_REQUEST_READ":
                self._read_parameter(message, peer)
            case "PARAM_SET":
                name = _name(message.param_id)
                self._attempt(lambda: self._autopilot.parameters.set(name, message.param_value))
                self._tell_parameter(name, peer)

    def _attempt(self, verb: Any) -> int:
        """Run `verb`; the MAV_RESULT of it."""
        try:
            supported = verb()
        except Conflict as error:
            self._endpoint.refuse(error)
            return int(self._d.MAV_RESULT_TEMPORARILY_REJECTED)
        except Invalid as error:
            self._endpoint.refuse(error)
            return int(self._d.MAV_RESULT_DENIED)
        return int(self._d.MAV_RESULT_UNSUPPORTED if supported is False else self._d.MAV_RESULT_ACCEPTED)

    def _command(self, message: Any, peer: Address) -> None:
        order = self._order(message)
        result = self._attempt(lambda: self._carry_out(order, peer))
        source = message.get_srcSystem(), message.get_srcComponent()
        self._endpoint.answer(self._endpoint.mav.command_ack_encode(order.command, result, 0, 0, *source), peer)

    def _order(self, message: Any) -> Order:
        p = (message.param1, message.param2, message.param3, message.param4)
        if message.get_type() == "COMMAND_INT":
            height = message.z
            lat_e7, lon_e7 = message.x, message.y
            known = (lat_e7, lon_e7) != (0, 0) and -(2**31) < lat_e7 < 2**31 - 1 and abs(lon_e7) < 2**31 - 1
        else:
            height = message.param7
            known = math.isfinite(message.param5) and math.isfinite(message.param6) and message.param5 != 0.0
            lat_e7, lon_e7 = (round(message.param5 * 1e7), round(message.param6 * 1e7)) if known else (0, 0)
        place = self._endpoint.local(lat_e7, lon_e7, height) if known else None
        return Order(message.command, p, place, height)

    def _carry_out(self, order: Order, peer: Address) -> bool | None:
        """False: no such command here."""
        d, autopilot, p = self._d, self._autopilot, order.p
        match order.command:
            case d.MAV_CMD_COMPONENT_ARM_DISARM:
                if p[0] == 1.0:
                    autopilot.arm()
                else:
                    autopilot.disarm(force=p[1] == FORCE_DISARM)
            case d.MAV_CMD_NAV_TAKEOFF:
                autopilot.takeoff(order.height_m if math.isfinite(order.height_m) and order.height_m > 0 else None)
            case d.MAV_CMD_NAV_LAND:
                autopilot.land()
            case d.MAV_CMD_NAV_RETURN_TO_LAUNCH:
                autopilot.rtl()
            case d.MAV_CMD_DO_SET_MODE:
                return self._set_mode(_whole(p[1]), _whole(p[2]))
            case d.MAV_CMD_DO_REPOSITION:
                if order.place_m is None:
                    raise Invalid("reposition refused: no place given")
                autopilot.goto(order.place_m, p[0] if math.isfinite(p[0]) and p[0] > 0.0 else None)
            case d.MAV_CMD_DO_PAUSE_CONTINUE:
                if p[0] == 0.0:
                    autopilot.hold()
                else:
                    autopilot.resume()
            case d.MAV_CMD_DO_CHANGE_SPEED:
                autopilot.set_speed(p[1])
            case d.MAV_CMD_MISSION_START:
                autopilot.start_mission(_whole(p[0]) if p[0] > 0 else None)
            case d.MAV_CMD_DO_SET_MISSION_CURRENT:
                autopilot.select(_whole(p[0]))
            case d.MAV_CMD_DO_FLIGHTTERMINATION if p[0] > 0.5:
                autopilot.disarm(force=True)
            case _:
                return self._informational(order, peer)
        return None

    def _informational(self, order: Order, peer: Address) -> bool:
        d, sense, telemetry = self._d, self._autopilot.sense, self._endpoint.telemetry
        asked = {
            d.MAV_CMD_REQUEST_MESSAGE: order.p[0],
            d.MAV_CMD_REQUEST_AUTOPILOT_CAPABILITIES: 148,
            d.MAV_CMD_GET_HOME_POSITION: 242,
        }.get(order.command)
        if asked is None:
            # Rates are fixed here; asking for the one that is streamed anyway is granted, so ground stations go on.
            return bool(order.command == d.MAV_CMD_SET_MESSAGE_INTERVAL)
        return sense is not None and telemetry.on_request(_whole(asked), sense, peer)

    def _set_mode(self, main: int, sub: int) -> bool | None:
        autopilot = self._autopilot
        mode = next((mode for mode in FlightMode if mode.value == (main, sub if main == 4 else 0)), None)
        match mode:
            case FlightMode.MISSION:
                autopilot.start_mission()
            case FlightMode.HOLD:
                autopilot.hold()
            case FlightMode.RTL:
                autopilot.rtl()
            case FlightMode.LAND:
                autopilot.land()
            case FlightMode.TAKEOFF:
                autopilot.takeoff(None)
            case FlightMode.OFFBOARD:
                autopilot.start_offboard()
            case _:
                return False
        return None

    def _setpoint(self, message: Any) -> None:
        """Position (north, east, down) or velocity by type_mask; a setpoint with neither is ignored."""
        position = velocity = None
        if not message.type_mask & POSITION_IGNORED:
            position = (message.y, message.x, -message.z)
        if not message.type_mask & VELOCITY_IGNORED:
            velocity = (message.vy, message.vx, -message.vz)
        given = position or velocity
        if given is not None and all(map(math.isfinite, given)):
            self._autopilot.offboard(position, velocity)

    def _read_parameter(self, message: Any, peer: Address) -> None:
        names = self._autopilot.parameters.names
        name = _name(message.param_id)
        if 0 <= message.param_index < len(names):
            name = names[message.param_index]
        self._tell_parameter(name, peer)

    def _tell_parameter(self, name: str, peer: Address) -> None:
        """PARAM_VALUE as it is now; nothing for a name we do not have, as the protocol has it."""
        parameters = self._autopilot.parameters
        if name in parameters.values:
            index = list(parameters.names).index(name)
            value = self._endpoint.mav.param_value_encode(
                name.encode(), parameters[name], self._d.MAV_PARAM_TYPE_REAL32, len(parameters.names), index
            )
            self._endpoint.answer(value, peer)


def _whole(value: float) -> int:
    """A parameter that counts something. Raises `Invalid` for what is no number of anything."""
    if not math.isfinite(value):
        raise Invalid(f"{value} where a whole number belongs")
    return int(value)


def _name(param_id: str | bytes) -> str:
    text = param_id.decode(errors="replace") if isinstance(param_id, bytes) else param_id
    return text.rstrip("\0")

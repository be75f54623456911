"""What the world process and its clients say to each other, and how it is framed.

A frame is four bytes of big-endian length and one msgpack-encoded tagged Struct. Vehicles, clocks and observers
connect to the same port and say which they are in `Join`; the world answers `Welcome`. Nothing here does any
I/O: `frame` and `Unframer` turn Structs into bytes and back, so the same code serves the world's selector loop,
a vehicle's blocking socket and a kernel's asyncio streams.

Lengths are metres, in the local frame east-north-up around the scene's origin; times are seconds of world time
since the world started, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from qaios.core.errors import Invalid

FRAME_MAX_BYTES = 4 << 20
Vec3 = tuple[float, float, float]


class Join(msgspec.Struct, frozen=True, tag="join"):
    """First frame of every connection. `role` is vehicle, clock or observer; `token` is the one in world.json."""

    role: str
    token: str
    name: str = ""


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The world's answer to every `Join`; `sysid` and `home_m` are only meaningful to a vehicle."""

    epoch_s: float  # Unix time at world time zero
    t_s: float
    seed: int
    lat_deg: float
    lon_deg: float
    sysid: int = 0
    home_m: Vec3 = (0.0, 0.0, 0.0)
    fence_m: tuple[tuple[float, float], ...] = ()  # built-in inclusion polygon, east and north
    ceiling_m: float = 0.0
    loss: float = 0.0  # probability that a datagram is lost, each way


class Denied(msgspec.Struct, frozen=True, tag="denied"):
    """The connection is refused and closed; `why` says what to do."""

    why: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A vehicle has opened its MAVLink port."""

    port: int
    pid: int


class Beacon(msgspec.Struct, frozen=True, array_like=True):
    """What a vehicle tells its neighbours by short-range radio."""

    sysid: int
    position_m: Vec3
    velocity_mps: Vec3
    airborne: bool


class AirSample(msgspec.Struct, frozen=True, array_like=True):
    """One reading of a drone's air sensor: PM2.5 in ug/m3 and its one-sigma noise."""

    t_s: float
    pm25_ugm3: float
    sigma_ugm3: float


class Sense(msgspec.Struct, frozen=True, tag="sense", array_like=True):
    """What a vehicle's sensors read at one barrier. Lidar ranges are horizontal, clockwise from north."""

    t_s: float
    position_m: Vec3
    velocity_mps: Vec3
    attitude_rad: Vec3  # roll, pitch, yaw of the airframe, FRD against NED, as MAVLink's ATTITUDE wants them
    rates_radps: Vec3
    battery_fraction: float
    battery_v: float
    battery_a: float
    battery_used_j: float
    lidar_m: tuple[float, ...]
    down_m: float
    beacons: tuple[Beacon, ...] = ()
    air: tuple[AirSample, ...] = ()


class Setpoint(msgspec.Struct, frozen=True, tag="setpoint", array_like=True):
    """What a vehicle wants of its inner loops until the next barrier; it also carries the beacon to its neighbours."""

    t_s: float  # of the Sense it answers
    armed: bool
    velocity_mps: Vec3
    yaw_rad: float  # counter-clockwise from east
    beacon: Beacon
    contact: bool = False  # a ground station has spoken to it lately


class Tick(msgspec.Struct, frozen=True, tag="tick", array_like=True):
    """World time has reached `t_s`."""

    t_s: float


class Ack(msgspec.Struct, frozen=True, tag="ack", array_like=True):
    """A clock client has done what `t_s` asked of it. `holding`: it will be silent on purpose until it acks again."""

    t_s: float
    holding: bool = False


class Grid(msgspec.Struct, frozen=True):
    """Points west to east, south to north: `columns` by `rows` between the corners, at one height."""

    west_m: float
    south_m: float
    east_m: float
    north_m: float
    columns: int
    rows: int
    height_m: float


class AskTruth(msgspec.Struct, frozen=True, tag="ask_truth"):
    grid: Grid


class Truth(msgspec.Struct, frozen=True, tag="truth"):
    """Noise-free PM2.5, ug/m3, row by row from the south."""

    grid: Grid
    pm25_ugm3: tuple[float, ...]
    t_s: float


class AskStations(msgspec.Struct, frozen=True, tag="ask_stations"):
    pass


class StationReading(msgspec.Struct, frozen=True):
    """One ground station now: air and, where it has a mast, wind (the way the wind blows, east and north)."""

    name: str
    position_m: Vec3
    pm25_ugm3: float
    sigma_ugm3: float
    wind_mps: tuple[float, float]
    t_s: float


class Stations(msgspec.Struct, frozen=True, tag="stations"):
    readings: tuple[StationReading, ...]


class AskMetrics(msgspec.Struct, frozen=True, tag="ask_metrics"):
    pass


class VehicleTruth(msgspec.Struct, frozen=True):
    """One vehicle as the world knows it. `state` is ready, flying, dead or crashed."""

    name: str
    sysid: int
    state: str
    position_m: Vec3
    battery_fraction: float
    battery_min_fraction: float
    energy_j: float
    flown_m: float
    contacts: int  # while it lived: touches of a building, another drone, or the ground faster than 2 m/s
    ended_s: float | None = None  # when its process died
    ended_why: str = ""


class Metrics(msgspec.Struct, frozen=True, tag="metrics"):
    """Ground truth of the flight. `min_separation_m`: live airborne drones only, inf when there never were two."""

    t_s: float
    min_separation_m: float
    min_battery_fraction: float
    vehicles: tuple[VehicleTruth, ...]
    wall_s: float
    digest: str  # of every vehicle's trajectory; same seed and commands, same digest


class ArmDrill(msgspec.Struct, frozen=True, tag="arm_drill"):
    """SIGKILL one vehicle process `from_s` to `to_s` seconds from now; which and when come from the world's seed."""

    key: str
    from_s: float
    to_s: float


class DisarmDrill(msgspec.Struct, frozen=True, tag="disarm_drill"):
    key: str


class AskDrill(msgspec.Struct, frozen=True, tag="ask_drill"):
    key: str


class Drill(msgspec.Struct, frozen=True, tag="drill"):
    """State of a drill: never (unknown key), armed, waiting (time has come, nothing airborne), done or disarmed."""

    key: str
    state: str
    vehicle: str = ""
    killed_s: float | None = None  # world time


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """End the world and its vehicles now."""


ToWorld = (
    Join | Ready | Setpoint | Ack | AskTruth | AskStations | AskMetrics | ArmDrill | DisarmDrill | AskDrill | Shutdown
)
FromWorld = Welcome | Denied | Sense | Tick | Truth | Stations | Metrics | Drill

# array_like and map-like Structs cannot share one union, so each side decodes the two kinds by first byte.
_FAST_TO: msgspec.msgpack.Decoder[Setpoint | Ack] = msgspec.msgpack.Decoder(Setpoint | Ack)
_SlowTo = Join | Ready | AskTruth | AskStations | AskMetrics | ArmDrill | DisarmDrill | AskDrill | Shutdown
_SLOW_TO: msgspec.msgpack.Decoder[_SlowTo] = msgspec.msgpack.Decoder(_SlowTo)
_FAST_FROM: msgspec.msgpack.Decoder[Sense | Tick] = msgspec.msgpack.Decoder(Sense | Tick)
_SlowFrom = Welcome | Denied | Truth | Stations | Metrics | Drill
_SLOW_FROM: msgspec.msgpack.Decoder[_SlowFrom] = msgspec.msgpack.Decoder(_SlowFrom)
_ENCODER = msgspec.msgpack.Encoder()


def frame(message: msgspec.Struct) -> bytes:
    """The bytes of one frame."""
    body = _ENCODER.encode(message)
    return len(body).to_bytes(4, "big") + body


def _is_array(body: bytes) -> bool:
    return (body[0] & 0xF0) == 0x90 or body[0] in (0xDC, 0xDD)


def to_world(body: bytes) -> ToWorld:
    """Decode what a client sent. Raises `Invalid` on anything else."""
    try:
        if body and _is_array(body):
            return _FAST_TO.decode(body)
        return _SLOW_TO.decode(body)
    except msgspec.DecodeError as error:
        raise Invalid(f"a frame to the world cannot be read: {error}") from error


def from_world(body: bytes) -> FromWorld:
    """Decode what the world sent. Raises `Invalid` on anything else."""
    try:
        if body and _is_array(body):
            return _FAST_FROM.decode(body)
        return _SLOW_FROM.decode(body)
    except msgspec.DecodeError as error:
        raise Invalid(f"a frame from the world cannot be read: {error}") from error


class Unframer:
    """Collects bytes as they come and gives out whole frame bodies."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Every body that is complete now. Raises `Invalid` when a length is absurd; the connection is then useless."""
        held = self._bytes
        held += chunk
        start = 0
        try:
            while len(held) - start >= 4:
                size = int.from_bytes(held[start : start + 4], "big")
                if size > FRAME_MAX_BYTES:
                    raise Invalid(f"a frame of {size} bytes exceeds the limit of {FRAME_MAX_BYTES}")
                if len(held) - start - 4 < size:
                    break
                yield bytes(held[start + 4 : start + 4 + size])
                start += 4 + size
        finally:
            del held[:start]

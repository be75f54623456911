"""The scene: what stands where before anything flies.

A frozen record, JSON in and out, that the world loads at start: origin, area, no-fly zones, buildings, pads,
pollution sources, stations, wind. `default_scene()` is the small town quarter of the examples; a test or an
operator gives another one as a file. Metres east and north of the origin, heights above ground.
"""

from __future__ import annotations

import msgspec

from qaios.core.errors import Invalid

Point = tuple[float, float]


class Building(msgspec.Struct, frozen=True):
    """An upright box."""

    name: str
    east_m: float
    north_m: float
    width_m: float  # along east
    depth_m: float  # along north
    height_m: float


class Source(msgspec.Struct, frozen=True):
    """A continuous source of PM2.5 of some size."""

    name: str
    east_m: float
    north_m: float
    height_m: float
    rate_ugps: float
    width_m: float = 2.0


class Station(msgspec.Struct, frozen=True):
    """A fixed air and wind monitor on a mast."""

    name: str
    east_m: float
    north_m: float
    height_m: float = 4.0


class Scene(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything the seed does not draw."""

    name: str
    lat_deg: float
    lon_deg: float
    area_m: tuple[Point, ...]  # what a survey covers
    fence_m: tuple[Point, ...]  # convex or not, counter-clockwise; a vehicle never leaves it
    ceiling_m: float
    no_fly_m: tuple[tuple[Point, ...], ...]
    buildings: tuple[Building, ...]
    sources: tuple[Source, ...]
    stations: tuple[Station, ...]
    pads_m: tuple[Point, ...]  # one per vehicle, by index
    wind_mps: Point  # mean wind at 10 m, the way it blows
    gust_mps: float  # wind speed at 6 m that sets the turbulence, W20 of MIL-F-8785C
    background_ugm3: float
    battery_wh: float

    def __post_init__(self) -> None:
        if len(self.fence_m) < 3 or len(self.area_m) < 3:
            raise Invalid(f"scene {self.name!r}: area_m and fence_m need at least three corners")
        if self.wind_mps == (0.0, 0.0):
            raise Invalid(f"scene {self.name!r}: wind_mps is zero, a plume needs wind; give at least 0.5 m/s")


def _square(half_m: float) -> tuple[Point, ...]:
    return ((-half_m, -half_m), (half_m, -half_m), (half_m, half_m), (-half_m, half_m))


def _box(west_m: float, south_m: float, east_m: float, north_m: float) -> tuple[Point, ...]:
    return ((west_m, south_m), (east_m, south_m), (east_m, north_m), (west_m, north_m))


def default_scene() -> Scene:
    """A quarter of 120 m by 120 m with a smouldering yard in its south-west and the wind from there."""
    pads = tuple((-9.0 + 6.0 * (i % 4), -66.0 - 6.0 * (i // 4)) for i in range(16))
    return Scene(
        name="quarter",
        lat_deg=47.3977,
        lon_deg=8.5456,
        area_m=_square(60.0),
        fence_m=_box(-80.0, -95.0, 80.0, 80.0),
        ceiling_m=45.0,
        no_fly_m=(_box(16.0, 14.0, 36.0, 34.0),),
        buildings=(
            Building("tower", 26.0, 24.0, 12.0, 12.0, 26.0),
            Building("school", -30.0, 30.0, 22.0, 12.0, 14.5),
            Building("hall", -36.0, -8.0, 14.0, 20.0, 9.0),
            Building("bakery", 2.0, 2.0, 10.0, 8.0, 14.0),
            Building("row", 36.0, -22.0, 10.0, 26.0, 8.0),
            Building("chapel", 4.0, 42.0, 8.0, 14.0, 15.0),
            Building("depot", -10.0, -34.0, 16.0, 8.0, 6.0),
        ),
        sources=(
            Source("yard", -46.0, -38.0, 6.0, 250_000.0, 24.0),
            Source("works", 12.0, -20.0, 8.0, 100_000.0, 14.0),
        ),
        stations=(
            Station("gate", 0.0, -58.0),
            Station("square", -12.0, 10.0),
            Station("east", 50.0, 10.0),
        ),
        pads_m=pads,
        wind_mps=(2.2, 1.4),
        gust_mps=4.0,
        background_ugm3=8.0,
        battery_wh=24.0,
    )


def read_scene(text: bytes) -> Scene:
    """A scene from JSON. Raises `Invalid` naming the field."""
    try:
        return msgspec.json.decode(text, type=Scene)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Invalid(
            f"this is not a scene: {error}", hint="`default_scene()` written as JSON is an example"
        ) from error

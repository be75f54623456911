"""Where things are: GeoJSON at the border, metres around an origin inside.

A mission names its area as GeoJSON (RFC 7946: longitude before latitude). Planning works in local ENU metres
(east, north), and MAVLink wants degrees again. This module is the only place where the two meet: it reads an
area, says precisely what is wrong with a bad one, and turns positions there and back.

Projection: local equirectangular with the two WGS-84 radii of curvature at the origin (meridian M, prime
vertical N): east = N cos(lat0) dlon, north = M dlat. Its error grows with the square of the distance,
about d^2 tan(lat0) / (2 N): 1 mm at 100 m, 9 cm at 1 km, 2 m at 5 km for latitude 47. Areas that reach further
than `REACH_M` from their origin are refused rather than flown with a hidden error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qaios.core.errors import Invalid

if TYPE_CHECKING:
    from shapely.geometry import Polygon
    from shapely.geometry.base import BaseGeometry

XY = tuple[float, float]  # metres: east, north

# WGS-84 (NGA.STND.0036): semi-major axis in metres, first eccentricity squared.
WGS84_A_M = 6_378_137.0
WGS84_E2 = 6.694_379_990_14e-3

REACH_M = 5_000.0


@dataclass(frozen=True, slots=True)
class Origin:
    """The point on Earth where local metres are zero. Degrees, WGS-84."""

    lat_deg: float = 47.3977
    lon_deg: float = 8.5456

    def __post_init__(self) -> None:
        if not (-85.0 <= self.lat_deg <= 85.0 and -180.0 <= self.lon_deg <= 180.0):
            raise Invalid(
                f"the origin latitude {self.lat_deg}, longitude {self.lon_deg} is not a place this projection covers",
                hint="Give degrees: latitude -85..85, longitude -180..180.",
            )

    @property
    def _metres_per_degree(self) -> tuple[float, float]:
        sine = math.sin(math.radians(self.lat_deg))
        curve = 1.0 - WGS84_E2 * sine * sine
        meridian_m = WGS84_A_M * (1.0 - WGS84_E2) / curve**1.5
        normal_m = WGS84_A_M / math.sqrt(curve)
        return math.radians(normal_m * math.cos(math.radians(self.lat_deg))), math.radians(meridian_m)

    def local(self, lon_deg: float, lat_deg: float) -> XY:
        """(east, north) in metres of a place given as GeoJSON does, longitude first."""
        east, north = self._metres_per_degree
        return (lon_deg - self.lon_deg) * east, (lat_deg - self.lat_deg) * north

    def place(self, east_m: float, north_m: float) -> tuple[float, float]:
        """(longitude, latitude) in degrees of a local position."""
        east, north = self._metres_per_degree
        return self.lon_deg + east_m / east, self.lat_deg + north_m / north

    def error_m(self, distance_m: float) -> float:
        """Bound on what the projection gets wrong at this distance from the origin, in metres."""
        return distance_m**2 * abs(math.tan(math.radians(self.lat_deg))) / (2.0 * WGS84_A_M) + 1e-6 * distance_m

    def plain(self) -> dict[str, float]:
        return {"lat_deg": self.lat_deg, "lon_deg": self.lon_deg}

    @classmethod
    def read(cls, document: object) -> Origin:
        """From {"lat_deg", "lon_deg"}; raises `Invalid`."""
        if isinstance(document, Origin):
            return document
        if not isinstance(document, Mapping) or not {"lat_deg", "lon_deg"} <= set(document):
            raise Invalid(f"an origin is {{lat_deg, lon_deg}}, not {document!r}", hint="Give both in degrees.")
        return cls(float(document["lat_deg"]), float(document["lon_deg"]))


@dataclass(frozen=True)
class Area:
    """What is to be surveyed, in local metres: a boundary, no-fly zones, named points, and buildings with heights."""

    origin: Origin
    boundary: Polygon
    zones: tuple[Polygon, ...] = ()
    points: Mapping[str, XY] = field(default_factory=dict)
    buildings: tuple[tuple[Polygon, float], ...] = ()

    def plain(self) -> dict[str, Any]:
        """The same as plain data, which `read_area` reads back: it travels between tasks in this form."""
        reach_m = max(math.hypot(*corner) for corner in self.boundary.exterior.coords)
        return {
            "origin": self.origin.plain(),
            "boundary": corners(self.boundary),
            "zones": [corners(zone) for zone in self.zones],
            "points": {name: list(point) for name, point in self.points.items()},
            "buildings": [{"corners": corners(shape), "height_m": height_m} for shape, height_m in self.buildings],
            "surface_m2": round(float(self.boundary.area), 1),
            "projection_error_m": round(self.origin.error_m(reach_m), 4),
        }


def corners(polygon: Polygon) -> list[list[float]]:
    """Outer corners in metres, counter-clockwise, not closed; millimetres are kept, noise below is not."""
    from shapely.geometry.polygon import orient

    return [[round(x, 3), round(y, 3)] for x, y, *_ in orient(polygon).exterior.coords[:-1]]


def polygon(points: Sequence[Sequence[float]], what: str) -> Polygon:
    """A checked polygon from corners in metres; raises `Invalid` naming `what`."""
    from shapely.geometry import Polygon
    from shapely.validation import explain_validity

    if len(points) < 3:
        raise Invalid(f"{what} has {len(points)} corners", hint="A polygon needs at least three.")
    shape = Polygon([(float(point[0]), float(point[1])) for point in points])
    if not shape.is_valid:
        raise Invalid(f"{what} is not a simple polygon: {explain_validity(shape)}", hint="Remove the crossing edges.")
    if shape.area < 1.0:
        raise Invalid(f"{what} covers {shape.area:.2f} m2", hint="Check that longitude comes before latitude.")
    return shape


def polygons(shape: BaseGeometry) -> list[Polygon]:
    """The polygons a geometry is made of, points and lines left out."""
    if shape.geom_type == "Polygon":
        return [shape] if not shape.is_empty else []  # type: ignore[list-item]
    return [part for piece in getattr(shape, "geoms", ()) for part in polygons(piece)]


def grown(shape: BaseGeometry, clearance_m: float) -> BaseGeometry:
    """The shape and everything within `clearance_m` of it; corners stay sharp, so a box stays a box."""
    return shape.buffer(clearance_m, join_style="mitre", mitre_limit=1.5) if clearance_m > 0 else shape


def read_area(document: object, origin: Origin | None = None) -> Area:
    """The area of a GeoJSON FeatureCollection, Feature or Polygon, of a file holding one, or of `Area.plain()`.

    In a FeatureCollection each feature's property `kind` says what it is: one Polygon `area`, any number of
    Polygons `no-fly`, Polygons `building` with a `height_m` and Points `point` with a `name`. The foreign member
    `origin: [lon, lat]` sets the local origin; without it `origin` counts, and then the site's usual one. Raises
    `Invalid` saying what and where.
    """
    if isinstance(document, Area):
        return document
    if isinstance(document, str):
        document = _load(document)
    if not isinstance(document, Mapping):
        raise Invalid(
            f"an area is GeoJSON, not {type(document).__name__}", hint="Give a FeatureCollection or a Polygon."
        )
    if "boundary" in document:
        return _from_plain(document)
    if "origin" in document:
        lon, lat = _place(document["origin"], "origin")
        origin = Origin(lat_deg=lat, lon_deg=lon)
    return _from_geojson(document, origin or Origin())


def _load(path: str) -> object:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"cannot read the area file {path}: {error.strerror}", hint="Give a path that exists.") from error
    except ValueError as error:
        raise Invalid(f"the area file {path} is not JSON: {error}", hint="Save it as GeoJSON.") from error


def _from_plain(document: Mapping[str, Any]) -> Area:
    return Area(
        origin=Origin.read(document.get("origin", {})),
        boundary=polygon(document["boundary"], "the area"),
        zones=tuple(polygon(zone, f"no-fly zone {i}") for i, zone in enumerate(document.get("zones", ()))),
        points={str(name): (float(at[0]), float(at[1])) for name, at in document.get("points", {}).items()},
        buildings=tuple(
            (polygon(one["corners"], f"building {i}"), float(one["height_m"]))
            for i, one in enumerate(document.get("buildings", ()))
        ),
    )


def _from_geojson(document: Mapping[str, Any], origin: Origin) -> Area:
    boundary: Polygon | None = None
    zones: list[Polygon] = []
    points: dict[str, XY] = {}
    buildings: list[tuple[Polygon, float]] = []
    for where, kind, properties, geometry in _features(document):
        name = str(properties.get("name", ""))
        if kind == "point":
            if geometry.get("type") != "Point" or not name:
                raise Invalid(f"{where} is of kind point but is no named Point", hint="Give a Point and a `name`.")
            points[name] = origin.local(*_place(geometry.get("coordinates"), where))
            continue
        shape = _polygon(geometry, where, origin)
        if kind == "no-fly":
            zones.append(shape)
        elif kind == "building":
            buildings.append((shape, _height_m(properties, where)))
        elif boundary is None:
            boundary = shape
        else:
            raise Invalid(
                f"{where} is a second area", hint="Give one feature of kind area; split the mission for more."
            )
    if boundary is None:
        raise Invalid("the GeoJSON holds no area", hint='Give one Polygon feature with {"kind": "area"}.')
    reach_m = max(math.hypot(x, y) for x, y, *_ in boundary.exterior.coords)
    if reach_m > REACH_M:
        raise Invalid(
            f"the area reaches {reach_m:.0f} m from the origin, "
            f"where the local projection is off by {origin.error_m(reach_m):.1f} m",
            hint="Set `origin: [lon, lat]` in the GeoJSON to a place within the area.",
        )
    return Area(origin, boundary, tuple(zones), points, tuple(buildings))


def _height_m(properties: Mapping[str, Any], where: str) -> float:
    height_m = properties.get("height_m")
    if isinstance(height_m, bool) or not isinstance(height_m, int | float) or not 0.0 < height_m < math.inf:
        raise Invalid(f"{where} is a building of height_m {height_m!r}", hint="Give its height above ground in metres.")
    return float(height_m)


def _features(document: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
    """(where, kind, properties, geometry) of every feature."""
    kind = document.get("type")
    if kind == "Polygon":
        return [("the GeoJSON", "area", {}, document)]
    features = document.get("features") if kind == "FeatureCollection" else [document] if kind == "Feature" else None
    if not isinstance(features, Sequence):
        raise Invalid(f"GeoJSON of type {kind!r} is no area", hint="Give a FeatureCollection, a Feature or a Polygon.")
    rows = []
    for index, feature in enumerate(features):
        where = f"features[{index}]"
        geometry = feature.get("geometry") if isinstance(feature, Mapping) else None
        if not isinstance(geometry, Mapping):
            raise Invalid(f"{where} has no geometry", hint="Every feature needs one.")
        properties = feature.get("properties") or {}
        kind = properties.get("kind", "point" if geometry.get("type") == "Point" else "area")
        if kind not in ("area", "no-fly", "building", "point"):
            raise Invalid(f"{where} is of unknown kind {kind!r}", hint="Use area, no-fly, building or point.")
        rows.append((where, str(kind), properties, geometry))
    return rows


def _polygon(geometry: Mapping[str, Any], where: str, origin: Origin) -> Polygon:
    rings = geometry.get("coordinates")
    if geometry.get("type") != "Polygon" or not isinstance(rings, Sequence) or not rings:
        raise Invalid(f"{where} is a {geometry.get('type')!r}", hint="Areas and no-fly zones are Polygons.")
    if len(rings) > 1:
        raise Invalid(f"{where} has a hole", hint="Give the hole as a feature of kind no-fly.")
    places = [_place(place, f"{where} corner {i}") for i, place in enumerate(rings[0])]
    if places[0] != places[-1]:
        raise Invalid(f"{where} is not closed", hint="Repeat the first corner at the end, as GeoJSON wants.")
    return polygon([origin.local(lon, lat) for lon, lat in places[:-1]], where)


def _place(value: object, where: str) -> tuple[float, float]:
    if (
        not isinstance(value, Sequence)
        or isinstance(value, str)
        or len(value) < 2
        or not all(isinstance(part, int | float) and math.isfinite(part) for part in value[:2])
    ):
        raise Invalid(f"{where} is {value!r}", hint="A position is [longitude, latitude] in degrees.")
    lon, lat = float(value[0]), float(value[1])
    if not (-180.0 <= lon <= 180.0 and -90.0 <= lat <= 90.0):
        raise Invalid(f"{where} is [{lon}, {lat}], which is not on Earth", hint="Longitude comes first, then latitude.")
    return lon, lat

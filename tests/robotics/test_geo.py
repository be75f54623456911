"""Areas come in as GeoJSON and leave as metres; what is wrong is said where it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaios.core.errors import Invalid
from qaios.robotics import geo
from qaios.robotics.geo import Origin

ORIGIN = Origin()


def ring(*corners: tuple[float, float]) -> list[list[float]]:
    return [list(ORIGIN.place(*corner)) for corner in (*corners, corners[0])]


def feature(kind: str, *corners: tuple[float, float]) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": [ring(*corners)]}
    return {"type": "Feature", "properties": {"kind": kind}, "geometry": geometry}


def earth_centred(lon_deg: float, lat_deg: float) -> tuple[float, float, float]:
    lon, lat = math.radians(lon_deg), math.radians(lat_deg)
    normal = geo.WGS84_A_M / math.sqrt(1 - geo.WGS84_E2 * math.sin(lat) ** 2)
    return (
        normal * math.cos(lat) * math.cos(lon),
        normal * math.cos(lat) * math.sin(lon),
        normal * (1 - geo.WGS84_E2) * math.sin(lat),
    )


def exact_local(lon_deg: float, lat_deg: float) -> tuple[float, float]:
    """East and north by way of earth-centred coordinates, without any projection."""
    dx, dy, dz = (
        a - b
        for a, b in zip(earth_centred(lon_deg, lat_deg), earth_centred(ORIGIN.lon_deg, ORIGIN.lat_deg), strict=True)
    )
    lon, lat = math.radians(ORIGIN.lon_deg), math.radians(ORIGIN.lat_deg)
    east = -math.sin(lon) * dx + math.cos(lon) * dy
    north = -math.sin(lat) * math.cos(lon) * dx - math.sin(lat) * math.sin(lon) * dy + math.cos(lat) * dz
    return east, north


@given(st.floats(-geo.REACH_M, geo.REACH_M), st.floats(-geo.REACH_M, geo.REACH_M))
def test_a_position_goes_there_and_back(east_m: float, north_m: float) -> None:
    back = ORIGIN.local(*ORIGIN.place(east_m, north_m))
    assert back == pytest.approx((east_m, north_m), abs=1e-5)


@given(st.floats(-1000, 1000), st.floats(-1000, 1000))
def test_the_projection_errs_no_more_than_it_says(east_m: float, north_m: float) -> None:
    exact = exact_local(*ORIGIN.place(east_m, north_m))
    assert math.dist(exact, (east_m, north_m)) <= ORIGIN.error_m(math.hypot(east_m, north_m)) * 1.5 + 1e-6


def test_an_area_with_zones_and_points_is_read_and_travels_as_plain_data() -> None:
    point = {
        "type": "Feature",
        "properties": {"kind": "point", "name": "Grid-A1"},
        "geometry": {"type": "Point", "coordinates": list(ORIGIN.place(10, 20))},
    }
    document = {
        "type": "FeatureCollection",
        "features": [
            feature("area", (0, 0), (100, 0), (100, 80), (0, 80)),
            feature("no-fly", (10, 10), (20, 10), (20, 20), (10, 20)),
            point,
        ],
    }
    area = geo.read_area(document)
    assert area.boundary.area == pytest.approx(8000, rel=1e-6)
    assert area.points["Grid-A1"] == pytest.approx((10, 20))
    again = geo.read_area(json.loads(json.dumps(area.plain())))
    assert again.plain() == area.plain()


def test_an_area_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(feature("area", (0, 0), (50, 0), (50, 50), (0, 50))))
    assert geo.read_area(str(path)).boundary.area == pytest.approx(2500, rel=1e-6)


SQUARE = ((0, 0), (50, 0), (50, 50), (0, 50))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (7, "GeoJSON"),
        ({"type": "LineString", "coordinates": []}, "no area"),
        ({"type": "FeatureCollection", "features": []}, "holds no area"),
        ({"type": "FeatureCollection", "features": [{"type": "Feature"}]}, "features[0] has no geometry"),
        (feature("garden", *SQUARE), "unknown kind 'garden'"),
        (feature("area", (0, 0), (50, 50), (50, 0), (0, 50)), "not a simple polygon"),
        ({"type": "FeatureCollection", "features": [feature("area", *SQUARE)] * 2}, "features[1] is a second area"),
        ({"type": "Polygon", "coordinates": [ring(*SQUARE)[:-1]]}, "not closed"),
        ({"type": "Polygon", "coordinates": [[[200.0, 47.0]]]}, "not on Earth"),
        ({"type": "Polygon", "coordinates": [[["east", 47.0]]]}, "corner 0"),
        ({"type": "Polygon", "coordinates": [ring((90_000, 0), (90_050, 0), (90_050, 50))]}, "from the origin"),
        ("/no/such/file.geojson", "cannot read the area file"),
    ],
)
def test_a_bad_area_is_refused_with_its_place(document: object, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        geo.read_area(document)
    assert said in str(refused.value)
    assert refused.value.hint

"""Pictures and the report: made from plain data, the same from the same, and honest about what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qaios.core.errors import Invalid
from qaios.learning.pictures import map_picture, mission_picture, mission_picture_task
from qaios.learning.report import WHO_24H_PM25_UG_M3, compose, statistics

SQUARE = [[-60.0, -60.0], [60.0, -60.0], [60.0, 60.0], [-60.0, 60.0]]
PNG = b"\x89PNG\r\n\x1a\n"


def plume() -> dict[str, Any]:
    axis = np.arange(-60.0, 61.0, 10.0)
    east, north = np.meshgrid(axis, axis)
    pm25 = 8.0 + 20.0 * np.exp(-((east + 20) ** 2 + north**2) / 800.0)
    return {"east_m": axis.tolist(), "north_m": axis.tolist(), "pm25_ug_m3": pm25.tolist(), "height_m": 20.0}


def mission() -> dict[str, Any]:
    return {
        "area": SQUARE,
        "tracks": {
            "drone-1": [[-60.0, 0.0], [60.0, 0.0]],
            "drone-2": [[0.0, -60, 20.0, 20, 9, 1], [1, 0, 30, 20, 9, 1]],
        },
        "plume": plume(),
        "swaths": [{"id": "a", "start": [-60, 0], "end": [60, 0]}, {"id": "b", "line": [[-60, 20], [60, 20]]}],
        "flown": ["a"],
        "obstacles": [[[0, 0], [10, 0], [10, 10]]],
        "no_fly": [{"polygon": [[20, 20], [40, 20], [40, 40]]}],
        "lost": [{"vehicle": "drone-2", "east_m": 1.0, "north_m": 2.0, "after_s": 74.2}],
        "sources": [{"east_m": -20.0, "north_m": 0.0}],
        "wind_mps": [2.2, 1.4],
        "metrics": {"swaths_flown": 1, "min_battery_fraction": 0.61, "replan_s": 0.52, "qaoa_cost": None},
    }


def size_of(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def test_the_mission_picture_is_a_png_of_the_asked_width_and_repeats_itself() -> None:
    picture = mission_picture(**mission())
    assert picture.startswith(PNG) and size_of(picture) == (1600, 1120)
    assert mission_picture(**mission()) == picture


def test_everything_in_the_picture_but_area_and_tracks_may_be_missing() -> None:
    assert mission_picture(area=SQUARE, tracks={}).startswith(PNG)


def test_a_task_gets_the_picture_as_an_artifact() -> None:
    answer = mission_picture_task(**mission(), name="flown.png")
    (artifact,) = answer["artifacts"]
    assert (artifact["name"], artifact["media_type"]) == ("flown.png", "image/png")
    assert answer["value"] == {"picture": "flown.png", "size_bytes": len(artifact["content"])}


def test_the_map_picture_shows_where_samples_were_taken() -> None:
    value = {"map": plume(), "errors": {"liquid": 0.4, "linear": 0.5}, "errors_against": "truth"}
    bare, full = (map_picture(value, tracks, title="t") for tracks in ([], [[[0.0, 0.0, 20.0, 9.0]]]))
    assert full.startswith(PNG) and full != bare


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"area": [[0, 0], [1, 1]]}, "area"),
        ({"obstacles": ["wall"]}, r"obstacles\[0\]"),
        ({"plume": {"map": {}}}, "no map"),
        ({"plume": {"east_m": [0, 1], "north_m": [0, 1], "pm25_ug_m3": [[1, 2]]}}, "shape"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        mission_picture(**(mission() | change))


def test_the_report_says_what_was_flown_what_is_in_the_air_and_how_sure_it_is() -> None:
    value = {"map": plume(), "plume_error": 0.4, "baseline_error": 0.5, "baseline": "linear", "winner": "liquid"}
    flight = {"swaths_planned": 8, "swaths_flown": 7, "missing": ["s3"]}
    report = compose(plume=value, mission="air-survey", area=SQUARE, survey=flight, seed=7)
    assert report["swaths"] == {"planned": 8, "flown": 7, "missing": ["s3"]}
    assert report["simulated"] is True and report["errors"]["plume_error"] == 0.4
    assert report["air"]["threshold_ug_m3"] == WHO_24H_PM25_UG_M3 and "WHO" in report["air"]["source"]
    assert report["flight"]["min_battery_fraction"] is None


def test_the_area_above_the_threshold_counts_cells() -> None:
    axis = [0.0, 2.0, 4.0]
    pm25 = [[1.0, 1.0, 20.0], [1.0, 16.0, 15.0], [1.0, 1.0, 1.0]]
    found = statistics({"east_m": axis, "north_m": axis, "pm25_ug_m3": pm25}, 15.0)
    assert found["exceedance_m2"] == 8.0 and found["mapped_m2"] == 36.0
    assert found["pm25_max_at_m"] == [4.0, 0.0]


def test_a_report_without_a_map_is_refused() -> None:
    with pytest.raises(Invalid, match=r"ai\.map"):
        compose(plume=plume())

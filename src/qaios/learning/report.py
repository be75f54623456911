"""The report of an air survey, as plain data for the hub: what was flown, what is in the air, how sure the map is.

Pure, and callable by `compute.call` as `qaios.learning.report:compose` with keyword arguments; everything but the
map may be missing, and what is missing is null in the report, never made up.

The threshold is the 24-hour guideline for PM2.5 of the WHO global air quality guidelines (World Health Organization
2021, ISBN 978-92-4-003422-8, recommended level 15 ug/m3 as the 99th percentile of a year's days). A survey of some
minutes is not a 24-hour mean: the report says where such a level was exceeded *while the drones flew*, no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qaios.core.errors import Invalid

FORMAT = "qaios.air-report/1"
WHO_24H_PM25_UG_M3 = 15.0
WHO_SOURCE = "WHO global air quality guidelines 2021, PM2.5 24-hour level, ISBN 978-92-4-003422-8"


def compose(
    *,
    plume: Mapping[str, Any],
    mission: str = "",
    area: Any = None,
    survey: Mapping[str, Any] | None = None,
    stations: Sequence[Any] = (),
    sectors: Mapping[str, Any] | None = None,
    started_s: float | None = None,
    ended_s: float | None = None,
    metrics: Mapping[str, Any] | None = None,
    threshold_ug_m3: float = WHO_24H_PM25_UG_M3,
    seed: int | None = None,
    simulated: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The report. `plume` is the value of `ai.map`, `survey` that of `survey:collect`, `sectors` of `quantum.optimize`.

    Raises `Invalid` when `plume` is no value of `ai.map`.
    """
    if not isinstance(plume, Mapping) or not isinstance(plume.get("map"), Mapping):
        raise Invalid("the report needs the value of ai.map", hint="Give plume: ${map}, not ${map.map}.")
    flight = {**survey.get("metrics", {}), **survey} if isinstance(survey, Mapping) else {}
    own = threshold_ug_m3 == WHO_24H_PM25_UG_M3
    return {
        "format": FORMAT,
        "mission": mission,
        "area": area,
        "started_s": started_s,
        "ended_s": ended_s,
        "swaths": {
            "planned": flight.get("swaths_planned"),
            "flown": flight.get("swaths_flown"),
            "missing": list(flight.get("missing", ())),
        },
        "flight": {
            "distance_m": flight.get("distance_m"),
            "min_battery_fraction": flight.get("min_battery_fraction"),
            "samples": plume.get("samples"),
        },
        "air": statistics(plume["map"], threshold_ug_m3) | {"source": WHO_SOURCE if own else "given by the mission"},
        "map": dict(plume["map"]),
        "method": {
            "cell": plume.get("cell"),
            "parameters": plume.get("parameters"),
            "epochs": plume.get("epochs"),
            "trust": plume.get("trust"),
            "winner": plume.get("winner"),
        },
        "errors": {
            "plume_error": plume.get("plume_error"),
            "baseline_error": plume.get("baseline_error"),
            "baseline": plume.get("baseline"),
            "all": dict(plume.get("errors", {})),
            "against": plume.get("errors_against"),
            "heldout": plume.get("heldout"),
            "meaning": "root mean square error over the standard deviation of what is compared with",
        },
        "stations": list(stations),
        "sectors": None if sectors is None else dict(sectors),
        "metrics": dict(metrics or {}),
        "seed": seed,
        "simulated": simulated,
        "provenance": dict(provenance or {}),
    }


def statistics(plume: Mapping[str, Any], threshold_ug_m3: float) -> dict[str, Any]:
    """What the map says of the air: mean, median, maximum and where, and the area above the threshold in m2.

    Each point of the map stands for one cell of the grid; the area counts cells. Raises `Invalid` for no map.
    """
    try:
        east, north, pm25 = (np.asarray(plume[key], dtype=np.float64) for key in ("east_m", "north_m", "pm25_ug_m3"))
    except (KeyError, ValueError, TypeError) as error:
        raise Invalid(f"the map cannot be read: {error}", hint="It has east_m, north_m and pm25_ug_m3.") from error
    if pm25.shape != (north.size, east.size) or min(pm25.shape) < 2:
        raise Invalid(f"the map has shape {pm25.shape}, its axes say {(north.size, east.size)}, at least 2 by 2")
    row, column = np.unravel_index(int(np.argmax(pm25)), pm25.shape)
    cell_m2 = float(np.diff(east).mean() * np.diff(north).mean())
    above = int((pm25 > threshold_ug_m3).sum())
    return {
        "pm25_mean_ug_m3": round(float(pm25.mean()), 3),
        "pm25_median_ug_m3": round(float(np.median(pm25)), 3),
        "pm25_max_ug_m3": round(float(pm25.max()), 3),
        "pm25_max_at_m": [float(east[column]), float(north[row])],
        "threshold_ug_m3": threshold_ug_m3,
        "exceedance_m2": round(above * cell_m2, 1),
        "exceedance_fraction": round(above / pm25.size, 5),
        "mapped_m2": round(pm25.size * cell_m2, 1),
    }

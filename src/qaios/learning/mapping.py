"""What the driver `liquid` runs in its worker: the map as plain data, and its three files.

`map_task` is a generator: it yields `{"fraction", "note"}` and returns a result in plain data, `{"value", "artifacts",
"provenance"}`, its artifacts `{"name", "media_type", "content"}` for the driver to store.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from qaios.core.errors import Invalid
from qaios.learning.pictures import map_picture
from qaios.learning.plume import map_plume
from qaios.learning.samples import Samples, read


def map_task(arguments: dict[str, Any]) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """`ai.map`: see `qaios.learning.plume`. `title` is the headline of the picture."""
    title = arguments.get("title", "PM2.5 over the survey")
    if not isinstance(title, str):
        raise Invalid(f"title is {title!r}, a text is needed")
    value = yield from map_plume(arguments)
    model = value.pop("files")["model"]
    yield {"fraction": 0.95, "note": "drawing"}
    samples = read(arguments["samples"])
    text = json.dumps(value["map"], separators=(",", ":"), allow_nan=False).encode()
    artifacts = [
        {"name": "plume-model.npz", "media_type": "application/x-npz", "content": model},
        {"name": "plume-map.json", "media_type": "application/json", "content": text},
    ]
    if arguments.get("picture", True):
        content = map_picture(value, _tracks(samples), title=title)
        artifacts.append({"name": "plume-map.png", "media_type": "image/png", "content": content})
    yield {"fraction": 1.0, "note": f"{value['winner']} has the smallest error"}
    return {
        "value": value,
        "artifacts": artifacts,
        "provenance": {
            "method": f"steady field displaced by a {value['cell']} network trained on the samples",
            "sources": ["arXiv 2106.13898 (CfC)", "Rasmussen & Williams 2006 (Gaussian processes)"],
            "seed": value["seed"],
            "epochs": value["epochs"],
            "data_sha256": samples.sha256,
        },
    }


def _tracks(samples: Samples) -> list[list[list[float]]]:
    """Per track, [east, north, up, pm25] of its samples."""
    rows = [[*place, pm25] for place, pm25 in zip(samples.at_m.tolist(), samples.pm25.tolist(), strict=True)]
    tracks: list[list[list[float]]] = [[] for _ in range(int(samples.track.max()) + 1)]
    for row, number in zip(rows, samples.track.tolist(), strict=True):
        tracks[number].append(row)
    return tracks

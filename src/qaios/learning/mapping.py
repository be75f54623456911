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
from qaios.learning.samples import read


def map_task(arguments: dict[str, Any]) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """`ai.map`: see `qaios.learning.plume`. `title` is the headline of the picture."""
    title = arguments.get("title", "PM2.5 over the survey")
    if not isinstance(title, str):
        raise Invalid(f"title is {title!r}, a text is needed")
    value = yield from map_plume(arguments)
    model = value.pop("files")["model"]
    yield {"fraction": 0.95, "note": "drawing"}
    samples = read(arguments["samples"])
    rows = [[*place, pm25] for place, pm25 in zip(samples.at_m.tolist(), samples.pm25.tolist(), strict=True)]
    picture = map_picture(
        value,
        [
            [row for row, own in zip(rows, samples.track == number, strict=True) if own]
            for number in range(int(samples.track.max()) + 1)
        ],
        title=title,
    )
    text = json.dumps(value["map"], separators=(",", ":"), allow_nan=False).encode()
    yield {"fraction": 1.0, "note": f"{value['winner']} has the smallest error"}
    return {
        "value": value,
        "artifacts": [
            {"name": "plume-model.npz", "media_type": "application/x-npz", "content": model},
            {"name": "plume-map.json", "media_type": "application/json", "content": text},
            {"name": "plume-map.png", "media_type": "image/png", "content": picture},
        ],
        "provenance": {
            "method": f"steady field displaced by a {value['cell']} network trained on the samples",
            "sources": ["arXiv 2106.13898 (CfC)", "Rasmussen & Williams 2006 (Gaussian processes)"],
            "seed": value["seed"],
            "epochs": value["epochs"],
            "data_sha256": samples.sha256,
        },
    }

"""Pictures for people: the flown mission on one metre grid, and the bare map of the plume.

Pure: plain data in, PNG bytes out, the same data giving the same bytes. `mission_picture_task` is what a mission calls
through `compute.call`; `map_picture` belongs to `ai.map`. matplotlib is imported inside, with no window behind it.

One visual language: pollution in viridis (readable for colour-blind eyes and in print), vehicles in the palette of
Okabe & Ito, what must not be entered hatched in red, what stands there in grey, what was planned dashed, what was flown
solid, and the place where a drone was lost marked and named.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qaios.core.errors import Invalid

VEHICLES = ("#0072B2", "#D55E00", "#CC79A7", "#56B4E9", "#E69F00", "#009E73", "#000000")  # Okabe & Ito 2008
INK, FAINT, WALL, DANGER = "#22303c", "#8795a1", "#9aa5b1", "#b3261e"
PAPER = "#ffffff"
Ring = Sequence[Sequence[float]]


def mission_picture_task(**arguments: Any) -> dict[str, Any]:
    """`compute.call` of `qaios.learning.pictures:mission_picture_task`, keyword arguments as `mission_picture`.

    `name` (default `mission.png`) names the artifact.
    """
    name = str(arguments.pop("name", "mission.png"))
    content = mission_picture(**arguments)
    return {
        "value": {"picture": name, "size_bytes": len(content)},
        "artifacts": [{"name": name, "media_type": "image/png", "content": content}],
    }


def mission_picture(
    *,
    area: Any,
    tracks: Any,
    plume: Mapping[str, Any] | None = None,
    swaths: Sequence[Mapping[str, Any]] = (),
    flown: Sequence[str] = (),
    obstacles: Sequence[Any] = (),
    no_fly: Sequence[Any] = (),
    lost: Mapping[str, Any] | None = None,
    sources: Sequence[Mapping[str, Any]] = (),
    wind_mps: Sequence[float] | None = None,
    title: str = "Air survey",
    subtitle: str = "",
    metrics: Mapping[str, Any] | None = None,
    simulated: bool = True,
    width_px: int = 1600,
) -> bytes:
    """The flown mission as PNG.

    All places are metres east and north. `area`, `obstacles`, `no_fly`: rings [[east, north], …], or mappings with
    one of `ring`, `polygon`, `corners`, `area_m`. `tracks`: vehicle -> [[east, north, …], …] in order of time (rows of six
    numbers, as samples are, are taken as t, east, north). `plume`: the `map` of `ai.map`. `swaths`: {id, from: [e, n],
    to: [e, n]} or {id, line: [[e, n], …]}; `flown`: ids. `lost`: {vehicle, east_m, north_m, at_s}. Raises `Invalid`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(width_px / 160.0, width_px / 160.0 * 0.76), dpi=160)
        try:
            border = _ring(area, "area")
            if plume is not None:
                _draw_plume(figure, axes, plume)
            _draw_ground(axes, border, obstacles, no_fly)
            _draw_swaths(axes, swaths, set(map(str, flown)))
            _draw_tracks(axes, tracks)
            _draw_marks(axes, sources, lost)
            _finish(figure, axes, border, title, subtitle, metrics or {}, simulated)
            if wind_mps is not None:
                _draw_wind(axes, wind_mps)
            return _png(figure)
        finally:
            pyplot.close(figure)


def map_picture(value: Mapping[str, Any], tracks: Sequence[Sequence[Sequence[float]]], *, title: str) -> bytes:
    """The map of `ai.map` with where its samples were taken: tracks of [east, north, up, pm25], on the map's own colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(8.4, 6.6), dpi=140)
        try:
            colours = _draw_plume(figure, axes, value["map"])
            for track in tracks:
                row = np.asarray(track, dtype=np.float64)
                axes.plot(row[:, 0], row[:, 1], color=PAPER, linewidth=0.6, alpha=0.7, zorder=3)
                axes.scatter(
                    row[:, 0], row[:, 1], c=row[:, 3], norm=colours.norm, cmap=colours.cmap,
                    s=11, linewidths=0.4, edgecolors=PAPER, zorder=4,
                )  # fmt: skip
            errors = " · ".join(f"{name.replace('_', ' ')} {error:.3f}" for name, error in value["errors"].items())
            _head(axes, title, f"error against {value['errors_against']} (in spreads): {errors}")
            _metre_axes(axes)
            return _png(figure)
        finally:
            pyplot.close(figure)


_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "hatch.linewidth": 0.7,
    "svg.hashsalt": "qaios",
}


def _draw_plume(figure: Any, axes: Any, plume: Mapping[str, Any]) -> Any:
    try:
        east, north, pm25 = (np.asarray(plume[key], dtype=np.float64) for key in ("east_m", "north_m", "pm25_ug_m3"))
    except (KeyError, ValueError, TypeError) as error:
        raise Invalid(f"the plume is no map: {error}", hint="Give plume: ${map.map}, the `map` of `ai.map`.") from error
    if pm25.shape != (north.size, east.size):
        raise Invalid(f"the plume has shape {pm25.shape}, its axes say {(north.size, east.size)}")
    half_e, half_n = np.diff(east).mean() / 2.0, np.diff(north).mean() / 2.0
    extent = (east[0] - half_e, east[-1] + half_e, north[0] - half_n, north[-1] + half_n)
    top = max(float(np.quantile(pm25, 0.995)), float(pm25.min()) + 1.0)
    image = axes.imshow(
        pm25, origin="lower", extent=extent, cmap="viridis", vmin=float(pm25.min()), vmax=top,
        interpolation="bicubic", alpha=0.9, zorder=0,
    )  # fmt: skip
    levels = np.linspace(float(pm25.min()), top, 7)[1:-1]
    axes.contour(east, north, pm25, levels=levels, colors=PAPER, linewidths=0.6, alpha=0.55, zorder=1)
    bar = figure.colorbar(image, ax=axes, fraction=0.034, pad=0.02, extend="max")
    height = plume.get("height_m")
    bar.set_label("PM2.5, µg/m³" + (f" at {float(height):.0f} m above ground" if height is not None else ""))
    bar.outline.set_visible(False)
    return image


def _draw_ground(axes: Any, border: Any, obstacles: Sequence[Any], no_fly: Sequence[Any]) -> None:
    from matplotlib.patches import Polygon

    axes.add_patch(Polygon(border, fill=False, edgecolor=INK, linewidth=1.6, zorder=3, label="survey area"))
    for number, item in enumerate(obstacles):
        ring = _ring(item, f"obstacles[{number}]")
        axes.add_patch(
            Polygon(
                ring, facecolor=WALL, edgecolor="#4a5561", linewidth=0.9, alpha=0.92, zorder=4,
                label="" if number else "obstacle",
            )
        )  # fmt: skip
    for number, item in enumerate(no_fly):
        ring = _ring(item, f"no_fly[{number}]")
        axes.add_patch(
            Polygon(
                ring, facecolor="#f6dcda", edgecolor=DANGER, hatch="////", linewidth=1.4, alpha=0.78, zorder=4,
                label="" if number else "no-fly zone",
            )
        )  # fmt: skip


def _draw_swaths(axes: Any, swaths: Sequence[Mapping[str, Any]], flown: set[str]) -> None:
    said: set[bool] = set()
    for swath in swaths:
        line = np.asarray(swath.get("line") or [swath.get("from"), swath.get("to")], dtype=np.float64)
        done = str(swath.get("id")) in flown
        label = "" if done in said else ("swath, flown" if done else "swath, not flown")
        said.add(done)
        axes.plot(
            line[:, 0], line[:, 1], color=PAPER if done else DANGER, linestyle=(0, (5, 3)), linewidth=1.5,
            alpha=0.9, zorder=5, label=label,
        )  # fmt: skip


def _draw_tracks(axes: Any, tracks: Any) -> None:
    from matplotlib import patheffects

    named = tracks.items() if isinstance(tracks, Mapping) else ((f"track {i + 1}", t) for i, t in enumerate(tracks))
    halo = [patheffects.Stroke(linewidth=3.6, foreground=PAPER, alpha=0.85), patheffects.Normal()]
    for number, (name, rows) in enumerate(named):
        if not len(rows):
            continue
        path = np.asarray([row[1:3] if len(row) >= 6 else row[:2] for row in rows], dtype=np.float64)
        colour = VEHICLES[number % len(VEHICLES)]
        axes.plot(path[:, 0], path[:, 1], color=colour, linewidth=1.9, path_effects=halo, zorder=6, label=name)
        axes.plot(*path[0], marker="o", markersize=6.5, color=colour, markeredgecolor=PAPER, zorder=8)


def _draw_marks(axes: Any, sources: Sequence[Mapping[str, Any]], lost: Mapping[str, Any] | None) -> None:
    for number, source in enumerate(sources):
        axes.plot(
            float(source["east_m"]), float(source["north_m"]), marker="*", markersize=15, color="#F0E442",
            markeredgecolor=INK, markeredgewidth=0.9, linestyle="", zorder=9, label="" if number else "source (truth)",
        )  # fmt: skip
    if lost is not None:
        east, north = float(lost["east_m"]), float(lost["north_m"])
        axes.plot(
            east, north, marker="X", markersize=13, color=DANGER, markeredgecolor=PAPER, markeredgewidth=1.5,
            linestyle="", zorder=10, label="drone lost",
        )  # fmt: skip
        when = f" at {float(lost['at_s']):.0f} s" if lost.get("at_s") is not None else ""
        axes.annotate(
            f"{lost.get('vehicle', 'drone')} lost{when}", (east, north), xytext=(14, 12), textcoords="offset points",
            color=DANGER, fontsize=9.0, fontweight="bold", zorder=11, annotation_clip=False,
            bbox={"boxstyle": "round,pad=0.3", "facecolor": PAPER, "edgecolor": DANGER, "linewidth": 0.8, "alpha": 0.94},
        )  # fmt: skip


def _draw_wind(axes: Any, wind_mps: Sequence[float]) -> None:
    east, north = float(wind_mps[0]), float(wind_mps[1])
    speed = float(np.hypot(east, north))
    if speed <= 0.0:
        return
    tail = np.array([0.93, 0.93]) - 0.03 * np.array([east, north]) / speed
    axes.annotate(
        "", tail + 0.07 * np.array([east, north]) / speed, tail, xycoords="axes fraction", zorder=12,
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 2.0, "mutation_scale": 15},
    )  # fmt: skip
    axes.text(
        0.925, 0.855, f"wind {speed:.1f} m/s", transform=axes.transAxes, ha="center", fontsize=8.0, zorder=12,
        bbox={"boxstyle": "round,pad=0.25", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.85},
    )  # fmt: skip


def _finish(
    figure: Any,
    axes: Any,
    border: Any,
    title: str,
    subtitle: str,
    metrics: Mapping[str, Any],
    simulated: bool,
) -> None:
    low, high = border.min(axis=0), border.max(axis=0)
    for line in axes.get_lines():  # home pads and detours lie outside the area
        data = np.column_stack([line.get_xdata(), line.get_ydata()])
        low, high = np.minimum(low, data.min(axis=0)), np.maximum(high, data.max(axis=0))
    room = 0.035 * float((high - low).max())
    axes.set_xlim(low[0] - room, high[0] + room)
    axes.set_ylim(low[1] - room, high[1] + room)
    _metre_axes(axes)
    _head(axes, title, subtitle)
    axes.legend(
        loc="upper left", bbox_to_anchor=(0.0, -0.085), ncols=5, frameon=False, fontsize=8.5, handlelength=1.8,
        columnspacing=1.6, borderaxespad=0.0,
    )  # fmt: skip
    facts = [f"{_spoken(name)} {_figure(value)}" for name, value in metrics.items() if value is not None]
    foot = "   ·   ".join(facts)
    if simulated:
        foot += ("\n" if foot else "") + "Simulated world: MuJoCo vehicles, Gaussian plume, Dryden gusts."
    figure.text(0.012, 0.012, foot, fontsize=7.8, color="#52606d", ha="left", va="bottom", linespacing=1.6)


def _metre_axes(axes: Any) -> None:
    from matplotlib.ticker import MultipleLocator

    axes.set_aspect("equal")
    span = max(abs(np.diff(axes.get_xlim())[0]), abs(np.diff(axes.get_ylim())[0]))
    step = next((step for step in (5, 10, 20, 50, 100, 200, 500) if span / step <= 10), 1000)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(step))
    axes.grid(visible=True, color=INK, alpha=0.13, linewidth=0.6, zorder=2)
    axes.set_axisbelow(False)
    axes.set_xlabel("east, m")
    axes.set_ylabel("north, m")
    axes.tick_params(length=3)


def _head(axes: Any, title: str, subtitle: str) -> None:
    axes.text(0.0, 1.055, title, transform=axes.transAxes, fontsize=15.0, fontweight="bold", va="bottom")
    axes.text(0.0, 1.02, subtitle, transform=axes.transAxes, fontsize=9.0, color="#52606d", va="bottom")


def _spoken(name: str) -> str:
    """`min_separation_m` -> `min separation (m)`."""
    words = name.split("_")
    units = {"s": "s", "m": "m", "fraction": "fraction"}
    return f"{' '.join(words[:-1])} ({units[words[-1]]})" if words[-1] in units else " ".join(words)


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _ring(item: Any, where: str) -> Any:
    """Corners (count, 2) in metres. Raises `Invalid`."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("ring", "polygon", "corners", "area_m") if key in item), None)
    try:
        ring = np.asarray(item, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise Invalid(f"{where} is no ring of corners: {error}", hint="Give [[east_m, north_m], …].") from error
    if ring.ndim != 2 or len(ring) < 3 or ring.shape[1] < 2 or not np.isfinite(ring).all():
        raise Invalid(f"{where} is no ring of corners", hint="Give at least three [east_m, north_m].")
    return ring[:, :2]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.16, metadata={"Software": "QAI OS"})
    return buffer.getvalue()

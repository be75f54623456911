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
INK, QUIET, FAINT, WALL, DANGER = "#22303c", "#52606d", "#8795a1", "#9aa5b1", "#b3261e"
PAPER = "#ffffff"


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
    lost: Sequence[Mapping[str, Any]] = (),
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
    one of `ring`, `polygon`, `corners`, `area_m`. `tracks`: vehicle -> [[east, north, …], …] in order of time (rows of
    six numbers, as samples are, are taken as t, east, north). `plume`: the `map` of `ai.map`. `swaths`: {id, start:
    [e, n], end: [e, n]} or {id, line: [[e, n], …]}; `flown`: ids. `lost`: [{vehicle, east_m, north_m, after_s}].
    `sources`: [{east_m, north_m}], the truth of a simulated world. `metrics`: name with unit last -> number, written
    at the right. Raises `Invalid`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        figure = pyplot.figure(figsize=(width_px / 160.0, width_px / 160.0 * 0.7), dpi=160)
        axes, scale = figure.add_axes(_MAP_BOX), figure.add_axes(_SCALE_BOX)
        try:
            border = _ring(area, "area")
            if plume is None:
                scale.set_visible(False)
            else:
                _draw_plume(figure, axes, plume, scale=scale, border=border)
            _draw_ground(axes, border, obstacles, no_fly)
            _draw_swaths(axes, swaths, set(map(str, flown)))
            _draw_tracks(axes, tracks)
            _frame(axes, border)
            _draw_marks(axes, sources, lost)
            _metre_axes(axes)
            if wind_mps is not None:
                _draw_wind(figure, wind_mps)
            _draw_panel(figure, axes, title, subtitle, metrics or {}, simulated)
            return _png(figure)
        finally:
            pyplot.close(figure)


def map_picture(value: Mapping[str, Any], tracks: Sequence[Sequence[Sequence[float]]], *, title: str) -> bytes:
    """The map of `ai.map` and where its samples were taken: tracks of [east, north, up, pm25], in the map's colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(8.4, 7.0), dpi=140, layout="constrained")
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


def _draw_plume(figure: Any, axes: Any, plume: Mapping[str, Any], *, scale: Any = None, border: Any = None) -> Any:
    """The map as colours and contours, its scale in the axes `scale`, cut off at the border where there is one."""
    from matplotlib.patches import Polygon

    try:
        east, north, pm25 = (np.asarray(plume[key], dtype=np.float64) for key in ("east_m", "north_m", "pm25_ug_m3"))
    except (KeyError, ValueError, TypeError) as error:
        raise Invalid(f"the plume is no map: {error}", hint="Give plume: ${map.map}, the `map` of `ai.map`.") from error
    if pm25.shape != (north.size, east.size) or min(pm25.shape) < 2:
        raise Invalid(f"the plume has shape {pm25.shape}, its axes say {(north.size, east.size)}, at least 2 by 2")
    half_e, half_n = np.diff(east).mean() / 2.0, np.diff(north).mean() / 2.0
    extent = (east[0] - half_e, east[-1] + half_e, north[0] - half_n, north[-1] + half_n)
    low = float(pm25.min())
    top = max(float(np.quantile(pm25, 0.995)), low + 1.0)
    look = {"origin": "lower", "extent": extent, "cmap": "viridis", "vmin": low, "vmax": top}
    image = axes.imshow(pm25, interpolation="bicubic", zorder=0, **look)
    levels = np.linspace(low, top, 7)[1:-1]
    lines = axes.contour(east, north, pm25, levels=levels, colors=PAPER, linewidths=0.6, alpha=0.5, zorder=1)
    if border is not None:
        inside = Polygon(border, transform=axes.transData)
        image.set_clip_path(inside)
        lines.set_clip_path(inside)
    more = {"cax": scale} if scale is not None else {"ax": axes, "fraction": 0.034, "pad": 0.02}
    bar = figure.colorbar(image, extend="max" if float(pm25.max()) > top else "neither", **more)
    height = plume.get("height_m")
    bar.set_label("PM2.5, µg/m³" + (f", {float(height):.0f} m above ground" if height is not None else ""))
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
    """Flown: a broad pale band under the track. Not flown: dashed red."""
    said: set[bool] = set()
    for swath in swaths:
        line = np.asarray(swath.get("line") or [swath.get("start"), swath.get("end")], dtype=np.float64)
        done = str(swath.get("id")) in flown
        label = "" if done in said else ("swath, flown" if done else "swath, not flown")
        said.add(done)
        if done:
            axes.plot(line[:, 0], line[:, 1], color="#cfd8e0", linewidth=7.0, alpha=0.38, zorder=2.5, label=label)
        else:
            axes.plot(
                line[:, 0], line[:, 1], color=DANGER, linestyle=(0, (4, 2.5)), linewidth=1.8, zorder=5, label=label
            )


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


def _draw_marks(axes: Any, sources: Sequence[Mapping[str, Any]], lost: Sequence[Mapping[str, Any]]) -> None:
    """Sources, and where drones were lost."""
    for number, source in enumerate(sources):
        axes.plot(
            float(source["east_m"]), float(source["north_m"]), marker="*", markersize=15, color="#F0E442",
            markeredgecolor=INK, markeredgewidth=0.9, linestyle="", zorder=9, label="" if number else "source (truth)",
        )  # fmt: skip
    for number, vehicle in enumerate(lost):
        _draw_lost(axes, vehicle, first=number == 0)


def _draw_lost(axes: Any, lost: Mapping[str, Any], *, first: bool) -> None:
    """A cross, and the vehicle's name written towards the middle of the picture."""
    east, north = float(lost["east_m"]), float(lost["north_m"])
    axes.plot(
        east, north, marker="X", markersize=13, color=DANGER, markeredgecolor=PAPER, markeredgewidth=1.5,
        linestyle="", zorder=10, label="drone lost" if first else "",
    )  # fmt: skip
    when = f" after {float(lost['after_s']):.0f} s" if lost.get("after_s") is not None else ""
    left = east < float(np.mean(axes.get_xlim()))
    box = {"boxstyle": "round,pad=0.3", "facecolor": PAPER, "edgecolor": DANGER, "linewidth": 0.8, "alpha": 0.94}
    axes.annotate(
        f"{lost.get('vehicle', 'drone')} lost{when}", (east, north), xytext=(14 if left else -14, 12),
        textcoords="offset points", ha="left" if left else "right", color=DANGER, fontsize=8.5, fontweight="bold",
        zorder=11, bbox=box,
    )  # fmt: skip


def _draw_wind(figure: Any, wind_mps: Sequence[float]) -> None:
    """A small compass beside the map; the arrow points where the wind blows to."""
    wind = np.array([float(wind_mps[0]), float(wind_mps[1])])
    speed = float(np.hypot(*wind))
    if speed <= 0.0:
        return
    rose = figure.add_axes((_PANEL_LEFT - 0.006, 0.435, 0.055, 0.055 / 0.7))
    rose.set(xlim=(-1.0, 1.0), ylim=(-1.0, 1.0))
    rose.set_axis_off()
    rose.add_patch(_circle(0.95))
    tip = 0.66 * wind / speed
    rose.annotate("", tip, -tip, arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1.8, "mutation_scale": 12})
    figure.text(_PANEL_LEFT + 0.055, 0.482, f"wind {speed:.1f} m/s", fontsize=9.0, va="center")
    figure.text(_PANEL_LEFT + 0.055, 0.455, "north is up", fontsize=7.8, color=QUIET, va="center")


def _circle(radius: float) -> Any:
    from matplotlib.patches import Circle

    return Circle((0.0, 0.0), radius, facecolor=PAPER, edgecolor=FAINT, linewidth=0.9)


def _frame(axes: Any, border: Any) -> None:
    """Room for everything: pads and detours may lie outside the area."""
    low, high = border.min(axis=0), border.max(axis=0)
    for line in axes.get_lines():
        data = np.column_stack([line.get_xdata(), line.get_ydata()])
        low, high = np.minimum(low, data.min(axis=0)), np.maximum(high, data.max(axis=0))
    room = 0.03 * float((high - low).max())
    axes.set_xlim(low[0] - room, high[0] + room)
    axes.set_ylim(low[1] - room, high[1] + room)


_MAP_BOX = (0.06, 0.08, 0.60, 0.80)
_SCALE_BOX = (0.672, 0.08, 0.014, 0.80)
_PANEL_LEFT, _PANEL_RIGHT = 0.775, 0.985


def _draw_panel(figure: Any, axes: Any, title: str, subtitle: str, metrics: Mapping[str, Any], simulated: bool) -> None:
    """Headline above, legend and figures at the right, what is simulated below."""
    figure.text(0.02, 0.965, title, fontsize=17.0, fontweight="bold", va="top")
    figure.text(0.02, 0.922, subtitle, fontsize=9.5, color=QUIET, va="top")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles, labels, loc="upper left", bbox_to_anchor=(_PANEL_LEFT, 0.88), bbox_transform=figure.transFigure,
        frameon=False, fontsize=9.0, handlelength=2.0, labelspacing=0.62, borderaxespad=0.0, borderpad=0.0,
    )  # fmt: skip
    facts = [(name, value) for name, value in metrics.items() if value is not None]
    for number, (name, value) in enumerate(reversed(facts)):
        height = 0.115 + 0.034 * number
        figure.text(_PANEL_LEFT, height, _spoken(name), fontsize=8.6, color=QUIET)
        figure.text(_PANEL_RIGHT, height, _figure(name, value), fontsize=8.8, fontweight="bold", ha="right")
    if simulated:
        figure.text(
            _PANEL_LEFT,
            0.07,
            "Simulated world: MuJoCo vehicles,\nGaussian plume, Dryden gusts.",
            fontsize=7.4,
            color=QUIET,
            va="top",
            linespacing=1.5,
        )


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
    axes.text(0.0, 1.02, subtitle, transform=axes.transAxes, fontsize=9.0, color=QUIET, va="bottom")


_UNITS = {"s": " s", "m": " m", "fraction": ""}


def _spoken(name: str) -> str:
    """`min_separation_m` -> `min separation`."""
    words = name.split("_")
    return " ".join(words[:-1] if words[-1] in _UNITS else words)


def _figure(name: str, value: Any) -> str:
    """With the unit its name ends with; fractions as percent."""
    if isinstance(value, float) and name.endswith("_fraction"):
        return f"{value:.0%}"
    number = (f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}") if isinstance(value, float) else str(value)
    return number + _UNITS.get(name.rsplit("_", 1)[-1], "")


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
    figure.savefig(buffer, format="png", bbox_inches=None, metadata={"Software": "QAI OS"})
    return buffer.getvalue()

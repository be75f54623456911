"""Missions as inline SVG, for notebooks: the graph before it ran, the timeline afterwards.

Plain text out, no dependency; everything that came from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qaios.schema.views import MissionReport, TaskView

COLOURS = {
    "done": "#2e9e6b", "running": "#2f7fd1", "failed": "#d1433f", "lost": "#d1433f", "cancelled": "#b58900",
    "cancelling": "#b58900", "unknown": "#8a5cc7", "repaired": "#5b8ba6",
}  # fmt: skip
OTHER = "#9aa4ad"
LANE_PX = 26
LABEL_PX = 120
WIDTH_PX = 760
TASKS_MAX = 300  # beyond that a picture shows nothing a person could see
_FONT = 'font-family="system-ui, sans-serif" font-size="11"'


def timeline_svg(report: MissionReport) -> str:
    """One lane a device, one bar an attempt, in mission time."""
    bars = [bar for task in report.tasks[:TASKS_MAX] for bar in _bars(task, report)]
    lanes = {device: row for row, device in enumerate(dict.fromkeys(device for device, *_ in bars))}
    end_s = max([end for _, _, end, *_ in bars], default=1.0) or 1.0
    scale = (WIDTH_PX - LABEL_PX - 10) / end_s
    parts = [_text(0, 14, f"{report.mission}: {report.state}", bold=True)]
    for device, row in lanes.items():
        y = 24 + row * LANE_PX
        parts.append(_text(0, y + 15, device))
        parts.append(f'<line x1="{LABEL_PX}" x2="{WIDTH_PX}" y1="{y + 23}" y2="{y + 23}" stroke="#8884" />')
    for device, begin, end, state, title in bars:
        x, y, width = LABEL_PX + begin * scale, 24 + lanes[device] * LANE_PX, max(2.0, (end - begin) * scale)
        name = title.split(" ", 1)[0]
        shown = name if len(name) * 6.5 < width else ""
        parts.append(
            f'<g><title>{escape(title)}</title><rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="18" rx="3" '
            f'fill="{COLOURS.get(state, OTHER)}" />{_text(x + 4, y + 16, shown, colour="#fff")}</g>'
        )
    height = 24 + len(lanes) * LANE_PX + 18
    parts.append(_text(LABEL_PX, height - 4, "0 s"))
    parts.append(_text(WIDTH_PX - 50, height - 4, f"{end_s:.3g} s"))
    return _svg(height, parts) + _beyond(len(report.tasks))


def graph_svg(name: str, needs: Mapping[str, Iterable[str]]) -> str:
    """The tasks in columns by how many must come before them, with a line for each need."""
    shown = dict(list(needs.items())[:TASKS_MAX])
    depth = _depths(shown)
    rows: dict[int, int] = {}
    place: dict[str, tuple[float, float]] = {}
    step = (WIDTH_PX - 10) / (max(depth.values(), default=0) + 1)
    for task in shown:
        row = rows.get(depth[task], 0)
        rows[depth[task]] = row + 1
        place[task] = (depth[task] * step, 26.0 + row * LANE_PX)
    parts = [_text(0, 14, f"{name}: {len(needs)} tasks, not run yet", bold=True)]
    box = min(step - 24, 150)
    for task, before in shown.items():
        x, y = place[task]
        for other in before:
            if other in place:
                begin, top = place[other][0] + box, place[other][1] + 9
                line = f'x1="{begin:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{y + 9:.1f}"'
                parts.append(f'<line {line} stroke="#8888" />')
    for task, (x, y) in place.items():
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{box:.1f}" height="18" rx="3" fill="{OTHER}" />')
        parts.append(_text(x + 5, y + 13, task, colour="#fff"))
    return _svg(26 + max(rows.values(), default=0) * LANE_PX + 6, parts) + _beyond(len(needs))


def _bars(task: TaskView, report: MissionReport) -> list[tuple[str, float, float, str, str]]:
    """Device, begin and end in seconds of mission time, state, and what is said when one points at it."""
    now = report.ended if report.ended is not None else max((one.ended or one.started or 0.0) for one in report.tasks)
    bars = []
    for attempt in task.history:
        end = attempt.ended if attempt.ended is not None else now
        begin_s, end_s = attempt.started - report.submitted, max(end, attempt.started) - report.submitted
        state = attempt.outcome or "running"
        title = f"{task.name} ({task.action}) on {attempt.device}: {state}, {end_s - begin_s:.3g} s"
        bars.append((attempt.device, begin_s, end_s, state, title))
    return bars


def _depths(needs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The longest way from a task without needs; a circle, which no mission may have, counts as none."""
    depth = dict.fromkeys(needs, 0)
    for _ in range(len(depth)):
        changed = False
        for task, before in needs.items():
            wanted = 1 + max((depth[other] for other in before if other in depth and other != task), default=-1)
            if wanted > depth[task] and wanted < len(depth):
                depth[task], changed = wanted, True
        if not changed:
            break
    return depth


def _text(x: float, y: float, text: str, *, colour: str = "currentColor", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" {_FONT} fill="{colour}"{weight}>{escape(text)}</text>'


def _svg(height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {height:.0f}" width="100%" role="img">'
        f"{''.join(parts)}</svg>"
    )


def _beyond(count: int) -> str:
    return f"<p>{count - TASKS_MAX} more tasks are not drawn.</p>" if count > TASKS_MAX else ""

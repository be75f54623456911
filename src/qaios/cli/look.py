"""Verbs that look at a running node and change nothing: status, ps, devices, why, events, result."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qaios.cli.nodes import ask
from qaios.cli.output import duration, emit_list, emit_one, emit_pairs, moment, output_option

if TYPE_CHECKING:
    from qaios.client.node import Node
    from qaios.schema.views import DeviceView, EventView, MissionView, NodeStatus, TaskView, WhyView

PAGE = 5000


@click.command()
@output_option
def status(form: str) -> None:
    """Show the node at a glance."""
    row = ask(lambda node: node.status())
    emit_one(row, form, lambda: _show_status(row), name="version")


def _show_status(row: NodeStatus) -> None:
    emit_pairs(
        [
            ("node", f"qai {row.version}, pid {row.pid}, profile {row.profile or '-'}, epoch {row.epoch}"),
            ("home", row.home),
            ("door", row.url),
            ("up", f"{duration(row.uptime_s)} (ready {duration(row.boot_s)} after the start)"),
            ("clock", f"{moment(row.clock)}{' (simulated world)' if row.simulated else ''}"),
            ("engines", [_engine(engine.name, engine.state, engine.restarts) for engine in row.engines]),
            *((what, counts) for what, counts in row.counts.items()),
            ("halted", row.halted),
        ]
    )


def _engine(name: str, state: str, restarts: int) -> str:
    return f"{name} {state}" + (f" ({restarts} restarts)" if restarts else "")


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Of ended missions too.")
@click.option("-m", "--mission", "which", help="Only of this mission.")
@output_option
def ps(everything: bool, which: str | None, form: str) -> None:
    """List the tasks of running missions."""

    async def tasks(node: Node) -> list[dict[str, Any]]:
        if which is not None:
            chosen = [await node.mission(which)]
        else:
            views = await node.missions()
            chosen = [await node.mission(view.id) for view in views if everything or view.ended is None]
        return [{"mission": view.id, **task.model_dump(mode="json")} for view in chosen for task in view.tasks]

    columns = (
        ("MISSION", lambda row: row["mission"]),
        ("TASK", lambda row: row["name"]),
        ("STATE", lambda row: row["state"]),
        ("PRIORITY", lambda row: row["priority"]),
        ("ACTION", lambda row: row["action"]),
        ("DEVICE", lambda row: row["device"]),
        ("ATTEMPTS", lambda row: row["attempts"]),
        ("PROGRESS", lambda row: "-" if row["progress"] is None else f"{row['progress']:.0%}"),
        ("WAITED FOR", lambda row: "; ".join(row["why"]["waited_for"])),
    )
    emit_list(ask(tasks), columns, form)


@click.command()
@output_option
def devices(form: str) -> None:
    """List the devices of the node."""
    columns = (
        ("NAME", lambda row: row.name),
        ("KIND", lambda row: row.kind),
        ("DRIVER", lambda row: row.driver),
        ("STATE", lambda row: row.state),
        ("SIMULATED", lambda row: row.simulated),
        ("PID", lambda row: row.pid),
        ("RUNNING", lambda row: row.running),
        ("READINGS", _readings),
        ("ACTIONS", lambda row: row.actions),
    )
    emit_list(ask(lambda node: node.devices()), columns, form)


def _readings(row: DeviceView) -> list[str]:
    return [
        f"{one.name} {one.value:.3g}{'' if one.unit == '1' else ' ' + one.unit}"
        for one in row.readings[:4]
        if one.value is not None
    ]


@click.command()
@click.argument("mission")
@click.argument("task", required=False)
@output_option
def why(mission: str, task: str | None, form: str) -> None:
    """Say why tasks are where they are, or why they wait.

    MISSION is an id or a name; without TASK every task is explained.
    """
    from qaios.core.errors import NotFound

    view = ask(lambda node: node.mission(mission))
    chosen = [one for one in view.tasks if task in (None, one.name)]
    if not chosen:
        names = ", ".join(one.name for one in view.tasks)
        raise NotFound(f"mission {view.id} has no task '{task}'", hint=f"its tasks are {names}")
    if form == "table":
        for one in chosen:
            explain(one)
    else:
        rows = [
            {"name": one.name, "state": one.state, "device": one.device, "why": one.why.model_dump(mode="json")}
            for one in chosen
        ]
        emit_list(rows, (), form)


def explain(task: TaskView) -> None:
    """One task's decision in words."""
    where = f" on {task.device}" if task.device else ""
    click.echo(f"{task.name} ({task.action}, priority {task.priority}): {task.state}{where}")
    if task.error is not None:
        click.echo(f"  failed: {task.error.message}" + (f" ({task.error.hint})" if task.error.hint else ""))
    if task.why.waited_for:
        click.echo(f"  waited for {'; '.join(task.why.waited_for)}")
    _explain_choice(task.why)


def _explain_choice(reasons: WhyView) -> None:
    for candidate in reasons.candidates:
        terms = ", ".join(f"{name} {value:.3g}" for name, value in candidate.terms.items() if value is not None)
        click.echo(f"  {candidate.device} could: score {candidate.score:.3g}" + (f" ({terms})" if terms else ""))
    for refusal in reasons.refusals:
        click.echo(f"  {refusal.device} could not: {refusal.reason}")


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen, until ^C.")
@click.option("--after", type=click.IntRange(min=0), help="Only events after this sequence number.")
@click.option("-n", "--last", type=click.IntRange(min=0), default=100, show_default=True, help="How many at most.")
@click.option("-m", "--mission", "which", help="Only of this mission.")
@output_option
def events(follow: bool, after: int | None, last: int, which: str | None, form: str) -> None:
    """Show what happened, from the journal."""

    async def show(node: Node) -> None:
        mission = (await node.mission(which)).id if which is not None else None
        kept, position = await _past(node, mission, after, last)
        if not follow:
            emit_list(kept, _EVENT_COLUMNS, form, name="sequence")
            return
        for event in kept:
            _line(event, form)
        async for event in node.watch(mission, position):
            _line(event, form)

    ask(show)


async def _past(node: Node, mission: str | None, after: int | None, last: int) -> tuple[list[EventView], int]:
    """The last events there are, and the sequence number of the very last one seen."""
    kept: deque[EventView] = deque(maxlen=last)
    position = after or 0
    while page := await node.events(position, PAGE):
        position = page[-1].sequence
        kept.extend(event for event in page if mission is None or event.mission == mission)
        if len(page) < PAGE:
            break
    return list(kept), position


def _line(event: EventView, form: str) -> None:
    if form == "table":
        click.echo(f"{event.sequence:>6}  {moment(event.at)}  {event.text}")
    else:
        emit_list([event], _EVENT_COLUMNS, "name" if form == "name" else "ndjson", name="sequence")
    sys.stdout.flush()


_EVENT_COLUMNS = (
    ("SEQUENCE", lambda row: row.sequence),
    ("AT", lambda row: moment(row.at)),
    ("KIND", lambda row: row.kind),
    ("MISSION", lambda row: row.mission),
    ("WHAT", lambda row: row.text),
)


@click.command()
@click.argument("artifact")
@click.option("-m", "--mission", "which", help="The mission whose artifact it is, when ARTIFACT is a name.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def result(artifact: str, which: str | None, out: Path | None) -> None:
    """Write an artifact's content to stdout or a file.

    ARTIFACT is its sha256, or with --mission its name in that mission's report.
    """

    async def content(node: Node) -> bytes:
        return await node.artifact(artifact if which is None else await _address(node, which, artifact))

    data = ask(content)
    if out is None:
        sys.stdout.buffer.write(data)
        return
    out.write_bytes(data)
    click.echo(f"wrote {len(data)} bytes to {out}", err=True)


async def _address(node: Node, mission: str, name: str) -> str:
    from qaios.core.errors import NotFound

    report = await node.report(mission)
    for one in report.artifacts:
        if name in (one.name, one.sha256):
            return one.sha256
    names = ", ".join(one.name for one in report.artifacts) or "none"
    raise NotFound(f"mission {report.id} has no artifact '{name}'", hint=f"it has {names}")


def mission_columns() -> tuple[tuple[str, Any], ...]:
    """The table of missions, for `mission ls`."""

    def done(row: MissionView) -> str:
        return f"{row.counts.get('done', 0)}/{sum(row.counts.values())}"

    columns: tuple[tuple[str, Any], ...] = (
        ("ID", lambda row: row.id),
        ("NAME", lambda row: row.name),
        ("STATE", lambda row: row.state),
        ("DONE", done),
        ("OWNER", lambda row: row.owner),
        ("SUBMITTED", lambda row: moment(row.submitted)),
        ("TOOK", lambda row: duration(row.ended - row.submitted) if row.ended is not None else "-"),
        ("GOAL", lambda row: row.goal),
    )
    return columns

"""`qai mission …`: check, plan, run and look at missions.

`run` and `plan` use the node that runs in this home, or boot one in this process and end it afterwards. The report
goes to stdout, what happens meanwhile to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qaios.cli.lazy import LazyGroup
from qaios.cli.output import duration, emit_json, emit_list, emit_one, output_option
from qaios.cli.verbs import MISSION_VERBS

if TYPE_CHECKING:
    from qaios.client.node import Node
    from qaios.core.values import DeviceSpec
    from qaios.schema.mission import MissionDocument
    from qaios.schema.views import MissionReport, NodeStatus, TaskView

T = TypeVar("T")

EXIT_FAILED = 1
EXIT_INVALID = 4
EXIT_INTERRUPTED = 130
GUEST_FAREWELL_S = 1.0  # for the other command line to fetch its report

_FILE = click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
_PROFILE = click.option("--profile", help="Which devices to use where no node is running: local or sim.")


@click.group(cls=LazyGroup, verbs=MISSION_VERBS)
def mission() -> None:
    """Check, plan, run and look at missions."""


@click.command()
@click.argument("files", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), nargs=-1, required=True)
@_PROFILE
@output_option
def validate(files: tuple[Path, ...], profile: str | None, form: str) -> None:
    """Check mission files; name every fault and its place.

    Faults are printed as file:line:column: what — what to do. Exit code 4 when there is any.
    """
    from qaios.core.errors import MissionInvalid

    rows: list[dict[str, Any]] = []
    for file in files:
        try:
            document, _ = _load(file, profile)
        except MissionInvalid as error:
            faults = [{name: getattr(fault, name) for name in fault.__slots__} for fault in error.faults]
            rows.append({"file": str(file), "valid": False, "faults": faults})
            if form == "table":
                click.echo(str(error))
        else:
            rows.append({"file": str(file), "valid": True, "tasks": len(document.tasks), "faults": []})
            if form == "table":
                click.echo(f"{file}: sound, {len(document.tasks)} tasks")
    if form != "table":
        emit_list(rows, (), form, name="file")
    count = sum(len(row["faults"]) for row in rows)
    if count:
        click.echo(f"{count} fault{'s' if count != 1 else ''}", err=True)
        raise SystemExit(EXIT_INVALID)


@click.command()
@_FILE
@_PROFILE
@output_option
def plan(file: Path, profile: str | None, form: str) -> None:
    """Show where each task would go now, and why.

    Nothing is submitted. Scores are those of the devices' present state.
    """
    document, chosen = _load(file, profile)

    async def ask(node: Node) -> list[TaskView]:
        return list(await node.plan(document))

    tasks = _with_node(ask, document, profile=chosen, seed=None)
    columns = (
        ("TASK", lambda row: row.name),
        ("PRIORITY", lambda row: row.priority),
        ("ACTION", lambda row: row.action),
        ("STATE", lambda row: row.state),
        ("DEVICE", lambda row: row.device),
        ("SCORE", lambda row: row.why.candidates[0].score if row.why.candidates else None),
        (
            "OTHERS",
            lambda row: [f"{one.device} {one.score:.3g}" for one in row.why.candidates if one.device != row.device],
        ),
        ("CANNOT", lambda row: [f"{one.device}: {one.reason}" for one in row.why.refusals]),
        ("NEEDS", lambda row: row.needs),
    )
    emit_list(tasks, columns, form)


@click.command()
@_FILE
@click.option("--seed", type=click.IntRange(min=0), help="All chance follows from it; overrides the file's.")
@click.option("--detach", is_flag=True, help="Print the mission's id and return; needs a running node.")
@click.option("--timeout", "timeout", help="Stop waiting after this time, such as '5 min' (exit code 8).")
@click.option("--key", help="Submitting the same key again is the same mission.")
@click.option("-q", "--quiet", is_flag=True, help="Do not tell what happens meanwhile.")
@_PROFILE
@output_option
def run(
    file: Path,
    seed: int | None,
    detach: bool,
    timeout: str | None,
    key: str | None,
    quiet: bool,
    profile: str | None,
    form: str,
) -> None:
    """Run a mission and print its report.

    Uses the running node, or boots one in this process and ends it afterwards. ^C detaches: with a running node the
    mission goes on. Exit code 0 when the mission is done, 1 when it failed.
    """
    timeout_s = _seconds(timeout)
    document, chosen = _load(file, profile)
    if detach:
        _submit_only(document, seed, key, form)
        return

    async def fly(node: Node) -> MissionReport:
        mission_id = await node.submit(document, seed=seed, key=key)
        return await _follow(node, mission_id, timeout_s, quiet)

    report = _interruptible(lambda: _with_node(fly, document, profile=chosen, seed=seed), document.mission)
    _finish(report, form)


@click.command()
@click.argument("mission")
@click.option("--timeout", "timeout", help="Stop waiting after this time, such as '5 min' (exit code 8).")
@click.option("-q", "--quiet", is_flag=True, help="Do not tell what happens meanwhile.")
@output_option
def watch(mission: str, timeout: str | None, quiet: bool, form: str) -> None:
    """Follow a mission until it ends, then print its report.

    ^C detaches: the mission goes on.
    """
    from qaios.cli.nodes import ask

    timeout_s = _seconds(timeout)

    async def follow(node: Node) -> MissionReport:
        return await _follow(node, (await node.mission(mission)).id, timeout_s, quiet)

    _finish(_interruptible(lambda: ask(follow), mission), form)


@click.command()
@output_option
def ls(form: str) -> None:
    """List missions."""
    from qaios.cli.look import mission_columns
    from qaios.cli.nodes import ask

    emit_list(ask(lambda node: node.missions()), mission_columns(), form, name="id")


@click.command()
@click.argument("mission")
@output_option
def get(mission: str, form: str) -> None:
    """Print a mission's report.

    MISSION is an id, or a name (the newest of that name).
    """
    from qaios.cli.nodes import ask
    from qaios.cli.report import show_report

    report = ask(lambda node: node.report(mission))
    emit_one(report, form, lambda: show_report(report), name="id")


@click.command()
@click.argument("mission")
@click.argument("task", required=False)
def cancel(mission: str, task: str | None) -> None:
    """Stop a mission, or one task of it."""
    from qaios.cli.nodes import ask

    ask(lambda node: node.cancel(mission, task))
    what = f"task {task} of mission {mission}" if task else f"mission {mission}"
    click.echo(f"asked {what} to stop; `qai mission get {mission}` shows when it has", err=True)


@click.command()
@click.argument("mission")
@click.argument("task")
@click.option("--happened/--never", required=True, help="It was done and counts as done; or it never was, try again.")
def resolve(mission: str, task: str, happened: bool) -> None:
    """Say what became of a task whose outcome is unknown.

    Nothing that may have had an effect is ever run again by itself: look at the thing, then say what you saw.
    """
    from qaios.cli.nodes import ask

    ask(lambda node: node.resolve(mission, task, happened=happened))
    click.echo(f"task {task} of mission {mission} {'is done' if happened else 'will be tried again'}", err=True)


@click.command()
def schema() -> None:
    """Print the JSON Schema of mission files."""
    from qaios.schema.mission import json_schema

    emit_json(json_schema())


@click.command()
@click.argument("template", required=False, default="compute")
def new(template: str) -> None:
    """Print a mission file to start from.

    TEMPLATE is one of compute, quantum, drone.
    """
    from importlib.resources import files

    from qaios.core.errors import NotFound

    folder = files("qaios.cli").joinpath("templates")
    names = sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))
    if template not in names:
        raise NotFound(f"there is no template '{template}'", hint=f"use one of {', '.join(names)}")
    click.echo(folder.joinpath(f"{template}.yaml").read_text(encoding="utf-8"), nl=False)


def _seconds(text: str | None) -> float | None:
    from qaios.schema.mission import duration_s

    if text is None:
        return None
    try:
        return duration_s(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--timeout") from None


def _load(file: Path, profile: str | None) -> tuple[MissionDocument, str | None]:
    """The document, checked against the fleet that would run it: the running node's, or that of a profile, which is
    returned because a node of it has to be booted."""
    from qaios.bridge.missions import outline, read_mission
    from qaios.client.local import fleet_for
    from qaios.core.errors import MissionInvalid

    content, name, folder = _content(file)
    running = _running_node()
    if running is None:
        from qaios.system.config import PROFILES

        written, actions = outline(content)
        chosen, specs = fleet_for(actions, profile=profile or (written if written in PROFILES else None))
        document = read_mission(
            content, file=name, folder=folder, catalogue=specs, profiles=tuple(PROFILES), modules=_module_folders()
        )
        return document, chosen
    status, specs = running
    _agree(status, profile)
    try:
        return read_mission(content, file=name, folder=folder, catalogue=specs, modules=_module_folders()), None
    except MissionInvalid:
        click.echo(f"checked against the running node, profile {status.profile} (`qai devices`)", err=True)
        raise


def _module_folders() -> list[Path]:
    """Where this shell would import from: the node that runs the mission may have been started in another."""
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [Path.cwd(), *(Path(folder) for folder in named if folder)]


def _content(file: Path) -> tuple[bytes, str, Path]:
    """A mission file's bytes, what to call it, and the folder of the files it may name; `-` is stdin."""
    from qaios.core.errors import NotFound

    if str(file) == "-":
        return sys.stdin.buffer.read(), "<stdin>", Path.cwd()
    try:
        return file.read_bytes(), str(file), file.parent
    except OSError as error:
        hint = "give the path of a mission file, such as survey.yaml"
        raise NotFound(f"cannot read {file}: {error.strerror}", hint=hint) from error


def _running_node() -> tuple[NodeStatus, Sequence[DeviceSpec]] | None:
    """The node that runs in this home and what its fleet can do; None when there is none."""
    from qaios.cli.nodes import ask
    from qaios.client.run_files import home_folder, read_node_file

    if read_node_file(home_folder()) is None:
        return None

    async def both(node: Node) -> tuple[NodeStatus, Sequence[DeviceSpec]]:
        return await node.status(), await node.catalogue()

    return ask(both)


def _agree(status: NodeStatus, profile: str | None) -> None:
    """A profile that was asked for must be the running node's: it cannot change."""
    from qaios.core.errors import Conflict

    if profile is not None and profile != status.profile:
        raise Conflict(
            f"the node that runs in this home has the profile {status.profile}, not {profile}",
            hint="leave --profile out, end that node with `qai shutdown`, or set QAIOS_HOME",
        )


def _with_node(
    work: Callable[[Node], Awaitable[T]], document: MissionDocument, *, profile: str | None, seed: int | None
) -> T:
    """Do it on the running node, or on one that lives in this process as long as it takes."""
    from qaios.cli import nodes
    from qaios.client.run_files import home_folder, read_node_file

    if read_node_file(home_folder()) is not None:
        return nodes.ask(work)

    async def alone() -> T:
        from qaios.client.local import boot

        async with boot(profile=profile, seed=seed if seed is not None else document.seed) as node:
            before = {view.id for view in await node.missions()}
            answer = await work(node)
            await _see_guests_off(node, before)
            return answer

    return nodes.run(alone())


async def _see_guests_off(node: Node, before: set[str]) -> None:
    """While this node lived, other command lines may have found it and brought missions: let those end too."""
    import asyncio

    for view in await node.missions():
        if view.state == "running" and view.id not in before:
            click.echo(f"waiting for mission {view.id}, which came from elsewhere", err=True)
            async for _ in node.watch(view.id):
                pass
            await asyncio.sleep(GUEST_FAREWELL_S)


def _submit_only(document: MissionDocument, seed: int | None, key: str | None, form: str) -> None:
    from qaios.cli.nodes import ask

    mission_id = ask(lambda node: node.submit(document, seed=seed, key=key))
    row = {"id": mission_id, "mission": document.mission, "state": "running"}
    emit_one(row, form, lambda: click.echo(mission_id), name="id")


async def _follow(node: Node, mission_id: str, timeout_s: float | None, quiet: bool) -> MissionReport:
    """Tell what happens until the mission ends."""
    import asyncio

    from qaios.cli.progress import Progress
    from qaios.core.errors import DeadlineMissed

    try:
        async with asyncio.timeout(timeout_s):
            with Progress(quiet=quiet) as progress:
                async for event in node.watch(mission_id):
                    progress.tell(event)
            return await node.report(mission_id)
    except TimeoutError:
        raise DeadlineMissed(
            f"mission {mission_id} has not ended within {duration(timeout_s)}",
            hint=f"it is not cancelled; with a running node: qai mission watch {mission_id}",
        ) from None


def _interruptible(work: Callable[[], T], name: str) -> T:
    """^C stops the watching, not the mission; say what becomes of it."""
    from qaios.client.run_files import home_folder, read_node_file

    attached = read_node_file(home_folder()) is not None
    try:
        return work()
    except KeyboardInterrupt:
        if attached:
            click.echo(f"\ndetached: mission {name} goes on; follow it with: qai mission watch {name!r}", err=True)
        else:
            click.echo("\nthe node in this process has ended; `qai boot` takes up what it left unfinished", err=True)
        raise SystemExit(EXIT_INTERRUPTED) from None


def _finish(report: MissionReport, form: str) -> None:
    from qaios.cli.report import show_report

    emit_one(report, form, lambda: show_report(report), name="id")
    if report.state != "done":
        raise SystemExit(EXIT_FAILED)

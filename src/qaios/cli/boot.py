"""`qai boot` and `qai shutdown`: the life of a node that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qaios.cli.output import duration

if TYPE_CHECKING:
    import asyncio

    from qaios.client.run_files import NodeFile

READY_MAX_S = 60.0
GONE_MAX_S = 30.0
LOOK_EVERY_S = 0.02


@click.command()
@click.option("--profile", help="Which devices to use: local, or sim for the simulated world.")
@click.option("--detach", is_flag=True, help="Return when it is ready; it goes on in the background.")
@click.option("--vehicles", type=click.IntRange(0, 64), help="How many drones the simulated world has.")
@click.option("--seed", type=click.IntRange(min=0), help="The seed of the simulated world.")
@click.option(
    "--open-all/--open-late",
    default=None,
    help="Open every device now (usual with --profile sim), or each when work asks for it.",
)
def boot(profile: str | None, detach: bool, vehicles: int | None, seed: int | None, open_all: bool | None) -> None:
    """Start a node.

    It takes up what an earlier node of this home left unfinished, and runs until ^C or `qai shutdown`.
    """
    from qaios.client.run_files import home_folder, read_node_file
    from qaios.core.errors import Conflict

    home = home_folder()
    running = read_node_file(home)
    if running is not None:
        raise Conflict(
            f"a node (pid {running.pid}) already runs in {home}",
            hint="use it, end it with `qai shutdown`, or set QAIOS_HOME",
        )
    if open_all is None:
        open_all = profile == "sim"
    if detach:
        _detach(home, profile, vehicles, seed, open_all)
        return
    from qaios.cli.nodes import run

    options = {"profile": profile, "vehicles": vehicles, "seed": seed, "open_all": open_all or None}
    run(_serve({name: value for name, value in options.items() if value is not None}))


async def _serve(options: dict[str, Any]) -> None:
    """Boot, say so, and stay until somebody asks for the end."""
    import asyncio

    from qaios.client.local import boot as boot_here

    stop = asyncio.Event()
    _stop_on_signals(asyncio.get_running_loop(), stop.set)
    async with boot_here(**options) as system:
        status = await system.status()
        click.echo(
            f"ready after {duration(status.boot_s)}: profile {status.profile}, pid {status.pid}, home {status.home}; "
            "^C or `qai shutdown` ends it",
            err=True,
        )
        waits = {asyncio.ensure_future(stop.wait()), asyncio.ensure_future(system.closed())}
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in pending:
            one.cancel()
        for one in done:
            one.result()
        click.echo("shutting down", err=True)
    click.echo("the node has ended", err=True)


def _stop_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """The first ^C ends the node in good order, the second at once; where loops know no signals ^C interrupts."""

    def first(number: int) -> None:
        loop.remove_signal_handler(number)
        stop()

    with suppress(NotImplementedError):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, first, number)


def _detach(home: Path, profile: str | None, vehicles: int | None, seed: int | None, open_all: bool) -> None:
    """Start a node in a session of its own and wait until it listens, or say why it did not."""
    command = [sys.executable, "-m", "qaios.cli", "boot"]
    for name, value in (("--profile", profile), ("--vehicles", vehicles), ("--seed", seed)):
        if value is not None:
            command += [name, str(value)]
    if open_all:
        command.append("--open-all")
    log = home / "log" / "boot.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    began_s = time.monotonic()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, "QAIOS_HOME": str(home)},
        )
    found = _wait_until_ready(home, child, log)
    click.echo(
        f"ready after {duration(time.monotonic() - began_s)}: pid {found.pid}, {found.url}, home {home}", err=True
    )


def _wait_until_ready(home: Path, child: subprocess.Popen[bytes], log: Path) -> NodeFile:
    from qaios.client.run_files import read_node_file
    from qaios.core.errors import DeadlineMissed

    until_s = time.monotonic() + READY_MAX_S
    while time.monotonic() < until_s:
        found = read_node_file(home)
        if found is not None and found.pid == child.pid:
            return found
        code = child.poll()
        if code is not None:
            click.echo(log.read_text(encoding="utf-8", errors="replace").rstrip("\n"), err=True)
            raise SystemExit(code if 0 < code < 128 else 1)
        time.sleep(LOOK_EVERY_S)
    raise DeadlineMissed(f"the node (pid {child.pid}) was not ready after {READY_MAX_S:g} s", hint=f"see {log}")


@click.command()
def shutdown() -> None:
    """End the running node in good order."""
    from qaios.cli.nodes import ask
    from qaios.client.finding import is_running
    from qaios.client.run_files import home_folder, read_node_file
    from qaios.core.errors import DeadlineMissed, Unreachable

    home = home_folder()
    found = read_node_file(home)
    if found is None:
        raise Unreachable(f"no node is running in {home}", hint="nothing to do")
    began_s = time.monotonic()
    ask(lambda node: node.shutdown())
    while is_running(found.pid, found.process_started_s):
        if time.monotonic() - began_s > GONE_MAX_S:
            raise DeadlineMissed(f"the node (pid {found.pid}) has not ended yet", hint="look with: qai logs")
        time.sleep(LOOK_EVERY_S)
    click.echo(f"the node has ended after {duration(time.monotonic() - began_s)}", err=True)

"""`qai halt`: stop devices at once, with the node busy, stuck or dead.

The recipes in `run/halt.json` are carried out first, here, with nothing but the standard library: a ready-made
datagram to a vehicle, a signal to a process. Only then is the node told, with little patience, so that it stops
giving work and journals what was done. It never asks whether one is sure: a stop is always allowed.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from qaios.cli.output import output_option

SENDS = 3  # of each datagram: the radio may lose one, and the order to stop is the same twice
SEND_PAUSE_S = 0.02
NODE_PATIENCE_S = 2.0


@dataclass(slots=True)
class Halted:
    """What was done to one device."""

    device: str
    done: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@click.command()
@click.argument("device", required=False)
@click.option("--all", "everything", is_flag=True, help="Every device.")
@output_option
def halt(device: str | None, everything: bool, form: str) -> None:
    """Stop devices at once, whatever else goes on.

    DEVICE goes to its safe state (a vehicle holds or lands, a process is stopped) and takes no work until released.
    """
    if everything == (device is not None):
        raise click.UsageError("name a DEVICE or say --all")
    from qaios.client.run_files import home_folder, read_halt_file

    began_s = time.perf_counter()
    home = home_folder()
    entries = [entry for entry in read_halt_file(home) if everything or entry.get("device") == device]
    outcomes = carry_out(entries)
    took_ms = (time.perf_counter() - began_s) * 1000
    told, note = tell_node(home, device)
    if not any(outcome.done for outcome in outcomes) and not told:
        from qaios.core.errors import NotFound

        raise NotFound(
            f"nothing was halted: there is no recipe for {device or 'any device'}, and {note}",
            hint="look with: qai devices",
        )
    _report(outcomes, took_ms, told, note, form)
    if any(outcome.wrong for outcome in outcomes) and not told:
        raise SystemExit(1)


def carry_out(entries: list[dict[str, Any]]) -> list[Halted]:
    """Do what the recipes say: each device once, then the datagrams again."""
    outcomes = [Halted(str(entry.get("device"))) for entry in entries]
    again: list[tuple[str, int, bytes]] = []
    for outcome, entry in zip(outcomes, entries, strict=True):
        for recipe in entry.get("recipes", []):
            try:
                outcome.done.append(_perform(recipe, again))
            except (OSError, ValueError, KeyError, TypeError) as error:
                outcome.wrong.append(f"{type(error).__name__}: {error}")
    for _ in range(SENDS - 1 if again else 0):
        time.sleep(SEND_PAUSE_S)
        for host, port, payload in again:
            _send(host, port, payload)
    return outcomes


def _perform(recipe: dict[str, Any], again: list[tuple[str, int, bytes]]) -> str:
    kind = recipe["type"]
    if kind == "datagram":
        target = (str(recipe["host"]), int(recipe["port"]), base64.b64decode(recipe["payload"]))
        _send(*target)
        again.append(target)
        return f"datagram to {target[0]}:{target[1]}"
    if kind == "signal":
        from qaios.client.run_files import is_running

        pid, number = int(recipe["pid"]), int(recipe["signal"])
        if not is_running(pid, float(recipe.get("started_s") or 0.0)):
            return f"process {pid} had already ended"
        os.kill(pid, number)
        return f"signal {number} to process {pid}"
    raise ValueError(f"'{kind}' is not a recipe this version knows")


def _send(host: str, port: int, payload: bytes) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(payload, (host, port))


def tell_node(home: Path, device: str | None) -> tuple[list[str], str]:
    """The devices the node says it halted, and in words how that went."""
    import http.client

    from qaios.client.run_files import read_node_file

    found = read_node_file(home)
    if found is None:
        return [], "no node is running"
    address = urlsplit(found.url)
    door = http.client.HTTPConnection(address.hostname or "", address.port, timeout=NODE_PATIENCE_S)
    try:
        headers = {"Authorization": f"Bearer {found.token}", "Content-Type": "application/json"}
        door.request("POST", "/v1/halt", json.dumps({"device": device}), headers)
        answer = door.getresponse()
        body = json.loads(answer.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        return [], f"the node does not answer ({type(error).__name__})"
    finally:
        door.close()
    if answer.status >= 400:
        return [], f"the node says: {body.get('detail', answer.status)}"
    return [str(name) for name in body.get("halted", [])], "the node has journaled it"


def _report(outcomes: list[Halted], took_ms: float, told: list[str], note: str, form: str) -> None:
    from qaios.cli.output import emit_list

    rows: list[dict[str, Any]] = [
        {"device": one.device, "done": one.done, "wrong": one.wrong, "node": one.device in told} for one in outcomes
    ]
    named = {one.device for one in outcomes}
    rows += [{"device": name, "done": [], "wrong": [], "node": True} for name in told if name not in named]
    columns = (
        ("DEVICE", lambda row: row["device"]),
        ("DONE", lambda row: row["done"]),
        ("WRONG", lambda row: row["wrong"]),
        ("BY THE NODE", lambda row: row["node"]),
    )
    emit_list(rows, columns, form, name="device")
    if outcomes:
        click.echo(f"{len(outcomes)} device(s) halted in {took_ms:.0f} ms; {note}", err=True)
    else:
        click.echo(note, err=True)


@click.command()
@click.argument("device")
def release(device: str) -> None:
    """Let a halted device work again."""
    from qaios.cli.nodes import ask

    ask(lambda node: node.release(device))
    click.echo(f"{device} may work again", err=True)

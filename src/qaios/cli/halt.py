"""`qai halt`: stop devices at once, with the node busy, stuck or dead.

The recipes in `run/halt.json` have been carried out (`cli.halting`) by the time this module is imported. What is left
is to tell the node, with little patience, so that it stops giving work and journals what was done, and the person. It
never asks whether one is sure: a stop is always allowed.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import click

from qaios.cli import halting
from qaios.cli.output import emit_list, output_option

NODE_PATIENCE_S = 2.0


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
    round_ = halting.taken(device)
    round_.repeat()
    told, note = tell_node(device)
    if not any(outcome.done for outcome in round_.outcomes) and not told:
        from qaios.core.errors import NotFound

        raise NotFound(
            f"nothing was halted: there is no recipe for {device or 'any device'}, and {note}",
            hint="look with: qai devices",
        )
    _report(round_, told, note, form)
    if any(outcome.wrong for outcome in round_.outcomes) and not told:
        raise SystemExit(1)


def tell_node(device: str | None) -> tuple[list[str], str]:
    """The devices the node says it halted, and in words how that went."""
    import http.client

    from qaios.client.run_files import home_folder, read_node_file

    found = read_node_file(home_folder())
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


def _report(round_: halting.Halting, told: list[str], note: str, form: str) -> None:
    rows: list[dict[str, Any]] = [
        {"device": one.device, "done": one.done, "wrong": one.wrong, "node": one.device in told}
        for one in round_.outcomes
    ]
    named = {one.device for one in round_.outcomes}
    rows += [{"device": name, "done": [], "wrong": [], "node": True} for name in told if name not in named]
    columns = (
        ("DEVICE", lambda row: row["device"]),
        ("DONE", lambda row: row["done"]),
        ("WRONG", lambda row: row["wrong"]),
        ("BY THE NODE", lambda row: row["node"]),
    )
    emit_list(rows, columns, form, name="device")
    if round_.outcomes:
        click.echo(f"{len(round_.outcomes)} device(s) halted in {round_.took_ms:.0f} ms; {note}", err=True)
    else:
        click.echo(note, err=True)


@click.command()
@click.argument("device")
def release(device: str) -> None:
    """Let a halted device work again."""
    from qaios.cli.nodes import ask

    ask(lambda node: node.release(device))
    click.echo(f"{device} may work again", err=True)

"""Carrying out halt recipes: the part of `qai halt` that comes before everything else.

`begin` is called with the bare command line, before the parser is imported, because importing it would take longer
than stopping the devices. It reads `run/halt.json`, sends the datagrams and signals, and keeps what it did for the verb
(`cli.halt`), which tells the node and the person. Standard library only, and little of it.
"""

from __future__ import annotations

import binascii
import json
import os
import socket
import time

from qaios.client.finding import home_text, is_running, read_text

SENDS = 3  # of each datagram: the radio may lose one, and the order to stop is the same twice
SEND_PAUSE_S = 0.02
OPTIONS_WITH_VALUE = ("-o", "--output")


class Outcome:
    """What was done to one device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.done: list[str] = []
        self.wrong: list[str] = []


class Halting:
    """One round of halting: the outcomes, how long it took, and the datagrams to send again."""

    def __init__(self, device: str | None) -> None:
        self.device = device  # None: every device
        self.outcomes: list[Outcome] = []
        self.took_ms = 0.0
        self._again: list[tuple[str, int, bytes]] = []

    def carry_out(self, home: str) -> None:
        """Do what the recipes of `home` say, each once; a recipe that fails keeps no other from being done."""
        began_s = time.perf_counter()
        for entry in _table(home):
            if self.device is not None and entry.get("device") != self.device:
                continue
            outcome = Outcome(str(entry.get("device")))
            self.outcomes.append(outcome)
            recipes = entry.get("recipes")
            for recipe in recipes if isinstance(recipes, list) else ():
                try:
                    outcome.done.append(self._perform(recipe))
                except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                    outcome.wrong.append(f"{type(error).__name__}: {error}")
        self.took_ms = (time.perf_counter() - began_s) * 1000

    def repeat(self) -> None:
        """Send the datagrams again; an order to stop can only be lost, not given twice."""
        for _ in range(SENDS - 1 if self._again else 0):
            time.sleep(SEND_PAUSE_S)
            for host, port, payload in self._again:
                _send(host, port, payload)

    def _perform(self, recipe: dict[str, object]) -> str:
        kind = recipe["type"]
        if kind == "datagram":
            host, port = str(recipe["host"]), int(str(recipe["port"]))
            payload = binascii.a2b_base64(str(recipe["payload"]))
            _send(host, port, payload)
            self._again.append((host, port, payload))
            return f"datagram to {host}:{port}"
        if kind == "signal":
            pid, number = int(str(recipe["pid"])), int(str(recipe["signal"]))
            if not is_running(pid, float(str(recipe.get("started_s") or 0.0))):
                return f"process {pid} had already ended"
            os.kill(pid, number)
            return f"signal {number} to process {pid}"
        raise ValueError(f"'{kind}' is not a recipe this version knows")


begun: Halting | None = None


def begin(arguments: list[str]) -> None:
    """Halt at once what the command line `qai halt …` names, if it is clear what that is; the verb does the rest."""
    global begun
    names, everything, skip = [], False, False
    for word in arguments:
        if skip:
            skip = False
        elif word == "--all":
            everything = True
        elif word in OPTIONS_WITH_VALUE:
            skip = True
        elif word in ("-h", "--help"):
            return
        elif not word.startswith("-"):
            names.append(word)
    if (everything and not names) or (len(names) == 1 and not everything):
        begun = Halting(None if everything else names[0])
        begun.carry_out(home_text())


def taken(device: str | None) -> Halting:
    """What `begin` has done for this device, or the same done now."""
    global begun
    found, begun = begun, None
    if found is None or found.device != device:
        found = Halting(device)
        found.carry_out(home_text())
    return found


def _table(home: str) -> list[dict[str, object]]:
    text = read_text(f"{home}/run/halt.json")
    try:
        data = json.loads(text) if text else []
    except ValueError:
        return []
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _send(host: str, port: int, payload: bytes) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as out:
        out.setblocking(False)
        out.sendto(payload, (host, port))

"""The small files by which programs on one machine find a node: `run/node.json` and `run/halt.json`.

The HTTP door writes `node.json` when it listens; the command line reads it to find the node, and believes it only
while the process that wrote it lives. The halt table's engine writes `halt.json`; `qai halt` reads it (`cli.halting`).
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qaios.client.finding import home_text, is_running, process_started_s


@dataclass(frozen=True, slots=True)
class NodeFile:
    """Where the running node of a home listens, and the word that opens it."""

    pid: int
    url: str
    token: str
    started: float  # wall clock, seconds since the Unix epoch
    process_started_s: float  # boot clock: tells this process from a later one with the same pid; 0 where unknown


def home_folder() -> Path:
    """`QAIOS_HOME`, or the platform's folder for state."""
    return Path(home_text())


def node_file_path(home: Path) -> Path:
    return home / "run" / "node.json"


def halt_file_path(home: Path) -> Path:
    return home / "run" / "halt.json"


def read_node_file(home: Path) -> NodeFile | None:
    """The living node of this home; None when there is no file, or when the process that wrote it is gone."""
    found = read_stale_node_file(home)
    return found if found is not None and is_running(found.pid, found.process_started_s) else None


def read_stale_node_file(home: Path) -> NodeFile | None:
    """The node file as it lies there, whoever wrote it; None when there is none or it is not one."""
    data = _read_json(node_file_path(home))
    if not isinstance(data, dict):
        return None
    try:
        return NodeFile(
            pid=int(data["pid"]),
            url=str(data["url"]),
            token=str(data["token"]),
            started=float(data["started"]),
            process_started_s=float(data.get("process_started_s", 0.0)),
        )
    except (KeyError, TypeError, ValueError):
        return None


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all.

    Not synced as `security.files.write_durably` does, which needs POSIX: these files speak of a running process, and
    after a power cut there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_node_file(home: Path, *, url: str, token: str, started: float) -> NodeFile:
    """Say that this process is the node of this home."""
    pid = os.getpid()
    found = NodeFile(pid, url, token, started, process_started_s(pid) or 0.0)
    data = {
        "pid": found.pid,
        "url": found.url,
        "token": found.token,
        "started": found.started,
        "process_started_s": found.process_started_s,
    }
    write_private(node_file_path(home), json.dumps(data) + "\n")
    return found


def remove_node_file(home: Path, *, token: str) -> None:
    """Take back what `write_node_file` said, unless another node has said something since."""
    found = read_stale_node_file(home)
    if found is not None and found.token == token:
        node_file_path(home).unlink(missing_ok=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

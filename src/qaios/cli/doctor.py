"""`qai doctor`: is this installation in order, and the state it keeps?

Each check gives one finding: ok, note (worth knowing) or wrong (needs doing), with what to do. Exit code 1 when
something is wrong. Nothing is changed and no node is needed.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import click

from qaios.cli.output import emit_list, output_option

FREE_MIN_BYTES = 500 * 1024 * 1024
EXTRAS = {
    "quantum": ("qiskit", "qiskit_aer", "scipy"),
    "ibm": ("qiskit_ibm_runtime",),
    "robot": ("mujoco", "pymavlink", "shapely", "ortools"),
    "demo": ("matplotlib",),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    state: str  # ok, note, wrong
    what: str
    remedy: str = ""


@click.command()
@output_option
def doctor(form: str) -> None:
    """Check this installation and its state."""
    from qaios.client.run_files import home_folder

    home = home_folder()
    findings = [finding for check in CHECKS for finding in check(home)]
    columns = (
        ("CHECK", lambda row: row["check"]),
        ("STATE", lambda row: row["state"]),
        ("FOUND", lambda row: row["what"]),
        ("WHAT TO DO", lambda row: row["remedy"]),
    )
    emit_list([asdict(finding) for finding in findings], columns, form, name="check")
    wrong = sum(finding.state == "wrong" for finding in findings)
    if wrong:
        click.echo(f"{wrong} of {len(findings)} checks are wrong", err=True)
        raise SystemExit(1)


def _python(home: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.prefix == sys.base_prefix:
        yield Finding("python", "note", f"Python {version}, not in a virtual environment", "make one: python -m venv")
    else:
        yield Finding("python", "ok", f"Python {version} in {sys.prefix}")


def _extras(home: Path) -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            yield Finding(f"extra {extra}", "note", f"lacks {', '.join(missing)}", f"pip install 'qaios[{extra}]'")
        else:
            yield Finding(f"extra {extra}", "ok", "installed")


def _entry_points(home: Path) -> Iterator[Finding]:
    from importlib.metadata import entry_points

    for group in ("qaios.drivers", "qaios.doors"):
        names = sorted(point.name for point in entry_points(group=group))
        if names:
            yield Finding(group, "ok", ", ".join(names))
        else:
            yield Finding(group, "wrong", "none is installed", "install the package: pip install -e .")


def _home(home: Path) -> Iterator[Finding]:
    existing = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("home", "wrong", f"cannot write {existing}", "set QAIOS_HOME to a folder of yours")
    elif not home.exists():
        yield Finding("home", "ok", f"{home} (will be made at the first boot)")
    else:
        yield Finding("home", "ok", str(home))
    free = shutil.disk_usage(existing).free
    if free < FREE_MIN_BYTES:
        yield Finding("disk", "wrong", f"{free >> 20} MiB free", f"free at least {FREE_MIN_BYTES >> 20} MiB")
    else:
        yield Finding("disk", "ok", f"{free >> 20} MiB free")


def _journal(home: Path) -> Iterator[Finding]:
    from qaios.core import events
    from qaios.core.errors import JournalBroken

    path = home / "journal.db"
    if not path.exists():
        yield Finding("journal", "ok", "none yet")
        return
    from qaios.journal.sqlite import export

    try:
        blocks = sum(1 for _ in export(path, decode=events.decode_events))
    except JournalBroken as error:
        yield Finding("journal", "wrong", str(error), "restore it from a copy; do not boot from it")
    else:
        yield Finding("journal", "ok", f"{blocks} blocks, every hash follows")


def _run_files(home: Path) -> Iterator[Finding]:
    from qaios.client.run_files import halt_file_path, node_file_path, read_node_file, read_stale_node_file

    path = node_file_path(home)
    found = read_node_file(home)
    if found is not None:
        yield _reachable(found.url, found.pid)
    elif path.exists():
        stale = read_stale_node_file(home)
        who = f"pid {stale.pid}, which has ended" if stale is not None else "nobody knows whom"
        yield Finding("node", "note", f"{path.name} was left by {who}", "the next `qai boot` recovers and replaces it")
    else:
        yield Finding("node", "ok", "none is running")
    for one in (path, halt_file_path(home), home / "run" / "world.json"):
        if one.exists() and stat.S_IMODE(one.stat().st_mode) & 0o077:
            yield Finding(one.name, "wrong", f"others can read {one}", f"chmod 600 {one}")


def _reachable(url: str, pid: int) -> Finding:
    from urllib.parse import urlsplit

    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 0), timeout=2).close()
    except OSError as error:
        return Finding("node", "wrong", f"pid {pid} lives but {url} does not answer: {error}", "see `qai logs`")
    return Finding("node", "ok", f"pid {pid} listens on {url}")


def _loopback(home: Path) -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            yield Finding("loopback", "ok", "127.0.0.1 can be listened on")
    except OSError as error:
        yield Finding("loopback", "wrong", f"cannot listen on 127.0.0.1: {error}", "the node's doors need it")


def _exceptions(home: Path) -> Iterator[Finding]:
    """Device protocols that cannot encrypt stay on loopback; a setting that points one elsewhere shows here."""
    import ipaddress
    import tomllib

    path = home / "config.toml"
    if not path.exists():
        yield Finding("device protocols", "ok", "all on loopback (no settings file)")
        return
    try:
        drivers = tomllib.loads(path.read_text(encoding="utf-8")).get("drivers", {})
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        yield Finding("settings", "wrong", f"{path}: {error}", "mend it; it is TOML")
        return
    outside = []
    for name, section in drivers.items() if isinstance(drivers, dict) else ():
        for key, value in section.items() if isinstance(section, dict) else ():
            host = str(value).removeprefix("udpout://").removeprefix("udp://").removeprefix("tcp://").rsplit(":", 1)[0]
            try:
                if not ipaddress.ip_address(host).is_loopback:
                    outside.append(f"{name}.{key} = {value}")
            except ValueError:
                continue
    if outside:
        yield Finding("device protocols", "note", f"not on loopback: {', '.join(outside)}", "tunnel what is not sealed")
    else:
        yield Finding("device protocols", "ok", "all on loopback")


CHECKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _python,
    _extras,
    _entry_points,
    _home,
    _journal,
    _run_files,
    _loopback,
    _exceptions,
)

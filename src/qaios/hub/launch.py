"""Have a hub on this machine: start one, find the one that runs, end it.

The system calls `launch` when it boots the simulated profile, and `qai` calls `attach` to ask for it. The hub is
a process of its own session: it goes on when the kernel that started it dies, and the next kernel attaches to it.
"""

from __future__ import annotations

import http.client
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from qaios.core.errors import Conflict, Unreachable
from qaios.drivers.worker import started_s
from qaios.security.files import make_folder
from qaios.security.keys import MALFORMED, PublicIdentity
from qaios.security.statements import HubAddress

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
IDLE_S = 30 * 60.0


def launch(home: Path, *, idle_s: float = IDLE_S) -> HubAddress:
    """The hub of this home: the one that runs, or else a new one. Returns once it answers.

    Raises `Unreachable` when it does not start; `log/hub.log` says why. Blocks for about a second.
    """
    running = attach(home)
    if running:
        return running
    process = _start(home, idle_s)
    address = attach(home)
    if address is None:
        raise Unreachable(f"the hub (process {process.pid}) does not answer", hint=f"Read {_log_path(home)}.")
    return address


def attach(home: Path) -> HubAddress | None:
    """The hub that runs in this home and shows the identity it announced; None when there is none."""
    try:
        address = msgspec.json.decode(HubAddress.path(home).read_bytes(), type=HubAddress)
    except (FileNotFoundError, *MALFORMED):
        return None
    if started_s(address.pid) != address.started_s:
        return None
    shown = _shown_identity(address)
    return address if shown and shown.fingerprint == address.fingerprint else None


def stop(hub: Path | HubAddress, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """End a hub after the requests it is at: the one of this home, or this very one. False when it does not run.

    Raises `Conflict` when it has not ended in time.
    """
    address = attach(hub) if isinstance(hub, Path) else hub
    if address is None:
        return False
    try:
        watch = os.pidfd_open(address.pid)  # Names one process, whatever becomes of the number.
    except ProcessLookupError:
        return False
    try:
        ended = bool(select.select([watch], [], [], 0.0)[0])
        if ended or started_s(address.pid) != address.started_s:
            return False
        signal.pidfd_send_signal(watch, signal.SIGTERM)
        if not select.select([watch], [], [], timeout_s)[0]:
            raise Conflict(f"the hub (process {address.pid}) has not ended in {timeout_s:g} s", hint="Kill it.")
    finally:
        os.close(watch)
    return True


def _start(home: Path, idle_s: float) -> subprocess.Popen[bytes]:
    """Start the process and wait until it says that it is ready, or until it ends."""
    command = [sys.executable, "-m", "qaios.hub.server", "--home", str(home), "--idle-s", str(idle_s)]
    make_folder(_log_path(home).parent)
    with _log_path(home).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
        )
    # Its exit code is collected whenever it ends, so that it never lingers as a zombie of this process.
    threading.Thread(target=process.wait, name="hub-exit", daemon=True).start()
    assert process.stdout
    with process.stdout as said:
        if not select.select([said], [], [], START_TIMEOUT_S)[0]:
            process.kill()
            raise Unreachable(f"the hub was not ready in {START_TIMEOUT_S:g} s", hint=f"Read {_log_path(home)}.")
        if said.readline() == b"ready\n" or attach(home):  # or another one was faster, and this one has ended
            return process
    raise Unreachable("the hub ended while it was starting", hint=f"Read {_log_path(home)}.")


def _shown_identity(address: HubAddress) -> PublicIdentity | None:
    url = urlsplit(address.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=5.0)
    try:
        connection.request("GET", "/v1/identity", headers={"Authorization": f"Bearer {address.token}"})
        response = connection.getresponse()
        content = response.read()
        return msgspec.json.decode(content, type=PublicIdentity) if response.status == 200 else None
    except (OSError, http.client.HTTPException, *MALFORMED):
        return None
    finally:
        connection.close()


def _log_path(home: Path) -> Path:
    return home / "log" / "hub.log"

"""The hub's process: `python -m qaios.hub.server --home DIR [--port 0]`.

Started by `hub.launch` or by a person. It shares no memory with a kernel and outlives it on purpose, as the hub
of an organisation would: it ends when told (SIGTERM, SIGINT) or when nobody has asked it anything for `--idle-s`.
What it owns lies under `DIR/hub`; where it listens it writes to `DIR/run/hub.json`, and says `ready` on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import uvicorn

from qaios.core.errors import Invalid, QaiError
from qaios.drivers.worker import started_s
from qaios.hub.app import Activity, Hub, make_app
from qaios.hub.store import Store
from qaios.security.files import held_alone, write_durably
from qaios.security.keys import Identity, Role
from qaios.security.loopback import is_loopback, listen, url_of
from qaios.security.statements import HubAddress

IDLE_S = 30 * 60.0


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`hub/hub.json`: made once, so that a restarted hub is the same to those who know it."""

    token: str
    join: str


def main(arguments: Sequence[str] | None = None, *, step: Callable[[str], None] = lambda _: None) -> int:
    """Run a hub until it is told to end. Returns the exit code of the error that stopped it, 0 for none."""
    options = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # uvicorn finishes its requests first, then hands the signal on to here.
    try:
        _serve(options.home.absolute(), options.host, options.port, options.idle_s, step)
    except QaiError as error:
        sys.stderr.write(f"hub: {error}\n" + (f"      {error.hint}\n" if error.hint else ""))
        return error.exit_code
    return 0


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m qaios.hub.server", description="Run a hub.")
    parser.add_argument("--home", type=Path, required=True, help="the folder that holds hub/, run/ and log/")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address; others need TLS, not there yet")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--idle-s", type=float, default=IDLE_S, help="end after so long without a request")
    return parser.parse_args(arguments)


def _serve(home: Path, host: str, port: int, idle_s: float, step: Callable[[str], None]) -> None:
    _check_loopback(host)
    folder = home / "hub"
    with contextlib.ExitStack() as opened:
        opened.enter_context(held_alone(folder / "hub.lock", what=f"the hub in {folder}"))
        identity = Identity.open(folder / "keys", Role.HUB)
        tokens = _tokens(folder / "hub.json")
        store = opened.enter_context(contextlib.closing(Store(folder, identity, now_s=time.time, step=step)))
        executor = opened.enter_context(ThreadPoolExecutor(1, "store"))
        listening = opened.enter_context(_listen(host, port))
        opened.enter_context(_announced(home, listening, tokens, identity))
        activity = Activity()
        hub = Hub(store, identity.public, join=tokens.join, executor=executor)
        app = make_app(hub, token=tokens.token, activity=activity)
        asyncio.run(_run(app, listening, activity, idle_s))


async def _run(app: object, listening: socket.socket, activity: Activity, idle_s: float) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    watching = asyncio.create_task(_end_when_idle(server, activity, idle_s))
    try:
        await server.serve(sockets=[listening])
    finally:
        watching.cancel()


async def _end_when_idle(server: uvicorn.Server, activity: Activity, idle_s: float) -> None:
    left_s = idle_s
    while left_s > 0:
        await asyncio.sleep(left_s)  # The earliest moment at which it can be idle for long enough.
        left_s = idle_s - activity.idle_s()
    server.should_exit = True


def _check_loopback(host: str) -> None:
    if not is_loopback(host):
        raise Invalid(
            f"the hub will not listen on {host!r}: it speaks plain HTTP, which is for this machine alone",
            hint="Use 127.0.0.1 or ::1; reach it from elsewhere through a tunnel of your own.",
        )


def _tokens(path: Path) -> Tokens:
    with contextlib.suppress(FileExistsError):
        made = Tokens(token=secrets.token_urlsafe(32), join=secrets.token_urlsafe(32))
        write_durably(path, msgspec.json.encode(made), replace=False)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Tokens)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{path} is damaged: {error}", hint="Remove it; the hub then makes new tokens.") from error


def _listen(host: str, port: int) -> socket.socket:
    try:
        return listen(host, port)
    except OSError as error:
        raise Invalid(f"the hub cannot listen on {host}:{port}: {error}", hint="--port 0 takes a free one.") from error


@contextlib.contextmanager
def _announced(home: Path, listening: socket.socket, tokens: Tokens, identity: Identity) -> Iterator[None]:
    address = HubAddress(
        pid=os.getpid(),
        started_s=started_s(os.getpid()),
        url=url_of(listening),
        token=tokens.token,
        join=tokens.join,
        fingerprint=identity.public.fingerprint,
    )
    write_durably(HubAddress.path(home), msgspec.json.encode(address))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        yield
    finally:
        HubAddress.path(home).unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())

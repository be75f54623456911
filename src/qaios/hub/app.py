"""The hub over HTTP: who it is, who may report, what it has received.

    GET  /v1/identity        its public identity
    POST /v1/nodes           an `Enrolment`; the node may report from then on
    POST /v1/reports         an `Envelope` with the header `Idempotency-Key`; 201 new, 200 known: a `Receipt`
    GET  /v1/reports/{key}   200 `Receipt`, 202 while it is being received, 404 never. `?wait_s=` waits while 202
    GET  /v1/reports         receipts in the order of storing; `?after=&limit=`
    GET  /v1/contents/{key}  the opened report

Every request needs the bearer token. Refusals are problem details (RFC 9457) whose `type` says which error of
`core.errors` it is. All of the store runs in one thread: SQLite, syncs and signatures never hold up a request
that only asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar
from urllib.parse import unquote

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from qaios.core.errors import Conflict, Denied, Invalid, NotFound, QaiError
from qaios.hub.store import NotEnrolled, Store
from qaios.security.keys import MALFORMED, PublicIdentity
from qaios.security.sealing import ENVELOPE_MAX_BYTES, KEY_MAX_CHARACTERS, Envelope
from qaios.security.statements import ENVELOPE_MEDIA_TYPE, REPORT_MEDIA_TYPE, Enrolment

SMALL_MAX_BYTES = 64 * 1024  # of a body that is no envelope
WAIT_MAX_S = 30.0
LIST_MAX = 1000
UPLOADS_MAX = 4  # bodies held in memory at once; more wait their turn

P = ParamSpec("P")
T = TypeVar("T")

_STATUS: dict[type[QaiError], int] = {NotEnrolled: 403, Denied: 403, Invalid: 400, NotFound: 404, Conflict: 409}


class Activity:
    """When the hub was last asked for something: what its idle timeout goes by."""

    def __init__(self) -> None:
        self._open = 0
        self._last_s = time.monotonic()

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._last_s = time.monotonic()

    def idle_s(self) -> float:
        return 0.0 if self._open else time.monotonic() - self._last_s


class Hub:
    """The requests of one hub."""

    def __init__(self, store: Store, identity: PublicIdentity, *, join: str, executor: Executor) -> None:
        self._store = store
        self._identity = identity
        self._join = join
        self._executor = executor
        self._receiving: dict[str, list[asyncio.Event]] = {}
        self._uploads = asyncio.Semaphore(UPLOADS_MAX)

    async def identity(self, _request: Request) -> Response:
        return _json(self._identity)

    async def enrol(self, request: Request) -> Response:
        try:
            enrolment = msgspec.json.decode(await _body(request, SMALL_MAX_BYTES), type=Enrolment)
        except MALFORMED as error:
            raise Invalid(f"the body is no enrolment: {error}") from error
        node = enrolment.check(self._identity, self._join)
        await self._in_store(self._store.enrol, node)
        return _json({"fingerprint": node.fingerprint}, status=201)

    async def report(self, request: Request) -> Response:
        key = unquote(request.headers.get("idempotency-key", ""))
        if not 0 < len(key) <= KEY_MAX_CHARACTERS:
            raise Invalid(f"the header Idempotency-Key must hold 1 to {KEY_MAX_CHARACTERS} characters")
        if request.headers.get("content-type", "") != ENVELOPE_MEDIA_TYPE:
            raise HTTPException(415, f"a report comes as {ENVELOPE_MEDIA_TYPE}")
        with self._announced(key):
            async with self._uploads:
                envelope = Envelope.decode(await _body(request, ENVELOPE_MAX_BYTES))
                if envelope.key != key:
                    raise Invalid("the header Idempotency-Key and the key in the envelope differ")
                receipt, new = await self._in_store(self._store.store, envelope)
        return _json(receipt, status=201 if new else 200)

    async def receipt(self, request: Request) -> Response:
        key = request.path_params["key"]
        wait_s = _number(request, "wait_s", 0.0, WAIT_MAX_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while arrivals := self._receiving.get(key):
                    await arrivals[0].wait()
        receipt = await self._in_store(self._store.receipt, key)
        if receipt:
            return _json(receipt)
        if key in self._receiving:  # looked at last, so that one which arrived meanwhile is never called unknown
            return _json({"state": "receiving", "key": key}, status=202)
        raise NotFound(f"no report is stored under key {key!r}")

    async def receipts(self, request: Request) -> Response:
        after = int(_number(request, "after", 0, 2**62))
        listed = await self._in_store(self._store.receipts, after, int(_number(request, "limit", 100, LIST_MAX)))
        count = await self._in_store(self._store.count)
        last = listed[-1][0] if listed else after
        return _json({"count": count, "reports": [receipt for _, receipt in listed], "after": last})

    async def content(self, request: Request) -> Response:
        content = await self._in_store(self._store.content, request.path_params["key"])
        return Response(content, media_type=REPORT_MEDIA_TYPE)

    @contextlib.contextmanager
    def _announced(self, key: str) -> Iterator[None]:
        """While this lasts, whoever asks for the key is told that it is being received."""
        over = asyncio.Event()
        self._receiving.setdefault(key, []).append(over)
        try:
            yield
        finally:
            self._receiving[key].remove(over)
            if not self._receiving[key]:
                del self._receiving[key]
            over.set()

    async def _in_store(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))


def make_app(hub: Hub, *, token: str, activity: Activity) -> ASGIApp:
    """The hub as an ASGI application that answers those who have the token."""
    app = Starlette(
        routes=[
            Route("/v1/identity", hub.identity),
            Route("/v1/nodes", hub.enrol, methods=["POST"]),
            Route("/v1/reports", hub.report, methods=["POST"]),
            Route("/v1/reports", hub.receipts),
            Route("/v1/reports/{key:path}", hub.receipt),
            Route("/v1/contents/{key:path}", hub.content),
        ],
        exception_handlers={
            QaiError: _refuse,
            HTTPException: _refuse_http,
            ClientDisconnect: _refuse_gone,
            sqlite3.Error: _refuse_disk,
            OSError: _refuse_disk,
        },
    )
    return _Guarded(app, token, activity)


class _Guarded:
    """Nobody gets further without the bearer token."""

    def __init__(self, app: ASGIApp, token: str, activity: Activity) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()
        self._activity = activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._expected):
            refusal = _problem(401, "Unauthorized", "the bearer token is missing or wrong")
            refusal.headers["WWW-Authenticate"] = "Bearer"
            await refusal(scope, receive, send)
            return
        with self._activity.request():
            await self._app(scope, receive, send)


async def _body(request: Request, size_max_bytes: int) -> bytes:
    """All of the body, or 413 as soon as it is known to be too much."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > size_max_bytes:
        raise HTTPException(413, f"{announced} bytes are too much; at most {size_max_bytes}")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > size_max_bytes:
            raise HTTPException(413, f"more than {size_max_bytes} bytes are too much")
    return bytes(body)


def _number(request: Request, name: str, default: float, most: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise Invalid(f"{name} must be a number from 0 to {most:g}, not {text!r}")
    return number


def _json(content: object, *, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _problem(status: int, title: str, detail: str, hint: str = "") -> Response:
    content = {"type": f"urn:qaios:problem:{title}", "title": title, "status": status, "detail": detail}
    if hint:
        content["hint"] = hint
    return Response(msgspec.json.encode(content), status, media_type="application/problem+json")


async def _refuse(_request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return _problem(status, type(error).__name__, str(error), getattr(error, "hint", ""))


async def _refuse_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = _problem(error.status_code, "HTTPException", error.detail)
    refusal.headers.update(error.headers or {})
    return refusal


async def _refuse_gone(_request: Request, _error: Exception) -> Response:
    return _problem(400, "ClientDisconnect", "the sender hung up before all had arrived; nothing was stored")


async def _refuse_disk(_request: Request, error: Exception) -> Response:
    return _problem(507, "StorageFailed", f"the hub cannot store: {error}", "Make room where the hub runs; send again.")

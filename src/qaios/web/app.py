"""The HTTP interface itself, version 1: one route per method of the facade, and nothing decided here.

`make_app` is called by the door when it starts and by tests with a fake node. Errors become problem details with the
node's own words and hint; the events are server-sent events whose ids are the journal's sequence numbers, so that a
reader that lost its connection goes on where it was.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

import qaios
from qaios.bridge.mission_checks import closest
from qaios.client.node import Node
from qaios.client.problems import problem, status_of
from qaios.core.errors import Denied, Invalid, NotFound, QaiError
from qaios.schema.mission import SEED_MAX, MissionDocument
from qaios.schema.views import DeviceView, EventView, MissionReport, MissionView, NodeStatus, TaskView

BEAT_S = 10.0  # a stream says at least this often that it lives
BODY_MAX_BYTES = 64 * 1024 * 1024
EVENTS_MAX = 10_000

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class HaltRequest(BaseModel):
    """Which device to halt; none named: every device."""

    model_config = ConfigDict(extra="forbid")

    device: str | None = None


class Submitted(BaseModel):
    """The id of a mission that is now durable."""

    id: str


class Halted(BaseModel):
    """The devices that were halted."""

    halted: list[str]


class Accepted(BaseModel):
    """A request that is now durable or under way; what comes of it is in the events."""

    accepted: bool = True


def make_app(node: Node, token: str, closing: asyncio.Event) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The application for one node. Streams end when `closing` is set."""
    app = FastAPI(title="QAI OS node", version=qaios.__version__, docs_url=None, redoc_url=None)
    _say_errors(app)
    _serve_node(app, node)
    _serve_missions(app, node)
    _serve_devices(app, node)
    _serve_events(app, node, closing)
    return _Guard(app, token)


def _serve_node(app: FastAPI, node: Node) -> None:
    @app.get("/v1/status")
    async def status(request: Request) -> NodeStatus:
        return (await node.status()).model_copy(update={"url": str(request.base_url).rstrip("/")})

    @app.post("/v1/shutdown", status_code=202)
    async def shutdown() -> Accepted:
        await node.shutdown()
        return Accepted()

    @app.get("/v1/artifacts/{sha256}")
    async def artifact(sha256: str) -> Response:
        return Response(await node.artifact(sha256), media_type="application/octet-stream")


def _serve_missions(app: FastAPI, node: Node) -> None:
    # A mission's name may have slashes, which arrive as such: hence the paths, and the bare one last.
    @app.get("/v1/missions")
    async def missions() -> list[MissionView]:
        return list(await node.missions())

    @app.post("/v1/missions", status_code=201)
    async def submit(
        document: MissionDocument,
        seed: Annotated[int | None, Query(ge=0, le=SEED_MAX)] = None,
        idempotency_key: Annotated[str | None, Header(max_length=200)] = None,
    ) -> Submitted:
        return Submitted(id=await node.submit(document, seed=seed, key=idempotency_key))

    @app.post("/v1/plan")
    async def plan(document: MissionDocument) -> list[TaskView]:
        return list(await node.plan(document))

    @app.get("/v1/missions/{mission:path}/report")
    async def report(mission: str) -> MissionReport:
        return await node.report(mission)

    @app.post("/v1/missions/{mission:path}/cancel", status_code=202)
    async def cancel(mission: str, task: str | None = None) -> Accepted:
        await node.cancel(mission, task)
        return Accepted()

    @app.post("/v1/missions/{mission:path}/resolve", status_code=202)
    async def resolve(mission: str, task: str, happened: bool) -> Accepted:
        await node.resolve(mission, task, happened=happened)
        return Accepted()

    @app.get("/v1/missions/{mission:path}")
    async def one(mission: str) -> MissionView:
        return await node.mission(mission)


def _serve_devices(app: FastAPI, node: Node) -> None:
    @app.get("/v1/catalogue")
    async def catalogue() -> Response:
        return Response(msgspec.json.encode(list(await node.catalogue())), media_type="application/json")

    @app.get("/v1/devices")
    async def devices() -> list[DeviceView]:
        return list(await node.devices())

    @app.post("/v1/devices/{device:path}/release", status_code=202)
    async def release(device: str) -> Accepted:
        await node.release(device)
        return Accepted()

    @app.post("/v1/halt")
    async def halt(which: HaltRequest) -> Halted:
        return Halted(halted=list(await node.halt(which.device)))


def _serve_events(app: FastAPI, node: Node, closing: asyncio.Event) -> None:
    @app.get("/v1/events")
    async def events(
        after: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=EVENTS_MAX)] = 1000
    ) -> list[EventView]:
        return list(await node.events(after, limit))

    @app.get("/v1/stream")
    async def stream(
        after: Annotated[int, Query(ge=0)] = 0,
        mission: str | None = None,
        last_event_id: Annotated[int | None, Header(ge=0)] = None,
    ) -> StreamingResponse:
        if mission is not None:
            await node.mission(mission)  # a name that is not there is an answer, not an empty stream
        start = last_event_id if last_event_id is not None else after
        lines = _event_lines(node, mission, start, closing)
        return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _event_lines(node: Node, mission: str | None, after: int, closing: asyncio.Event) -> AsyncIterator[str]:
    """Server-sent events until the mission, the node or the reader ends; `end` tells an ended mission from a break."""
    closed = asyncio.create_task(closing.wait())
    coming: asyncio.Task[EventView | None] | None = None
    source = node.watch(mission, after)
    try:
        yield ": welcome\n\n"
        while not closing.is_set():
            if coming is None:
                coming = asyncio.create_task(_next(source))
            await asyncio.wait({coming, closed}, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                yield ": beat\n\n"
                continue
            event, coming = coming.result(), None
            if event is None:
                yield "event: end\ndata: {}\n\n"
                return
            yield f"id: {event.sequence}\nevent: event\ndata: {event.model_dump_json()}\n\n"
    finally:
        closed.cancel()
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()


async def _next(source: AsyncIterator[EventView]) -> EventView | None:
    return await anext(source, None)


def _say_errors(app: FastAPI) -> None:
    """Every way a request can fail, as problem details."""

    @app.exception_handler(QaiError)
    async def refused(request: Request, error: QaiError) -> JSONResponse:
        return _problem(error, status_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        lines = [f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}" for detail in error.errors()]
        return _problem(Invalid("; ".join(lines), hint="see the schema: qai mission schema"), 422)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        paths = [getattr(route, "path", "") for route in app.routes]
        match = closest(request.url.path, paths)
        return _problem(
            NotFound(
                f"{request.method} {request.url.path}: {error.detail}",
                hint=f"did you mean {match}?" if match else "the paths are in /openapi.json",
            ),
            error.status_code,
        )

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return _problem(QaiError(f"{type(error).__name__}: {error}", hint="the node's log says more: qai logs"), 500)


def _problem(error: QaiError, status: int) -> JSONResponse:
    return JSONResponse(problem(error, status), status_code=status, media_type="application/problem+json")


class _Guard:
    """Lets in who brings the token to the address they meant; everything else is answered here."""

    def __init__(self, app: FastAPI, token: str) -> None:
        self._app = app
        self._word = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            refusal = self._refusal(headers)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: dict[bytes, bytes]) -> Response | None:
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0]
        if host not in ("127.0.0.1", "localhost", "[::1]"):
            # A page from elsewhere whose name was bent to point here (DNS rebinding) gives itself away by its host.
            return _problem(Denied(f"this door is not '{host}'", hint="ask 127.0.0.1"), 403)
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._word):
            answer = _problem(Denied("the token is missing or wrong", hint="it is in run/node.json"), 401)
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_MAX_BYTES or b"transfer-encoding" in headers:
            return _problem(Invalid(f"the body must have a length of at most {BODY_MAX_BYTES} bytes"), 413)
        return None

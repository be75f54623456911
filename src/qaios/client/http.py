"""`Client`: a node reached over HTTP on this machine, with the same methods as a node in this process.

`Client.connect(home)` finds the node through `run/node.json`. Answers are the models of `qaios.schema`; errors are the
node's own exceptions, raised again here. A stream that breaks is taken up again after the last event it brought.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from pydantic import BaseModel, TypeAdapter

from qaios.client.problems import raised
from qaios.client.run_files import home_folder, read_node_file
from qaios.core.errors import Denied, QaiError, Unreachable
from qaios.core.values import DeviceSpec
from qaios.schema.mission import MissionDocument
from qaios.schema.views import DeviceView, EventView, MissionReport, MissionView, NodeStatus, TaskView

ModelT = TypeVar("ModelT", bound=BaseModel)

STREAM_ATTEMPTS = 5
STREAM_PAUSE_S = 0.2
SILENCE_MAX_S = 30.0  # the door says something at least every ten seconds


class Client:
    """A running node. Use with `async with`; satisfies `qaios.client.node.Node`."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 30.0) -> None:
        self.url = url
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(timeout_s, connect=5.0),
            trust_env=False,  # a proxy of the environment has no business between two programs of one machine
        )

    @classmethod
    def connect(cls, home: Path | None = None, *, timeout_s: float = 30.0) -> Self:
        """The running node of this home. Raises `Unreachable` when there is none."""
        where = home if home is not None else home_folder()
        found = read_node_file(where)
        if found is None:
            raise Unreachable(f"no node is running in {where}", hint="start one with: qai boot --detach")
        return cls(found.url, found.token, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def status(self) -> NodeStatus:
        return await self._model(NodeStatus, "GET", "/v1/status")

    async def catalogue(self) -> Sequence[DeviceSpec]:
        answer = await self._ask("GET", "/v1/catalogue")
        return msgspec.json.decode(answer.content, type=list[DeviceSpec])

    async def devices(self) -> Sequence[DeviceView]:
        return await self._models(DeviceView, "GET", "/v1/devices")

    async def missions(self) -> Sequence[MissionView]:
        return await self._models(MissionView, "GET", "/v1/missions")

    async def mission(self, mission: str) -> MissionView:
        return await self._model(MissionView, "GET", f"/v1/missions/{_part(mission)}")

    async def report(self, mission: str) -> MissionReport:
        return await self._model(MissionReport, "GET", f"/v1/missions/{_part(mission)}/report")

    async def plan(self, document: MissionDocument) -> Sequence[TaskView]:
        return await self._models(TaskView, "POST", "/v1/plan", content=_body(document), headers=_JSON)

    async def submit(self, document: MissionDocument, *, seed: int | None = None, key: str | None = None) -> str:
        answer = await self._ask(
            "POST",
            "/v1/missions",
            content=_body(document),
            headers={**_JSON, **({"Idempotency-Key": key} if key else {})},
            params={} if seed is None else {"seed": seed},
        )
        return str(answer.json()["id"])

    async def cancel(self, mission: str, task: str | None = None) -> None:
        params = {} if task is None else {"task": task}
        await self._ask("POST", f"/v1/missions/{_part(mission)}/cancel", params=params)

    async def resolve(self, mission: str, task: str, *, happened: bool) -> None:
        params: dict[str, str | bool] = {"task": task, "happened": happened}
        await self._ask("POST", f"/v1/missions/{_part(mission)}/resolve", params=params)

    async def events(self, after: int = 0, limit: int = 1000) -> Sequence[EventView]:
        return await self._models(EventView, "GET", "/v1/events", params={"after": after, "limit": limit})

    async def artifact(self, sha256: str) -> bytes:
        return (await self._ask("GET", f"/v1/artifacts/{_part(sha256)}")).content

    async def halt(self, device: str | None = None) -> Sequence[str]:
        answer = await self._ask("POST", "/v1/halt", json={"device": device})
        return [str(name) for name in answer.json()["halted"]]

    async def release(self, device: str) -> None:
        await self._ask("POST", f"/v1/devices/{_part(device)}/release")

    async def shutdown(self) -> None:
        await self._ask("POST", "/v1/shutdown")

    async def watch(self, mission: str | None = None, after: int = 0) -> AsyncIterator[EventView]:
        failures = 0
        while True:
            try:
                async for event in self._stream(mission, after):
                    after, failures = max(after, event.sequence), 0
                    yield event
            except (httpx.TransportError, httpx.StreamError) as error:
                failures += 1
                if failures >= STREAM_ATTEMPTS:
                    raise self._unreachable(error) from error
                await asyncio.sleep(STREAM_PAUSE_S * failures)
                continue
            return

    async def _stream(self, mission: str | None, after: int) -> AsyncIterator[EventView]:
        """One connection's worth of events; returns when the door says the stream has ended."""
        params: dict[str, Any] = {"after": after, **({"mission": mission} if mission is not None else {})}
        timeout = httpx.Timeout(SILENCE_MAX_S, connect=5.0)
        async with self._http.stream("GET", "/v1/stream", params=params, timeout=timeout) as answer:
            if answer.status_code >= 400:
                await answer.aread()
                raise self._error(answer)
            kind = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: ") and kind == "event":
                    yield EventView.model_validate_json(line.removeprefix("data: "))
                elif line.startswith("data: ") and kind == "end":
                    return
        raise httpx.RemoteProtocolError("the stream broke off")

    async def _model(self, model: type[ModelT], method: str, path: str, **more: Any) -> ModelT:
        return model.model_validate_json((await self._ask(method, path, **more)).content)

    async def _models(self, model: type[ModelT], method: str, path: str, **more: Any) -> list[ModelT]:
        return TypeAdapter(list[model]).validate_json((await self._ask(method, path, **more)).content)  # type: ignore[valid-type]

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            answer = await self._http.request(method, path, **more)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error
        if answer.status_code >= 400:
            raise self._error(answer)
        return answer

    def _unreachable(self, error: Exception) -> Unreachable:
        what = str(error) or type(error).__name__
        return Unreachable(f"the node at {self.url} does not answer: {what}", hint="look with: qai doctor")

    def _error(self, answer: httpx.Response) -> QaiError:
        try:
            body = answer.json()
        except ValueError:
            body = {}
        if answer.status_code == 401:
            return Denied("the node does not know this token", hint="the node was restarted: ask again")
        return raised(body if isinstance(body, dict) else {}, answer.status_code)


_JSON = {"Content-Type": "application/json"}


def _body(document: MissionDocument) -> bytes:
    return document.model_dump_json(by_alias=True).encode()


def _part(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")

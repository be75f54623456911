"""The HTTP door: only from here, only with the token, gone within seconds, and the client sees the node's own words."""

from __future__ import annotations

import asyncio
import json
import math
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from qaios.client.node import Node
from qaios.client.run_files import node_file_path, read_node_file
from qaios.core.errors import Conflict, Denied, MissionInvalid, NotFound, Unreachable
from qaios.schema.mission import MissionDocument
from qaios.schema.views import DeviceView, MissionReport
from qaios.web.door import DOOR, WebDoor
from tests.bridge.fleet import CATALOGUE
from tests.client.fake_node import CONTENT, SHA256, FakeNode
from tests.web.serving import served

DOCUMENT = MissionDocument.model_validate(
    {"mission": "first", "tasks": {"b": {"do": "drone.home", "needs": ["a"]}, "a": {"do": "drone.scan", "priority": 1}}}
)


def test_a_node_in_this_process_and_its_client_have_one_shape() -> None:
    from qaios.client.http import Client

    nodes: list[Node] = [FakeNode.__new__(FakeNode), Client.__new__(Client)]  # checked by mypy
    assert len(nodes) == 2


async def test_every_method_arrives_and_comes_back(tmp_path: Path) -> None:
    node = FakeNode()
    async with served(node, tmp_path) as client:
        assert await client.status() == (await node.status()).model_copy(update={"url": client.url})
        assert tuple(await client.catalogue()) == CATALOGUE
        assert await client.devices() == await node.devices()
        mission = await client.submit(DOCUMENT, seed=7)
        kinds = [event.kind async for event in client.watch(mission)]
        assert kinds == ["MissionSubmitted", "TasksFinished", "TasksFinished", "MissionEnded"]
        assert node.seeds[mission] == 7
        assert [view.id for view in await client.missions()] == [mission]
        assert await client.mission("first") == await node.mission(mission)
        assert await client.report(mission) == await node.report(mission)
        assert await client.plan(DOCUMENT) == await node.plan(DOCUMENT)
        assert [event.sequence for event in await client.events(after=1, limit=2)] == [2, 3]
        assert await client.artifact(SHA256) == CONTENT
        await client.cancel(mission, "a")
        assert node.cancelled == [(mission, "a")]
        await client.resolve(mission, "a", happened=False)
        assert node.resolved == [(mission, "a", False)]
        assert await client.halt("drone-1") == ["drone-1"]
        await client.release("drone-1")
        assert len(await client.halt()) == len(CATALOGUE)
        await client.shutdown()
        assert node.closed.is_set()


async def test_errors_are_raised_again_as_themselves(tmp_path: Path) -> None:
    async with served(FakeNode(), tmp_path) as client:
        with pytest.raises(NotFound, match="no mission 'x/y'") as missing:
            await client.mission("x/y")
        assert missing.value.hint == "look with: qai mission ls"
        with pytest.raises(NotFound):
            _ = [event async for event in client.watch("nowhere")]
        with pytest.raises(Conflict):
            await client.release("drone-1")
        bad = MissionDocument.model_validate({"mission": "m", "tasks": {"a": {"do": "drone.scna", "needs": ["b"]}}})
        with pytest.raises(MissionInvalid) as invalid:
            await client.submit(bad)
        assert len(invalid.value.faults) == 2


async def test_the_same_key_submits_once(tmp_path: Path) -> None:
    node = FakeNode()
    async with served(node, tmp_path) as client:
        assert await client.submit(DOCUMENT, key="k") == await client.submit(DOCUMENT, key="k")
        assert len(node.documents) == 1
        other = DOCUMENT.model_copy(update={"goal": "another"})
        with pytest.raises(Conflict):
            await client.submit(other, key="k")


async def test_nobody_gets_in_without_the_token_or_by_another_name(tmp_path: Path) -> None:
    async with served(FakeNode(), tmp_path) as client, httpx.AsyncClient(trust_env=False) as stranger:
        token = {"Authorization": f"Bearer {json.loads(node_file_path(tmp_path).read_text())['token']}"}
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer guess"}, 401),
            ({**token, "Host": "evil.example"}, 403),
            (token, 200),
        ):
            answer = await stranger.get(f"{client.url}/v1/status", headers=headers)
            assert answer.status_code == status
        wrong = await stranger.get(f"{client.url}/v1/mission", headers=token)
        assert wrong.status_code == 404
        assert wrong.headers["content-type"] == "application/problem+json"
        assert "/v1/missions" in wrong.json()["hint"]
        unfit = await stranger.post(f"{client.url}/v1/missions", headers=token, json={"mission": 1})
        assert unfit.status_code == 422
        assert "tasks" in unfit.json()["detail"]


async def test_the_node_file_is_private_and_taken_back(tmp_path: Path) -> None:
    async with served(FakeNode(), tmp_path):
        path = node_file_path(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = read_node_file(tmp_path)
        assert found is not None
        assert found.pid == os.getpid()
        assert found.url.startswith("http://127.0.0.1:")
    assert not path.exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "::", "localhost", "example.org"])
def test_any_address_but_loopback_is_refused(host: str, tmp_path: Path) -> None:
    with pytest.raises(Denied, match="no encryption"):
        WebDoor(FakeNode(), tmp_path, host=host)


async def test_it_closes_soon_with_streams_open(tmp_path: Path) -> None:
    node = FakeNode()
    async with served(node, tmp_path) as client:
        streams = [client.watch(), client.watch()]
        await client.submit(DOCUMENT)
        for stream in streams:
            assert (await anext(stream)).kind == "MissionSubmitted"
        began = time.monotonic()
    assert time.monotonic() - began < 5.0
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    assert node.watchers == 0


async def test_a_stream_that_breaks_goes_on_after_the_last_event(tmp_path: Path) -> None:
    node = FakeNode()
    node.let_run.clear()
    async with served(node, tmp_path) as client:
        mission = await client.submit(DOCUMENT)
        stream = client.watch(mission)
        assert (await anext(stream)).sequence == 1
        await client._http._transport.aclose()  # the connection goes, as when a laptop sleeps
        node.let_run.set()
        assert [event.sequence async for event in stream] == [2, 3, 4]


async def test_a_node_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    async with served(FakeNode(), tmp_path) as client:
        url = client.url
    from qaios.client.http import Client

    with pytest.raises(Unreachable, match="no node is running"):
        Client.connect(tmp_path)
    async with Client(url, "token") as late:
        with pytest.raises(Unreachable, match="does not answer"):
            await late.status()
        with pytest.raises(Unreachable):
            _ = [event async for event in late.watch()]


async def test_a_stream_resumes_from_the_header_a_browser_sends(tmp_path: Path) -> None:
    node = FakeNode()
    async with served(node, tmp_path) as client:
        mission = await client.submit(DOCUMENT)
        _ = [event async for event in client.watch(mission)]
        lines: list[str] = []
        headers = {"Last-Event-ID": "3"}
        async with client._http.stream("GET", "/v1/stream", params={"mission": mission}, headers=headers) as answer:
            lines = [line async for line in answer.aiter_lines()]
        assert [line for line in lines if line.startswith("id: ")] == ["id: 4"]
        assert "event: end" in lines


def test_the_entry_point_names_a_door(tmp_path: Path) -> None:
    assert DOOR.name == "web"
    assert DOOR.make(FakeNode.__new__(FakeNode), str(tmp_path)).name == "web"


async def test_a_crash_of_the_node_is_an_answer_too(tmp_path: Path) -> None:
    class Broken(FakeNode):
        async def devices(self) -> Sequence[DeviceView]:
            raise RuntimeError("a bug")

    async with served(Broken(), tmp_path) as client:
        with pytest.raises(Exception, match="RuntimeError: a bug"):
            await client.devices()
        await asyncio.wait_for(client.status(), 10)


async def test_results_that_json_has_no_word_for_still_arrive(tmp_path: Path) -> None:
    class Odd(FakeNode):
        async def report(self, mission: str) -> MissionReport:
            report = await super().report(mission)
            report.tasks[0].result = {"raw": b"\xff\x00", "inf": math.inf, "nan": [math.nan]}
            report.metrics["plume_error"] = math.nan
            return report

    async with served(Odd(), tmp_path) as client:
        report = await client.report(await client.submit(DOCUMENT))
    assert report.tasks[0].result == {"raw": "/wA=", "inf": None, "nan": [None]}
    assert report.metrics["plume_error"] is None


async def test_the_interface_describes_itself(tmp_path: Path) -> None:
    async with served(FakeNode(), tmp_path) as client:
        described = (await client._http.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]["/v1/missions"]) == {"get", "post"}
    assert "with" in described["components"]["schemas"]["TaskDocument"]["properties"]


async def test_every_request_is_in_the_reference(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "http.md").read_text(encoding="utf-8")
    async with served(FakeNode(), tmp_path) as client:
        described = (await client._http.get("/openapi.json")).json()
    served_here = {f"`{verb.upper()} {path}`" for path, verbs in described["paths"].items() for verb in verbs}
    assert {request for request in served_here if request not in page} == set()
    assert len(served_here) == page.count("/v1/") - 1

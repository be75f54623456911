"""Missions written in Python become the documents that files would, and run on whatever node there is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qaios
from qaios import Mission, task
from qaios.client.notebook import Flight, Results
from qaios.client.sync import SyncClient
from qaios.core.errors import Invalid, MissionInvalid, Unreachable
from qaios.schema.mission import MissionDocument, task_specs
from tests.cli.stage import node_in
from tests.client.fake_node import CONTENT, SHA256, FakeNode
from tests.client.sums import double, total


def sums() -> Mission:
    with Mission("sums", goal="add up", deadline="1 min", retries=1) as mission:
        parts = [double(1), double(2)]
        whole = total(parts, extra=4)
        mission.add("send", "hub.upload", needs=["double"], content=whole["sum"], priority=3)
    return mission


def test_calls_become_tasks_and_promises_become_needs() -> None:
    specs = {spec.name: spec for spec in task_specs(sums().document())}
    assert list(specs) == ["double", "double-2", "total", "send"]
    assert specs["double"].action == "compute.call"
    assert specs["double"].arguments["call"] == "tests.client.sums:double"
    assert specs["double"].arguments["path"] == [str(Path(__file__).parents[2])]
    assert specs["double"].priority == 1
    assert specs["total"].arguments["args"] == [["${double}", "${double-2}"]]
    assert specs["total"].needs == ("double", "double-2")
    assert specs["total"].priority == 100
    assert specs["send"].needs == ("double", "total")
    assert specs["send"].arguments == {"content": "${total.sum}"}
    assert all(spec.deadline_s == 60.0 and spec.retries == 1 for spec in specs.values())


def test_outside_a_mission_a_task_is_its_function() -> None:
    assert double(4) == 8
    assert total([1, 2]) == {"sum": 3}
    assert repr(double) == "<task tests.client.sums:double>"


def test_what_no_other_process_can_import_is_refused() -> None:
    with pytest.raises(Invalid, match="cannot be imported"):
        task(lambda x: x)

    def inner() -> None: ...

    with pytest.raises(Invalid, match="cannot be imported"):
        task(inner)
    with pytest.raises(Invalid, match="is not a function"):
        task(len)


def test_a_function_typed_at_the_prompt_is_refused_with_a_way_out() -> None:
    code = "from qaios import task\ndef g(): ...\ntry:\n  task(g)\nexcept Exception as e: print(e, '|', e.hint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "no other process can import it" in done.stdout
    assert "%%writefile" in done.stdout


def test_a_wrong_call_is_refused_where_it_is_made() -> None:
    with Mission("m"), pytest.raises(Invalid, match="too many positional"):
        double(1, 2)  # type: ignore[call-arg]


def test_a_promise_is_not_a_value_yet() -> None:
    with Mission("m") as mission:
        promise = mission.add("scan", "drone.scan")
        assert str(promise["spots"][0]) == "${scan.spots.0}"
        assert str(promise.each["area"]) == "${scan.*.area}"
        with pytest.raises(Invalid, match="not known yet"):
            _ = bool(promise)
        with pytest.raises(Invalid, match="not known yet"):
            list(promise)
        with pytest.raises(Invalid, match="comes first"):
            _ = promise["a"].each
        with pytest.raises(Invalid, match="already"):
            mission.add("scan", "drone.scan")


def test_everything_wrong_with_a_mission_is_said_at_once() -> None:
    mission = Mission("m", deadline="soon")
    mission.add("a", "x.y", priority=-1)
    with pytest.raises(MissionInvalid) as caught:
        mission.document()
    assert len(caught.value.faults) == 2
    circle = Mission("m")
    circle.add("a", "x.y", needs=["b"])
    circle.add("b", "x.y", needs=["a"])
    with pytest.raises(MissionInvalid, match="a → b → a"):
        circle.document()


def test_it_can_be_written_as_a_file_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "sums.yaml"
    path.write_text(sums().to_yaml())
    assert Mission.read(path).document() == sums().document()


async def test_it_runs_on_a_node_of_this_loop() -> None:
    node = FakeNode()
    mission = sums()
    seen: list[str] = []
    results = await mission.run(node, seed=3, on_event=lambda event: seen.append(event.kind))
    assert seen[-1] == "MissionEnded"
    assert isinstance(results, Results)
    assert results.state == "done"
    assert results["total"] == {"value": 3}
    assert list(results) == ["double", "double-2", "send", "total"]
    assert node.seeds == {"sums-1": 3}
    assert mission._repr_html_() == results._repr_html_()


async def test_what_the_fleet_cannot_do_is_said_before_anything_runs() -> None:
    node = FakeNode()
    mission = Mission("m")
    mission.add("a", "drone.scna")
    with pytest.raises(MissionInvalid, match=r"did you mean 'drone\.scan'"):
        await mission.run(node)
    assert node.documents == {}


def test_a_script_blocks_until_the_mission_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch):
        results = sums().run()
    assert results.state == "done"


def test_a_notebook_awaits_or_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cell() -> tuple[Results, Results]:
        awaited = await sums().run()
        flight = sums().run()
        assert isinstance(flight, Flight)
        return awaited, flight.wait()

    with node_in(tmp_path, monkeypatch):
        assert [results.state for results in asyncio.run(cell())] == ["done", "done"]


def test_a_failed_task_has_no_value_but_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch, outcome="failed"):
        results = sums().run()
    assert results.state == "failed"
    assert len(results) == 0
    with pytest.raises(Invalid, match="no heartbeat"):
        _ = results["total"]


def test_pictures_show_every_task_and_escape_what_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mission = Mission("<script>alert(1)</script>")
    mission.add("look", "drone.scan")
    mission.add("return & rest", "drone.home", needs=["look"])
    before = mission._repr_html_()
    with node_in(tmp_path, monkeypatch):
        after = mission.run()._repr_html_()
    for picture in (before, after):
        assert picture.startswith("<svg")
        assert "<script>" not in picture
        assert "return &amp; rest" in picture


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncClient]:
    with node_in(tmp_path, monkeypatch), SyncClient() as connected:
        yield connected


def test_a_program_without_a_loop_has_every_method_too(client: SyncClient) -> None:
    document = MissionDocument.model_validate({"mission": "m", "tasks": {"a": {"do": "drone.scan"}}})
    mission = client.submit(document, seed=1, key="k")
    assert [event.kind for event in client.watch(mission)][-1] == "MissionEnded"
    assert client.status().pid == 4242
    assert client.mission(mission).state == "done"
    assert client.report(mission).metrics
    assert client.plan(document)[0].device == "drone-1"
    assert [view.id for view in client.missions()] == [mission]
    assert len(client.events(after=1)) == 2
    assert client.artifact(SHA256) == CONTENT
    assert client.halt("drone-1") == ["drone-1"]
    client.release("drone-1")
    assert {view.name for view in client.devices()} == {"cpu-0", "drone-1"}
    assert {spec.name for spec in client.catalogue()} >= {"cpu-0", "drone-1"}
    client.cancel(mission)
    client.shutdown()


def test_without_a_node_a_program_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="no node is running"):
        SyncClient(tmp_path)


def test_the_package_offers_its_names_and_loads_them_when_asked() -> None:
    code = (
        "import sys, qaios; assert not {'pydantic', 'httpx', 'numpy'} & set(sys.modules);"
        "qaios.task; qaios.Mission; assert not {'pydantic', 'httpx', 'numpy', 'yaml'} & set(sys.modules), 'heavy';"
        "[getattr(qaios, name) for name in qaios.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
    assert "Mission" in dir(qaios)
    with pytest.raises(AttributeError):
        _ = qaios.Nothing  # type: ignore[attr-defined]

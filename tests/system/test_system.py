"""A whole node in one process: real journal, real compute pool, no door."""

from __future__ import annotations

import asyncio
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from qaios.client.local import catalogue
from qaios.core.errors import Conflict, Invalid, MissionInvalid, NotFound
from qaios.schema.mission import MissionDocument
from qaios.system import boot as composition
from qaios.system.config import PROFILES, Settings
from qaios.system.system import System


def settings(home: Path) -> Settings:
    return Settings.load(home=home, doors=False)


def document(**tasks: object) -> MissionDocument:
    return MissionDocument.model_validate({"mission": "sums", "tasks": tasks})


SUMS = document(
    last={"do": "compute.call", "needs": ["first"], "with": {"call": "math:sqrt", "args": ["${first}"]}},
    first={"do": "compute.call", "with": {"call": "math:factorial", "args": [4]}},
)


async def test_a_mission_runs_and_one_task_uses_the_result_of_another(tmp_path: Path) -> None:
    async with System.boot(settings(tmp_path)) as system:
        mission = await system.submit(SUMS)
        kinds = [event.kind async for event in system.watch(mission)]
        report = await system.report(mission)
    assert report.state == "done"
    assert {task.name: task.result for task in report.tasks} == {"first": 24, "last": 24**0.5}
    assert kinds[0] == "MissionSubmitted"
    assert kinds[-1] == "MissionEnded"


async def test_every_task_says_why_it_is_where_it_is(tmp_path: Path) -> None:
    async with System.boot(settings(tmp_path)) as system:
        mission = await system.submit(SUMS)
        await system.finish(mission)
        report = await system.report(mission)
    last = next(task for task in report.tasks if task.name == "last")
    assert last.why.waited_for == ["task first"]
    assert [candidate.device for candidate in last.why.candidates] == ["cpu"]


async def test_what_was_done_is_there_after_the_next_boot(tmp_path: Path) -> None:
    async with System.boot(settings(tmp_path)) as system:
        mission = await system.submit(SUMS)
        await system.finish(mission)
        before = (await system.report(mission)).model_dump()
        epoch = (await system.status()).epoch
    async with System.boot(settings(tmp_path)) as system:
        assert (await system.report(mission)).model_dump() == before
        assert (await system.status()).epoch == epoch + 1


async def test_the_same_key_is_the_same_mission_and_never_another(tmp_path: Path) -> None:
    async with System.boot(settings(tmp_path)) as system:
        mission = await system.submit(SUMS, key="once")
        assert await system.submit(SUMS, key="once") == mission
        with pytest.raises(Conflict):
            await system.submit(document(other={"do": "compute.call", "with": {"call": "math:sqrt"}}), key="once")
        await system.finish(mission)


async def test_a_failed_task_takes_those_that_need_it_along_and_says_why(tmp_path: Path) -> None:
    broken = document(
        bad={"do": "compute.call", "with": {"call": "math:nothing"}},
        after={"do": "compute.call", "needs": ["bad"], "with": {"call": "math:sqrt", "args": [4]}},
    )
    async with System.boot(settings(tmp_path)) as system:
        mission = await system.submit(broken)
        assert await system.finish(mission) == "failed"
        report = await system.report(mission)
    assert "nothing" in report.reason
    after = next(task for task in report.tasks if task.name == "after")
    assert after.error is not None
    assert "bad" in after.error.message


async def test_a_plan_places_tasks_without_submitting_them(tmp_path: Path) -> None:
    async with System.boot(settings(tmp_path)) as system:
        planned = await system.plan(SUMS)
        assert [task.device for task in planned] == ["cpu", "cpu"]
        assert await system.missions() == []


async def test_a_document_that_the_fleet_cannot_do_is_refused_with_every_fault(tmp_path: Path) -> None:
    wrong = document(
        first={"do": "compute.cal", "with": {"call": "math:sqrt"}},
        last={"do": "compute.call", "needs": ["frist"], "with": {"call": "math:sqrt", "args": ["${first}"]}},
    )
    async with System.boot(settings(tmp_path)) as system:
        for asked in (system.submit, system.plan):
            with pytest.raises(MissionInvalid) as caught:
                await asked(wrong)
            assert {fault.remedy for fault in caught.value.faults} == {
                "did you mean 'compute.call'?",
                "did you mean 'first'?",
                "add 'first' to the needs of 'last'",
            }
        assert await system.missions() == []


async def test_a_second_node_on_the_same_home_is_refused(tmp_path: Path) -> None:
    async with System.boot(settings(tmp_path)):
        with pytest.raises(Conflict):
            async with System.boot(settings(tmp_path)):
                pass


async def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    async with System.boot(settings(tmp_path)) as system:
        for asked in (system.mission("nobody"), system.report("nobody"), system.cancel("nobody")):
            with pytest.raises(NotFound):
                await asked


async def test_a_person_says_what_became_of_an_unknown_outcome_and_the_mission_goes_on(tmp_path: Path) -> None:
    """A program is killed with the node: nobody knows what it had done, so it waits for a person."""
    begun = tmp_path / "begun"
    waiting = document(
        program={"do": "compute.run", "with": {"command": ["sh", "-c", f"touch {begun}; sleep 600"]}},
        after={"do": "compute.call", "needs": ["program"], "with": {"call": "math:sqrt", "args": [16]}},
    )
    async with System.boot(settings(tmp_path)) as system:
        mission = await system.submit(waiting)
        async with asyncio.timeout(30):
            while not begun.exists():  # noqa: ASYNC110 - it is made by another process
                await asyncio.sleep(0.01)
        with pytest.raises(Conflict):
            await system.resolve(mission, "program", happened=True)
        # Closing leaves the attempt where it is, as a crash would.
    async with System.boot(settings(tmp_path)) as system:
        assert await _settled(system, mission) == "unknown"
        await system.resolve(mission, "program", happened=True)
        assert await system.finish(mission) == "done"


async def _settled(system: System, mission: str) -> str:
    while (state := (await system.mission(mission)).state) == "running":
        await asyncio.wait_for(system.shelf.more(len(system.shelf.events)), 30)
    return state


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'[drivers.compute]\nnome = "x"\n', r"\[drivers.compute\]: unknown field 'nome'"),
        (b"[drivers.compute]\nprocesses = 'many'\n", r"\[drivers.compute\]: Expected `int`"),
        (b"\xff\xfe", "config.toml"),
    ],
)
def test_a_mistake_in_the_settings_file_is_said_and_never_passed_over(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(Invalid, match=said) as caught:
        catalogue(home=tmp_path)
    assert caught.value.hint


def test_a_driver_whose_module_breaks_in_any_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_driver.py").write_text("DRIVER = 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    point = EntryPoint("broken", "broken_driver:DRIVER", "qaios.drivers")
    monkeypatch.setattr(composition, "found", lambda _group: dict.fromkeys(PROFILES["local"], point))
    with pytest.raises(Invalid, match=r"driver broken .* cannot be loaded: ZeroDivisionError"):
        composition.drivers(Settings(home=tmp_path, drivers={}))

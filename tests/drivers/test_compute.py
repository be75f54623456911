"""Python functions and command lines on this computer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from qaios.contracts import Site
from qaios.core.errors import DeviceFault, QaiError, Refused
from qaios.core.values import Batch, Done, Effect, Never, Result, Shape, SignalHalt, Task, Unknown
from qaios.drivers.compute import CALL, RUN, Compute, ComputeConfig
from qaios.drivers.ledger import Ledger
from qaios.testing.clock import FakeClock
from qaios.testing.listening import listening
from qaios.testing.memory import FakeAttempt, MemoryArtifacts

HERE = "compute_functions"
FOLDER = str(Path(__file__).parent)


def site(home: Path) -> Site:
    return Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home=str(home))


@pytest.fixture
async def cpu(tmp_path: Path) -> AsyncIterator[Compute]:
    async with Compute(ComputeConfig(processes=2, path=(FOLDER,)), site(tmp_path)) as device:
        yield device


def call(function: str, *args: Any, **more: Any) -> Task:
    arguments = {"call": function if ":" in function else f"{HERE}:{function}", "args": list(args), **more}
    return Task(1, "m", "t", CALL.name, arguments)


def run(*command: str, **more: Any) -> Task:
    return Task(1, "m", "t", RUN.name, {"command": list(command), **more})


def python(script: str, **more: Any) -> Task:
    return run(sys.executable, "-c", script, **more)


def batch(arguments: Sequence[Mapping[str, Any]], form: Mapping[str, Any] | None = None) -> Batch:
    shape = Shape(CALL.name, form if form is not None else arguments[0])
    return Batch(np.arange(len(arguments), dtype=np.int64), "m", shape, tuple(arguments))


def calls(function: str, *rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"call": f"{HERE}:{function}", "args": list(row)} for row in rows]


# ── one call ──


async def test_a_function_is_called_with_positional_and_keyword_arguments(cpu: Compute) -> None:
    assert (await cpu.execute(call("add", 2, kwargs={"b": 3}), FakeAttempt())).value == 5


async def test_a_function_may_return_a_result_of_ours(cpu: Compute) -> None:
    result = await cpu.execute(call("result"), FakeAttempt())
    assert result.value == {"n": 1}
    assert result.provenance == {"method": "exact"}
    assert [spec.name for spec in result.spawn] == ["next"]


async def test_a_function_may_return_a_result_as_a_dict_and_its_artifacts_are_stored_here(cpu: Compute) -> None:
    store = MemoryArtifacts()
    result = await cpu.execute(call("result_as_dict"), FakeAttempt(artifacts=store))
    (artifact,) = result.artifacts
    assert (artifact.name, artifact.media_type) == ("table.csv", "text/csv")
    assert store.get(artifact.sha256) == b"a,b\n"
    assert result.value == 5
    assert result.spawn[0].arguments == {"call": "x:y"}


async def test_a_dict_with_a_key_called_value_is_just_a_value(cpu: Compute) -> None:
    assert (await cpu.execute(call("only_value"), FakeAttempt())).value == {"value": 3}


async def test_a_misshapen_result_is_a_fault_that_names_the_place(cpu: Compute) -> None:
    with pytest.raises(DeviceFault, match="missing required field `name`") as caught:
        await cpu.execute(call("misshapen"), FakeAttempt())
    assert not caught.value.retryable


async def test_numpy_arrays_become_lists(cpu: Compute) -> None:
    assert (await cpu.execute(call("array"), FakeAttempt())).value == {"grid": [[0.0, 0.0], [0.0, 0.0]], "peak": 0.5}


async def test_what_a_generator_yields_is_emitted_and_what_it_returns_is_the_value(cpu: Compute) -> None:
    attempt = FakeAttempt()
    assert (await cpu.execute(call("samples", 2), attempt)).value == 2
    assert attempt.chunks == [{"sample": 0}, {"sample": 1}, {"chunk": "last"}]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (call("no_such_module:f"), "no module 'no_such_module'"),
        (call(f"{HERE}:missing"), "has no 'missing'"),
        (call("sys:version"), "is a str, not a function"),
        (call("add"), "cannot be called like this: missing a required argument: 'a'"),
        (call("add", 1, kwargs={"c": 2}), "unexpected keyword argument 'c'"),
        (Task(1, "m", "t", CALL.name, {}), "needs 'call'"),
        (Task(1, "m", "t", CALL.name, {"call": 3}), "'call' of compute.call is a int; it should be a str"),
        (Task(1, "m", "t", CALL.name, {"call": "a:b", "arg": 3}), "takes no 'arg'; it takes call, args"),
        (Task(1, "m", "t", RUN.name, {"command": "ls -l"}), "'command' of compute.run is a str"),
        (Task(1, "m", "t", RUN.name, {"command": []}), "list of strings"),
        (run("no-such-program-here"), "there is no 'no-such-program-here'"),
        (python("", cwd="/no/such/folder"), "there is no '/no/such/folder'"),
        (Task(1, "m", "t", "quantum.sample", {}), "does not offer quantum.sample"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_cannot_be_done_is_refused_with_what_to_do(cpu: Compute, task: Task, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        await cpu.execute(task, FakeAttempt())
    assert caught.value.hint


async def test_an_exception_may_be_tried_again_and_names_the_function_and_the_line(cpu: Compute) -> None:
    said = r"compute_functions:divide raised ZeroDivisionError.*compute_functions.py:\d+ in divide"
    with pytest.raises(DeviceFault, match=said) as caught:
        await cpu.execute(call("divide", 1, 0), FakeAttempt())
    assert caught.value.retryable


async def test_a_type_error_inside_the_function_is_not_taken_for_wrong_arguments(cpu: Compute) -> None:
    with pytest.raises(DeviceFault, match="TypeError: object of type 'int' has no len"):
        await cpu.execute(call("confuse"), FakeAttempt())


async def test_two_missions_may_each_have_their_own_module_of_one_name(cpu: Compute, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tasks.py").write_text(f"def who():\n    return {name!r}\n")
    for name in ("one", "two", "one"):
        task = call("tasks:who", path=[str(tmp_path / name)])
        assert (await cpu.execute(task, FakeAttempt(f"{name}{id(task)}"))).value == name


async def test_an_edited_module_is_the_one_that_runs(cpu: Compute, tmp_path: Path) -> None:
    module = tmp_path / "edited.py"
    for version in (1, 22):
        module.write_text(f"def version():\n    return {version}\n")
        task = call("edited:version", path=[str(tmp_path)])
        assert (await cpu.execute(task, FakeAttempt(f"v{version}"))).value == version


async def test_a_call_past_its_time_limit_is_killed(cpu: Compute) -> None:
    async with listening() as (address, said):
        with pytest.raises(DeviceFault, match=r"did not end within 0.5 s and was killed"):
            await cpu.execute(call("hang", address, timeout_s=0.5), FakeAttempt())
        if said.done():
            assert not psutil.pid_exists(said.result()[0])


# ── programs ──


async def test_a_program_gives_its_output_and_exit_code(cpu: Compute) -> None:
    script = "import os, sys; print(sys.stdin.read() + os.environ['COLOUR'])"
    result = await cpu.execute(python(script, stdin="is ", env={"COLOUR": "red"}), FakeAttempt())
    assert result.value["stdout"] == "is red\n"
    assert result.value["exit_code"] == 0


async def test_a_program_that_fails_is_a_fault_with_its_last_line(cpu: Compute) -> None:
    with pytest.raises(DeviceFault, match="ended with exit code 3: it broke") as caught:
        await cpu.execute(python("import sys; print('it broke', file=sys.stderr); sys.exit(3)"), FakeAttempt())
    assert not caught.value.retryable


async def test_an_exit_code_is_a_result_when_it_is_not_checked(cpu: Compute) -> None:
    result = await cpu.execute(python("import sys; sys.exit(3)", check=False), FakeAttempt())
    assert result.value["exit_code"] == 3


async def test_output_is_bounded_and_what_is_dropped_is_counted(cpu: Compute) -> None:
    result = await cpu.execute(python("print('x' * 5_000_000 + 'end')"), FakeAttempt())
    assert result.value["stdout"].endswith("end\n")
    assert len(result.value["stdout"]) + result.value["stdout_dropped_bytes"] == 5_000_004


async def test_a_program_does_not_wait_for_input_it_was_not_given(cpu: Compute) -> None:
    assert (await cpu.execute(python("print(len(input.__name__)); open(0).read()"), FakeAttempt())).value["stdout"]


async def test_a_program_runs_once_per_key_also_after_a_restart(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    task = python(f"open({str(mark)!r}, 'a').write('x')")
    for _ in range(2):
        async with Compute(ComputeConfig(processes=1), site(tmp_path)) as device:
            first = await device.execute(task, FakeAttempt("key"))
            again = await device.execute(task, FakeAttempt("key"))
            assert first == again
            assert isinstance(await device.recall("key"), Done)
    assert mark.read_text() == "x"


async def test_a_program_that_had_begun_when_the_kernel_died_is_unknown(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "devices" / "cpu" / "ledger")
    ledger.open()
    ledger.began("key", epoch=1)
    async with Compute(ComputeConfig(processes=1), site(tmp_path)) as device:
        assert isinstance(await device.recall("key"), Unknown)
        assert isinstance(await device.recall("other"), Never)
    assert device.spec.action(RUN.name).effect is Effect.EFFECTFUL  # type: ignore[union-attr]


# ── batches ──


async def test_a_batch_of_thousands_gives_each_task_its_own_result(cpu: Compute) -> None:
    outcome = await cpu.execute_batch(batch(calls("add", *((n, 1) for n in range(4096)))), FakeAttempt())
    assert not outcome.failed.any()
    values = [msgspec.msgpack.decode(blob, type=Result).value for blob in outcome.blobs]
    assert values == list(range(1, 4097))


async def test_a_batch_of_equal_tasks_needs_no_arguments(cpu: Compute) -> None:
    equal = Batch(np.arange(5), "m", Shape(CALL.name, {"call": f"{HERE}:add", "args": [1, 1]}), ())
    outcome = await cpu.execute_batch(equal, FakeAttempt())
    assert [msgspec.msgpack.decode(blob, type=Result).value for blob in outcome.blobs] == [2] * 5


async def test_in_a_batch_a_failure_is_its_own_and_says_why(cpu: Compute) -> None:
    rows = [
        *calls("divide", (1, 1), (1, 0), (1,)),
        *calls("missing", ()),
        *calls("misshapen", ()),
        {"call": 3},
        *calls("array", ()),
    ]
    outcome = await cpu.execute_batch(batch(rows), FakeAttempt())
    assert outcome.failed.tolist() == [False, True, True, True, True, True, False]
    texts = [msgspec.msgpack.decode(blob) for blob in outcome.blobs]
    assert texts[1].startswith(f"{HERE}:divide raised ZeroDivisionError: division by zero")
    assert "missing a required argument: 'b'" in texts[2]["refused"]
    assert "has no 'missing'" in texts[3]["refused"]
    assert "missing required field `name`" in texts[4]
    assert "it should be a str" in texts[5]["refused"]
    assert texts[6] == {"spawn": [], "value": {"grid": [[0.0, 0.0], [0.0, 0.0]], "peak": 0.5}}


async def test_in_a_batch_a_call_that_kills_its_worker_fails_alone(cpu: Compute) -> None:
    outcome = await cpu.execute_batch(batch(calls("die_if", *((n, 5) for n in range(12)))), FakeAttempt())
    assert outcome.failed.tolist() == [n == 5 for n in range(12)]
    assert "was killed by SIGKILL" in msgspec.msgpack.decode(outcome.blobs[5])


async def test_in_a_batch_artifacts_are_stored_generators_end_and_results_keep_their_parts(cpu: Compute) -> None:
    store = MemoryArtifacts()
    rows = [*calls("result_as_dict", ("1",), ("2",)), *calls("samples", (3,)), *calls("result", ())]
    outcome = await cpu.execute_batch(batch(rows), FakeAttempt(artifacts=store))
    results = [msgspec.msgpack.decode(blob, type=Result) for blob in outcome.blobs]
    assert sorted(store.contents.values()) == [b"1", b"2"]
    assert store.get(results[1].artifacts[0].sha256) == b"2"
    assert results[2].value == 3
    assert results[3].spawn[0].name == "next"


async def test_a_time_limit_in_a_batch_stops_only_its_own_call(cpu: Compute) -> None:
    async with listening() as (address, _):
        slow = {"call": f"{HERE}:hang", "args": [address], "timeout_s": 0.5}
        outcome = await cpu.execute_batch(batch([*calls("add", (1,)), slow]), FakeAttempt())
    assert outcome.failed.tolist() == [False, True]


async def test_halt_stops_a_batch_and_does_not_try_its_halves(cpu: Compute, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with listening() as (address, said):
        rows = [*calls("count_in", (str(mark),)), *calls("hang", (address,))]
        work = asyncio.create_task(cpu.execute_batch(batch(rows), FakeAttempt()))
        (pid,) = await said
        await cpu.halt()
        with pytest.raises(DeviceFault, match="was halted"):
            await work
    assert not psutil.pid_exists(pid)
    assert mark.read_text() == "x"


@pytest.mark.parametrize("turns", [1, 3, 6])
async def test_a_halt_before_the_worker_is_ready_stops_the_call_as_well(
    cpu: Compute, tmp_path: Path, turns: int
) -> None:
    mark = tmp_path / "mark"
    work = asyncio.create_task(cpu.execute(call("count_in", str(mark)), FakeAttempt()))
    for _ in range(turns):
        await asyncio.sleep(0)
    await cpu.halt()
    with pytest.raises(DeviceFault, match="was halted while running"):
        await work
    assert not mark.exists()
    assert (await cpu.execute(call("count_in", str(mark)), FakeAttempt("next"))).value == 1


async def test_capacity_batches_run_at_once_in_processes_of_their_own(cpu: Compute) -> None:
    async with listening(2) as (address, said):
        work = [
            asyncio.create_task(cpu.execute_batch(batch(calls("hang", (address,))), FakeAttempt(str(n))))
            for n in range(cpu.spec.capacity)
        ]
        assert len(set(await said)) == 2
        for one in work:
            one.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*work, return_exceptions=True)
        )


# ── what the kernel asks ──


async def test_the_estimate_is_the_mean_duration_seen_here(cpu: Compute) -> None:
    task = python("pass")
    shapes = [Shape(RUN.name, task.arguments), Shape(CALL.name, {"call": "unseen:f"})]
    before = cpu.status()
    guesses = cpu.estimate(shapes, before)
    assert "guess_s" in guesses[0].terms
    await cpu.execute(task, FakeAttempt())
    learnt = cpu.estimate(shapes, cpu.status())
    assert learnt[0].duration_s == cpu.status().value(f"{RUN.name} {sys.executable}") == learnt[0].terms["mean_s"]
    assert cpu.status().version > before.version
    assert cpu.estimate(shapes, before) == guesses


async def test_the_halt_recipes_name_every_living_worker_by_pid_and_start(cpu: Compute) -> None:
    assert cpu.halt_recipes() == []
    await cpu.execute(call("nothing"), FakeAttempt())
    (recipe,) = cpu.halt_recipes()
    assert isinstance(recipe, SignalHalt)
    psutil.Process(recipe.pid).send_signal(recipe.signal)
    assert recipe.started_s > 0.0


async def test_an_attempt_of_an_older_kernel_is_refused(cpu: Compute) -> None:
    await cpu.execute(call("nothing"), FakeAttempt("new", epoch=3))
    with pytest.raises(QaiError, match="epoch 2 is over"):
        await cpu.execute(call("nothing"), FakeAttempt("old", epoch=2))

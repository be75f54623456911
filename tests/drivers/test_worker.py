"""A worker does one call at a time in a child that can be killed, and never leaves one behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from qaios.core.errors import DeviceFault, DeviceLost, Invalid, OutcomeUnknown, Refused
from qaios.drivers.worker import LOG_BYTES_MAX, ChildDied, Worker, started_s
from qaios.testing.listening import listening

FOLDER = str(Path(__file__).parent)
HERE = "worker_functions"
PATIENCE_S = 60.0
ZERO = r"ZeroDivisionError: division by zero \(.*worker_functions.py:\d+ in divide"


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with Worker("test", path=[FOLDER]) as worker:
        yield worker


async def gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""

    def wait() -> None:
        try:
            psutil.Process(pid).wait(timeout=PATIENCE_S)
        except psutil.NoSuchProcess:
            return

    await asyncio.to_thread(wait)


@pytest.mark.parametrize("value", [None, True, 7, 0.5, "grüß", b"\0\xff", [1, [2, 3]], {"a": {"b": [None]}}], ids=repr)
async def test_plain_data_travels_both_ways(worker: Worker, value: Any) -> None:
    assert await worker.call(f"{HERE}:echo", value) == value


async def test_a_hundred_megabytes_travel_both_ways(worker: Worker) -> None:
    content = os.urandom(1024) * (100 * 1024)
    assert await worker.call(f"{HERE}:echo", content) == content


async def test_a_function_that_declares_a_struct_gets_one(worker: Worker) -> None:
    value = await worker.call(f"{HERE}:take_circuit", {"text": "h q;"})
    assert value == {"text": "h q;", "shots": 100, "kind": "Circuit"}
    with pytest.raises(Invalid, match=r"Circuit: .*shots"):
        await worker.call(f"{HERE}:take_circuit", {"text": "h q;", "shots": "many"})


async def test_a_generator_streams_chunks_and_returns_its_value(worker: Worker) -> None:
    chunks: list[Any] = []
    assert await worker.call(f"{HERE}:count_to", 3, chunks.append) == 30
    assert chunks == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_coroutine_function_is_awaited(worker: Worker) -> None:
    assert await worker.call(f"{HERE}:answer_later", 1) == 2


async def test_numpy_numbers_and_arrays_arrive_as_numbers_and_lists(worker: Worker) -> None:
    assert await worker.call(f"{HERE}:give_array") == {"a": [0, 1, 2], "b": 0.5}


async def test_the_same_child_serves_many_calls(worker: Worker) -> None:
    pids = {await worker.call(f"{HERE}:own_pid") for _ in range(5)}
    assert pids == {worker.pid}


async def test_calls_take_turns(worker: Worker) -> None:
    assert await asyncio.gather(*(worker.call(f"{HERE}:echo", n) for n in range(20))) == list(range(20))


@pytest.mark.parametrize(
    ("function", "kind", "text"),
    [
        ("refuse", Refused, "too many qubits"),
        ("find_invalid", Invalid, "shots must be positive"),
        ("lose", DeviceLost, "the cable is out"),
        ("not_know", OutcomeUnknown, "sent, no answer"),
    ],
)
async def test_our_own_errors_arrive_as_themselves(
    worker: Worker, function: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught:
        await worker.call(f"{HERE}:{function}")
    assert type(caught.value) is kind
    assert await worker.call(f"{HERE}:own_pid") == worker.pid


async def test_the_hint_of_an_error_travels(worker: Worker) -> None:
    with pytest.raises(Refused) as caught:
        await worker.call(f"{HERE}:refuse")
    assert caught.value.hint == "Use fewer."


async def test_a_fault_says_whether_again_may_help(worker: Worker) -> None:
    with pytest.raises(DeviceFault) as caught:
        await worker.call(f"{HERE}:fail_for_good")
    assert not caught.value.retryable


async def test_any_other_exception_is_a_fault_that_names_type_message_and_line(worker: Worker) -> None:
    with pytest.raises(DeviceFault, match=ZERO) as caught:
        await worker.call(f"{HERE}:divide", 0)
    assert not caught.value.retryable


async def test_a_function_that_leaves_is_a_fault_and_the_child_stays(worker: Worker) -> None:
    pid = worker.pid
    with pytest.raises(DeviceFault, match="SystemExit: 3"):
        await worker.call(f"{HERE}:leave", 3)
    assert worker.pid == pid


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("echo", "names no function"),
        ("no_such_module_here:f", "no module 'no_such_module_here'"),
        (f"{HERE}:missing", "has no 'missing'"),
        (f"{HERE}:NOT_A_FUNCTION", "is a int, not a function"),
    ],
)
async def test_a_wrong_import_path_is_refused_with_what_to_do(worker: Worker, path: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as caught:
        await worker.call(path)
    assert caught.value.hint


async def test_what_is_not_plain_data_is_refused_on_both_sides(worker: Worker) -> None:
    with pytest.raises(Invalid, match="cannot travel"):
        await worker.call(f"{HERE}:echo", object())
    with pytest.raises(DeviceFault, match="is not plain data"):
        await worker.call(f"{HERE}:give_object")
    assert await worker.call(f"{HERE}:echo", 1) == 1


async def test_a_child_that_dies_is_a_retryable_fault_with_its_last_words(worker: Worker) -> None:
    with pytest.raises(DeviceFault, match="was killed by SIGKILL while calling") as caught:
        await worker.call(f"{HERE}:die")
    assert caught.value.retryable
    assert "the last words" in caught.value.hint


async def test_the_call_after_a_death_starts_a_new_child(worker: Worker) -> None:
    first = worker.pid
    with pytest.raises(DeviceFault):
        await worker.call(f"{HERE}:die")
    assert await worker.call(f"{HERE}:own_pid") == worker.pid != first


async def test_a_child_that_died_between_two_calls_is_replaced(worker: Worker) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    await worker.ended()
    assert await worker.call(f"{HERE}:echo", 1) == 1


async def test_a_cancelled_call_has_killed_the_child_when_it_returns(worker: Worker) -> None:
    async with listening() as (address, said):
        call = asyncio.create_task(worker.call(f"{HERE}:hang", address))
        (pid,) = await said
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not psutil.pid_exists(pid)
    assert await worker.call(f"{HERE}:own_pid") != pid


async def test_a_cancelled_call_takes_the_programs_of_the_child_with_it(worker: Worker) -> None:
    async with listening() as (address, said):
        call = asyncio.create_task(worker.call(f"{HERE}:hang_with_program", address))
        _, program = await said
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await gone(program)


async def test_an_escaped_program_that_holds_our_pipe_delays_nothing(worker: Worker) -> None:
    program = await worker.call(f"{HERE}:leave_program_behind")
    try:
        async with listening() as (address, said), asyncio.timeout(PATIENCE_S):
            call = asyncio.create_task(worker.call(f"{HERE}:hang", address))
            await said
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
    finally:
        os.kill(program, signal.SIGKILL)


async def test_a_call_that_waits_its_turn_is_cancelled_without_harm(worker: Worker) -> None:
    async with listening() as (address, said):
        running = asyncio.create_task(worker.call(f"{HERE}:hang", address))
        (pid,) = await said
        waiting = asyncio.create_task(worker.call(f"{HERE}:echo", 1))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert worker.pid == pid
        worker.kill()
        with pytest.raises(DeviceFault, match="SIGKILL"):
            await running


async def test_a_call_whose_child_is_only_just_starting_is_killed_as_well() -> None:
    worker = Worker("young", path=[FOLDER])
    call = asyncio.create_task(worker.call(f"{HERE}:echo", 1))
    await asyncio.sleep(0)
    worker.kill()
    with pytest.raises(ChildDied):
        await call
    assert await worker.call(f"{HERE}:echo", 2) == 2
    await worker.stop()


async def test_stop_ends_a_busy_child_at_once() -> None:
    worker = Worker("busy", path=[FOLDER])
    async with listening() as (address, said):
        call = asyncio.create_task(worker.call(f"{HERE}:hang", address))
        (pid,) = await said
        await worker.stop()
        assert not psutil.pid_exists(pid)
        with pytest.raises(DeviceFault):
            await call


async def test_a_failing_taker_of_chunks_fails_the_call_and_the_next_one_works(worker: Worker) -> None:
    def choke(_: Any) -> None:
        raise RuntimeError("full")

    with pytest.raises(RuntimeError, match="full"):
        await worker.call(f"{HERE}:count_to", 10_000, choke)
    assert await worker.call(f"{HERE}:echo", 1) == 1


async def test_what_a_function_prints_goes_to_a_bounded_log() -> None:
    heard: list[str] = []
    async with Worker("loud", path=[FOLDER], on_log=heard.append) as worker:
        assert await worker.call(f"{HERE}:chatter", 3 * LOG_BYTES_MAX) == "done"
    assert worker.log.endswith("from a program\n")
    assert len(worker.log) <= LOG_BYTES_MAX
    assert len("".join(heard)) > 3 * LOG_BYTES_MAX


async def test_the_path_given_is_searched_first(tmp_path: Path) -> None:
    (tmp_path / "next_to_the_mission.py").write_text("def f(x):\n    return x * 2\n")
    async with Worker("local", path=[str(tmp_path)]) as worker:
        assert await worker.call("next_to_the_mission:f", 21) == 42


async def test_a_program_started_by_a_function_sees_the_environment_of_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    async with Worker("plain", environment={"COLOUR": "red"}) as worker:
        assert await worker.call("os:getenv", "PYTHONPATH") == "/somewhere"
        assert await worker.call("os:getenv", "COLOUR") == "red"


async def test_a_child_starts_light(worker: Worker) -> None:
    loaded = set(await worker.call(f"{HERE}:modules"))
    assert loaded.isdisjoint({"asyncio", "numpy", "qaios.drivers.worker", "qaios.contracts"})


async def test_the_pid_and_its_start_time_name_the_child(worker: Worker) -> None:
    assert worker.pid is not None
    assert 0.0 < worker.started_s == started_s(worker.pid)
    await worker.stop()
    assert worker.pid is None
    assert worker.started_s == 0.0


async def test_when_the_kernel_is_killed_its_workers_and_their_programs_die() -> None:
    kernel = (
        "import asyncio, sys\nfrom qaios.drivers.worker import Worker\n"
        f"asyncio.run(Worker('orphan', path=[{FOLDER!r}]).call('{HERE}:hang_with_program', sys.argv[1]))"
    )
    async with listening() as (address, said):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", kernel, address)
        child, program = await asyncio.wait_for(said, PATIENCE_S)
        process.kill()
        await process.wait()
        await gone(child)
        await gone(program)


def test_workers_can_be_imported_where_there_is_no_posix() -> None:
    blocked = ("fcntl", "grp", "pwd", "resource", "termios")
    script = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        "import qaios.drivers.worker, qaios.drivers.child, qaios.drivers.calls, qaios.drivers.compute"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr

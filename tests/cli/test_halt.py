"""`qai halt` needs nothing but the table of recipes: not the node, not its journal, not its driver."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qaios.client.finding import is_running, process_started_s
from qaios.client.run_files import halt_file_path, write_node_file, write_private
from qaios.core.values import DatagramHalt, HaltRecipe, SignalHalt
from qaios.engines.halting import HaltTable
from tests.cli.stage import node_in, qai


def table(home: Path, *entries: dict[str, Any]) -> None:
    write_private(halt_file_path(home), json.dumps(entries))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QAIOS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def vehicle() -> Any:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(10)
        yield ear


def test_the_table_the_system_writes_is_the_table_it_reads(home: Path) -> None:
    (home / "run").mkdir()
    recipes: list[HaltRecipe] = [DatagramHalt("127.0.0.1", 14550, b"\xfd\x00"), SignalHalt(42, 15, 7.5)]
    HaltTable(home, lambda: {"drone-1": recipes}).write()
    assert json.loads(halt_file_path(home).read_text()) == [
        {
            "device": "drone-1",
            "recipes": [
                {
                    "type": "datagram",
                    "host": "127.0.0.1",
                    "port": 14550,
                    "payload": base64.b64encode(b"\xfd\x00").decode(),
                },
                {"type": "signal", "pid": 42, "signal": 15, "started_s": 7.5},
            ],
        }
    ]


def test_a_datagram_reaches_the_vehicle_with_no_node_at_all(home: Path, vehicle: socket.socket) -> None:
    payload = base64.b64encode(b"\xfdhold").decode()
    port = vehicle.getsockname()[1]
    table(
        home,
        {"device": "drone-1", "recipes": [{"type": "datagram", "host": "127.0.0.1", "port": port, "payload": payload}]},
        {"device": "drone-2", "recipes": [{"type": "datagram", "host": "127.0.0.1", "port": 9, "payload": "AA=="}]},
    )
    result = qai("halt", "drone-1", "-o", "json")
    assert result.code == 0
    assert [vehicle.recv(100) for _ in range(3)] == [b"\xfdhold"] * 3
    assert [row["device"] for row in json.loads(result.out)] == ["drone-1"]
    assert "1 device(s) halted in" in result.err
    assert "no node is running" in result.err


def test_a_process_is_signalled_but_not_another_one_that_got_its_number(home: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.stdout.write('up'); sys.stdout.flush(); sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read(2)
        started_s = process_started_s(child.pid)
        assert started_s is not None
        assert is_running(child.pid, started_s)
        recipe = {"type": "signal", "pid": child.pid, "signal": int(signal.SIGTERM), "started_s": started_s - 500}
        table(home, {"device": "cpu-0", "recipes": [recipe]})
        assert "had already ended" in qai("halt", "cpu-0").out
        assert child.poll() is None
        table(home, {"device": "cpu-0", "recipes": [{**recipe, "started_s": started_s}]})
        assert qai("halt", "--all").code == 0
        assert child.wait(10) == -signal.SIGTERM
        assert not is_running(child.pid, started_s)


def test_a_stuck_node_does_not_stand_in_the_way(home: Path, vehicle: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts connections and never answers
        write_node_file(home, url=f"http://127.0.0.1:{deaf.getsockname()[1]}", token="t", started=time.time())
        port = vehicle.getsockname()[1]
        recipe = {"type": "datagram", "host": "127.0.0.1", "port": port, "payload": "aG9sZA=="}
        table(home, {"device": "drone-1", "recipes": [recipe]})
        result = qai("halt", "--all")
    assert vehicle.recv(100) == b"hold"
    assert result.code == 0
    assert "does not answer" in result.err


def test_one_bad_recipe_does_not_keep_the_others_from_being_done(home: Path, vehicle: socket.socket) -> None:
    port = vehicle.getsockname()[1]
    good = {"type": "datagram", "host": "127.0.0.1", "port": port, "payload": "aG9sZA=="}
    table(home, {"device": "a", "recipes": [{"type": "prayer"}]}, {"device": "b", "recipes": [good]})
    result = qai("halt", "--all", "-o", "json")
    assert vehicle.recv(100) == b"hold"
    assert "prayer" in json.loads(result.out)[0]["wrong"][0]
    assert result.code == 1


def test_the_node_is_told_and_journals_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch) as node:
        result = qai("halt", "drone-1")
        assert result.code == 0
        assert node.halted == ["drone-1"]
        assert "the node has journaled it" in result.err


WITNESS = """
import sys
sys.path[:0] = sys.argv[1:]
from qaios.cli import halting
carry_out = halting.Halting.carry_out
def witnessed(self, home):
    heavy = {'click', 'dataclasses', 'typing', 'pathlib', 'numpy', 'msgspec', 'pydantic', 'asyncio', 'qaios.system'}
    sys.stderr.write(repr(sorted(heavy & set(sys.modules))))
    carry_out(self, home)
halting.Halting.carry_out = witnessed
from qaios.cli.main import run
run(['halt', '--all'])
"""


def test_devices_are_stopped_before_anything_else_is_even_imported() -> None:
    env = {**os.environ, "QAIOS_HOME": "/nonexistent/qaios"}
    command = [sys.executable, "-I", "-S", "-c", WITNESS, *sys.path[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert done.stderr.startswith("[]")


def test_halting_loads_nothing_of_the_system() -> None:
    code = (
        "import sys; from qaios.cli.main import run; run(['halt', '--all']);"
        "heavy = {'numpy', 'msgspec', 'pydantic', 'httpx', 'yaml', 'rich', 'asyncio', 'qaios.kernel', 'qaios.system'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    env = {**os.environ, "QAIOS_HOME": "/nonexistent/qaios"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["drone-1", "drone-2"], ["drone-1", "--all"], [], ["--help"], ["-o", "json"]])
def test_an_unclear_command_line_halts_nothing(words: list[str], home: Path, vehicle: socket.socket) -> None:
    port = vehicle.getsockname()[1]
    recipe = {"type": "datagram", "host": "127.0.0.1", "port": port, "payload": "aG9sZA=="}
    table(home, {"device": "drone-1", "recipes": [recipe]})
    assert qai("halt", *words).code == (0 if words == ["--help"] else 2)
    vehicle.setblocking(False)
    with pytest.raises(BlockingIOError):
        vehicle.recv(10)

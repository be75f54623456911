"""The command line's manners: cheap help, right exit codes, clean pipes, ^C that detaches."""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qaios.cli.group import cli
from qaios.cli.verbs import MISSION_VERBS, VERBS, help_text
from qaios.core.errors import Conflict, DeadlineMissed, Denied, Invalid, NotFound, QaiError, Unreachable
from qaios.schema.views import MissionReport, TaskView
from tests.cli.stage import node_in, qai
from tests.client.fake_node import FakeNode

MISSIONS = Path(__file__).parent.parent / "scenarios" / "missions"
QAI = [sys.executable, "-m", "qaios.cli"]


def test_help_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); from qaios.cli.main import run; run(['--help']);"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "sys.stderr.write(repr(sorted(new - set(sys.stdlib_module_names))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "['qaios']"
    assert "boot" in done.stdout


def test_a_verb_imports_click_and_what_it_needs_itself() -> None:
    code = (
        "import sys; from qaios.cli.main import run; run(['mission', '--help']); run(['version']);"
        "heavy = {'numpy', 'msgspec', 'pydantic', 'httpx', 'yaml', 'rich', 'fastapi', 'qiskit', 'mujoco'};"
        "sys.stderr.write(repr(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "[]"


def test_the_fast_help_is_the_parsers_help() -> None:
    assert CliRunner().invoke(cli, ["--help"], prog_name="qai").output == help_text()


@pytest.mark.parametrize(("verbs", "prefix"), [(VERBS, ()), (MISSION_VERBS, ("mission",))])
def test_every_verb_exists_and_says_what_the_table_says(
    verbs: dict[str, tuple[str, str]], prefix: tuple[str, ...]
) -> None:
    for name, (target, line) in verbs.items():
        module, attribute = target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        assert command.help.split("\n")[0] == line, name
        shown = CliRunner().invoke(cli, [*prefix, name, "--help"])
        assert shown.exit_code == 0
        assert line.split(";")[0] in " ".join(shown.output.split())


@pytest.mark.parametrize(
    ("error", "code"),
    [(QaiError, 1), (NotFound, 3), (Invalid, 4), (Conflict, 5), (Denied, 6), (Unreachable, 7), (DeadlineMissed, 8)],
)
def test_every_error_has_its_exit_code_and_says_what_to_do(
    error: type[QaiError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error("it is so", hint="do this")

    monkeypatch.setattr("qaios.cli.look.ask", fail)
    result = qai("devices")
    assert result.code == code
    assert result.err == "error: it is so\nhint: do this\n"
    assert result.out == ""


def test_without_a_node_a_verb_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAIOS_HOME", str(tmp_path))
    for verb in (["status"], ["mission", "ls"], ["shutdown"], ["mission", "watch", "m"]):
        assert qai(*verb).code == 7
    assert "qai boot" in qai("status").err


def test_a_node_file_of_a_dead_process_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAIOS_HOME", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        child.wait(30)
    (tmp_path / "run").mkdir()
    stale = {"pid": child.pid, "url": "http://127.0.0.1:1", "token": "t", "started": 0.0, "process_started_s": 1.0}
    (tmp_path / "run" / "node.json").write_text(json.dumps(stale))
    assert qai("status").code == 7
    found = {row["check"]: row for row in json.loads(qai("doctor", "-o", "json").out)}
    assert found["node"]["state"] == "note"
    assert found["node.json"]["state"] == "wrong"  # others could read the token


def test_doctor_ends_with_one_when_something_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAIOS_HOME", str(tmp_path))
    assert "of" not in qai("doctor").err or qai("doctor").code == 1
    (tmp_path / "config.toml").write_text('[drivers.mavlink]\naddress = "udpout://192.168.1.7:14550"\n')
    findings = {row["check"]: row for row in json.loads(qai("doctor", "-o", "json").out)}
    assert findings["device protocols"]["state"] == "note"
    (tmp_path / "config.toml").write_text("not toml")
    result = qai("doctor")
    assert result.code == 1
    assert "checks are wrong" in result.err


def test_logs_are_read_from_the_file_of_a_dead_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAIOS_HOME", str(tmp_path))
    assert qai("logs").code == 3
    (tmp_path / "log").mkdir()
    lines = [
        {"at": 1.0 + n, "level": level, "from": "qaios.x", "text": f"t{n}"} for n, level in enumerate(("info", "error"))
    ]
    (tmp_path / "log" / "node.log").write_text("".join(json.dumps(line) + "\n" for line in lines) + "garbage\n")
    assert qai("logs").out.splitlines() == [
        "1970-01-01 00:00:01Z  info     qaios.x  t0",
        "1970-01-01 00:00:02Z  error    qaios.x  t1",
        "-  info     -  garbage",
    ]
    assert qai("logs", "--level", "error", "-o", "ndjson").out == json.dumps(lines[1]) + "\n"


def test_interrupting_a_watch_detaches_and_the_mission_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch) as node:
        node.let_run.clear()
        command = [*QAI, "mission", "run", str(MISSIONS / "first.yaml")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            assert "submitted" in child.stderr.readline()
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=30)
        assert child.returncode == 130
        assert "detached: mission first goes on" in err
        assert out == ""
        assert node.cancelled == []


def test_a_timeout_is_a_missed_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch) as node:
        node.let_run.clear()
        result = qai("mission", "run", str(MISSIONS / "first.yaml"), "--timeout", "300 ms", "-q")
        assert result.code == 8
        assert "it is not cancelled" in result.err


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch):
        command = f"{sys.executable} -m qaios.cli mission schema | head -c 1"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "{"
    assert done.stderr == ""


def test_the_same_key_is_the_same_mission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch):
        once = qai("mission", "run", str(MISSIONS / "first.yaml"), "--key", "k", "-q", "-o", "name")
        again = qai("mission", "run", str(MISSIONS / "first.yaml"), "--key", "k", "-q", "-o", "name")
    assert once.out == again.out == "first-1\n"


@pytest.mark.parametrize("template", ["compute", "quantum", "drone"])
def test_every_template_is_a_sound_mission(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(qai("mission", "new", template).out)
    with node_in(tmp_path, monkeypatch):
        assert qai("mission", "validate", str(path)).code == 0
    assert qai("mission", "new", "nothing").code == 3


def test_completion_is_printed_for_each_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_QAI_COMPLETE" in qai("completion", shell).out


def test_a_second_node_in_one_home_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch):
        assert qai("boot").code == 5
        assert qai("boot", "--detach").code == 5


def test_nothing_is_coloured_into_a_pipe_or_with_no_color(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with node_in(tmp_path, monkeypatch):
        for verb in (["devices"], ["status"], ["mission", "ls"]):
            assert "\x1b" not in qai(*verb).out
        done = subprocess.run(
            [*QAI, "status"], capture_output=True, timeout=60, env={**os.environ, "NO_COLOR": "1"}, check=True
        )
        assert b"\x1b" not in done.stdout


def test_client_and_command_line_import_without_posix_only_modules() -> None:
    blocked = ["fcntl", "pwd", "grp", "resource", "termios", "pty", "tty", "posix_spawn"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}));"
        "import qaios.client.http, qaios.client.sync, qaios.client.run_files, qaios.cli.main, qaios.cli.group;"
        "from qaios.cli.verbs import VERBS, MISSION_VERBS; import importlib;"
        "[importlib.import_module(t.split(':')[0]) for t, _ in {**VERBS, **MISSION_VERBS}.values()]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_json_has_no_word_for_is_printed_as_json_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def odd(self: FakeNode, mission: str) -> MissionReport:
        tasks = [TaskView(name="a", action="x.y", state="done", priority=1, result={"raw": b"\xff", "nan": math.nan})]
        return MissionReport(mission="m", id="m-1", state="done", simulated=False, submitted=0.0, tasks=tasks)

    monkeypatch.setattr(FakeNode, "report", odd)
    with node_in(tmp_path, monkeypatch):
        report = json.loads(qai("mission", "get", "m", "-o", "json").out, parse_constant=pytest.fail)
    assert report["tasks"][0]["result"] == {"raw": "/w==", "nan": None}


def test_a_profile_the_running_node_does_not_have_is_a_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with node_in(tmp_path, monkeypatch):
        assert qai("mission", "plan", str(MISSIONS / "first.yaml"), "--profile", "local").code == 5
        assert qai("mission", "plan", str(MISSIONS / "first.yaml"), "--profile", "sim").code == 0

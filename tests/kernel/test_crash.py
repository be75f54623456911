"""SIGKILL at random points of a real process, started again until its mission ends.

`QAIOS_CRASHES` is the number of kills (a campaign runs 500), `QAIOS_CRASH_SEED` chooses where. The process
says so whenever something became durable; each kill comes a moment after a random one of these steps, so that kills
land everywhere from recovery to the end however slow the machine is.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

from qaios.core import events as ev
from qaios.core.events import decode_events, encode_events
from qaios.core.machine import Machine
from qaios.core.values import MissionState, TaskState
from qaios.journal.sqlite import SqliteJournal

from .crash_node import ACTS, CALLS, lines

KILLS = int(os.environ.get("QAIOS_CRASHES", "20"))
SEED = int(os.environ.get("QAIOS_CRASH_SEED", "1"))
ROOT = Path(__file__).parents[2]
STEPS = 60  # kills come within so many steps; a mission that nobody disturbs takes some more
LAG_S = 0.004  # the kill comes within this time after such a step


async def lived(home: Path, kill: tuple[int, float] | None) -> bool:
    """One life; True when it came to its end by itself."""
    with (home / "errors").open("a") as errors:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.kernel.crash_node", str(home), cwd=ROOT, stdout=subprocess.PIPE,
            stderr=errors, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        )  # fmt: skip
    try:
        if kill is None:
            await asyncio.wait_for(child.communicate(), 60.0)
        else:
            assert child.stdout is not None
            with suppress(asyncio.IncompleteReadError):  # it came to its end before
                await asyncio.wait_for(child.stdout.readexactly(kill[0]), 60.0)
                await asyncio.sleep(kill[1])
                if child.returncode is None:
                    child.send_signal(signal.SIGKILL)
            await asyncio.wait_for(child.communicate(), 60.0)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    code = child.returncode
    assert code in (0, -signal.SIGKILL), f"it ended by itself with {code}: {(home / 'errors').read_text()[-2000:]}"
    return code == 0


def replayed(home: Path) -> tuple[Machine, list[ev.Event]]:
    journal = SqliteJournal(home / "journal.db", encode=encode_events, decode=decode_events)
    try:
        events = [event for _, block in journal.read() for event in block]
    finally:
        journal.close()
    machine = Machine()
    for event in events:
        machine.apply(event)
    return machine, events


def examine(home: Path) -> None:
    """What must hold when a mission has ended, however often its kernel was killed."""
    machine, events = replayed(home)
    assert len(machine.missions) == 1, "the key makes every submission the same mission"
    record = machine.missions[0]
    assert set(lines(home / "acknowledged")) <= {record.id}, "what was acknowledged is there"
    state = {name: TaskState(machine.state[task]) for name, task in record.names.items()}
    assert len(state) in (ACTS + CALLS, ACTS + CALLS + 1)

    effects = Counter(key.rpartition("/")[2] for key in lines(home / "effects"))
    assert max(effects.values(), default=0) <= 1, f"an effect happened twice: {effects}"
    for name, where in state.items():
        if name.startswith("act") or name == "child":
            assert where in (TaskState.DONE, TaskState.UNKNOWN, TaskState.WAITING), (name, where.name)
            assert where is not TaskState.DONE or effects[name] == 1, f"{name} is done without its effect"
            assert where is not TaskState.WAITING or effects[name] == 0, f"{name} happened before its turn"
    in_doubt = [name for name, where in state.items() if where is TaskState.UNKNOWN]
    assert record.state is (MissionState.STUCK if in_doubt else MissionState.DONE)
    for number in range(CALLS):
        free = not number % 2 or state[f"act-{number % 3}"] is TaskState.DONE
        assert (state[f"call-{number}"] is TaskState.DONE) is free, f"call-{number} may run again, so it is done"

    ends = Counter(
        task for event in events if isinstance(event, ev.TasksFinished) for task in event.ids.tolist()
    )  # fmt: skip
    assert max(ends.values(), default=0) <= 1, "an outcome was recorded twice"
    epochs = [event.epoch for event in events if isinstance(event, ev.KernelBooted)]
    assert epochs == list(range(1, len(epochs) + 1)), "the epoch grows with every boot"


async def test_no_kill_loses_what_was_acknowledged_or_repeats_an_effect(tmp_path: Path) -> None:
    random = Random(SEED)
    kills = missions = 0
    while kills < KILLS:
        home = tmp_path / f"mission-{missions}"
        home.mkdir()
        missions += 1
        while not await lived(home, (random.randrange(1, STEPS), random.uniform(0.0, LAG_S))):
            kills += 1
            if kills >= KILLS:
                assert await lived(home, None)
                break
        examine(home)
    assert kills == KILLS

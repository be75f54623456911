"""The submission ledger answers in all four ways, survives the process, and fences old kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from qaios.core.errors import DeviceFault, Refused
from qaios.core.values import Done, Never, Result, Running, Unknown
from qaios.quantum.ledger import Ledger

ALIVE, DEAD = 100, 200


def process_started_s(pid: int) -> float:
    return 12.5 if pid == ALIVE else 0.0


def ledger(tmp_path: Path, *, outlives: bool = False) -> Ledger:
    return Ledger(tmp_path / "devices" / "qpu" / "runs.sqlite", process_started_s=process_started_s, outlives=outlives)


def submit(book: Ledger, key: str, *, pid: int = ALIVE, epoch: int = 1, started_s: float = 12.5) -> None:
    book.submit(key, epoch=epoch, pid=pid, started_s=started_s, at_s=1000.0)


def test_a_key_never_submitted_never_began_and_asking_makes_no_file(tmp_path: Path) -> None:
    assert ledger(tmp_path).recall("k") == Never()
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_done_also_for_the_next_process(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    submit(book, "k")
    book.finish("k", Result(value={"counts": {"00": 3}}, provenance={"seed": 1}))
    book.close()
    assert ledger(tmp_path).recall("k") == Done(Result(value={"counts": {"00": 3}}, provenance={"seed": 1}))


def test_a_run_in_a_living_process_is_running(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    submit(book, "k", pid=ALIVE)
    assert book.recall("k") == Running(str(ALIVE))


def test_an_emulated_run_whose_process_died_left_nothing_behind(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    submit(book, "k", pid=DEAD)
    assert book.recall("k") == Never()


def test_a_pid_that_was_used_again_is_another_process(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    submit(book, "k", pid=ALIVE, started_s=3.0)
    assert book.recall("k") == Never()


def test_a_run_that_outlives_its_watcher_is_unknown(tmp_path: Path) -> None:
    book = ledger(tmp_path, outlives=True)
    submit(book, "k", pid=DEAD)
    assert isinstance(book.recall("k"), Unknown)


def test_a_stopped_run_may_be_run_again(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    submit(book, "k")
    book.void("k", "cancelled")
    assert book.recall("k") == Never()
    submit(book, "k")
    assert isinstance(book.recall("k"), Running)


def test_an_older_kernel_is_refused(tmp_path: Path) -> None:
    book = ledger(tmp_path)
    submit(book, "a", epoch=5)
    with pytest.raises(Refused, match="epoch 4"):
        submit(book, "b", epoch=4)
    assert book.recall("b") == Never()


def test_a_ledger_that_cannot_be_read_is_unknown_and_takes_no_new_run(tmp_path: Path) -> None:
    path = tmp_path / "devices" / "qpu" / "runs.sqlite"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    book = ledger(tmp_path)
    assert isinstance(book.recall("k"), Unknown)
    with pytest.raises(DeviceFault, match="cannot be written"):
        submit(book, "k")

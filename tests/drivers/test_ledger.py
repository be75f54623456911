"""The ledger answers in all four ways, survives the process, and fences old kernels."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qaios.core.errors import DeviceFault, Refused
from qaios.core.values import Done, Never, Result, Running, Unknown
from qaios.drivers.ledger import KEPT_MAX, Ledger
from qaios.drivers.worker import started_s

US = os.getpid()


def began(ledger: Ledger, key: str, *, epoch: int = 1, since_s: float | None = None) -> None:
    """Begin it in this process, or in one that had this pid before."""
    ledger.began(key, epoch=epoch, pid=US, started_s=started_s(US) if since_s is None else since_s)


def test_a_key_that_was_never_begun_is_never_and_asking_makes_no_file(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "ledger").recall("k") == Never()
    assert not list(tmp_path.iterdir())


def test_what_is_done_is_done_also_for_the_next_process(tmp_path: Path) -> None:
    result = Result(value={"counts": {"00": 3}}, provenance={"seed": 1})
    ledger = Ledger(tmp_path)
    began(ledger, "k")
    ledger.done("k", result)
    assert Ledger(tmp_path).recall("k") == Done(result)


def test_what_a_living_process_carries_out_is_running(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    began(ledger, "k")
    assert ledger.recall("k") == Running(str(US))


@pytest.mark.parametrize(("outlives", "answer"), [(True, Unknown), (False, Never)])
def test_when_its_process_is_gone_it_is_unknown_unless_nothing_outlives_it(
    tmp_path: Path, outlives: bool, answer: type
) -> None:
    ledger = Ledger(tmp_path, outlives=outlives)
    began(ledger, "k", since_s=started_s(US) - 3.0)  # a pid that was used again is another process
    assert isinstance(ledger.recall("k"), answer)


def test_what_failed_is_unknown_with_its_reason_whatever_outlives_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, outlives=False)
    began(ledger, "k")
    ledger.failed("k", "exit code 3")
    assert ledger.recall("k") == Unknown("exit code 3")


def test_what_came_to_nothing_may_be_done_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    began(ledger, "k")
    ledger.void("k", "cancelled")
    assert ledger.recall("k") == Never()
    began(ledger, "k")
    assert isinstance(ledger.recall("k"), Running)


def test_a_kernel_that_was_replaced_begins_nothing_also_after_a_restart(tmp_path: Path) -> None:
    began(Ledger(tmp_path), "a", epoch=5)
    ledger = Ledger(tmp_path)
    with pytest.raises(Refused, match="epoch 4"):
        began(ledger, "b", epoch=4)
    assert ledger.recall("b") == Never()


def test_a_damaged_entry_is_unknown_and_a_ledger_that_cannot_be_written_begins_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    began(ledger, "k")
    ledger.path("k").write_bytes(b"\xc1")
    assert isinstance(ledger.recall("k"), Unknown)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DeviceFault, match="cannot be kept"):
        began(Ledger(tmp_path / "file" / "ledger"), "k")


def test_opening_forgets_the_oldest_and_what_a_crash_left_unfinished(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(KEPT_MAX + 2):
        path = ledger.path(str(number))
        path.write_bytes(b"")
        os.utime(path, (number, number))
    (tmp_path / ".unfinished-1").write_bytes(b"half")
    ledger.open()
    assert len(list(tmp_path.iterdir())) == KEPT_MAX
    assert ledger.find("0") is None
    assert not ledger.path("1").exists()
    assert ledger.path("2").exists()

"""A file is wholly there or not at all, for its owner alone, and one process at a time holds a lock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qaios.core.errors import Conflict
from qaios.security.files import held_alone, write_durably


def test_a_file_is_written_in_one_step_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_durably(path, b"first")
    write_durably(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_without_replacing_the_first_one_stays(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_durably(tmp_path / "file", b"second", replace=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    write_durably(tmp_path / "file", b"old")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            write_durably(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_lock_is_held_by_one_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("99999999 of an earlier life\n")
    refused = pytest.raises(Conflict, match=rf"the thing is in use by process {os.getpid()}$")
    with held_alone(path, what="the thing"), refused, held_alone(path, what="the thing"):
        raise AssertionError("held twice")
    with held_alone(path, what="the thing"):
        assert path.read_text() == f"{os.getpid()}\n"

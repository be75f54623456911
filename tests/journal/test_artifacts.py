"""Artifacts are stored once, wholly, and never believed when they no longer match their address."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qaios.core.errors import JournalBroken, NotFound
from qaios.core.values import Artifact
from qaios.journal.artifacts import FileArtifacts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_put_is_got_by_its_address(folder: Path) -> None:
    artifact = FileArtifacts(folder).put("map.json", b"content", "application/json")
    address = hashlib.sha256(b"content").hexdigest()
    assert artifact == Artifact("map.json", address, 7, "application/json")
    assert FileArtifacts(folder).get(address) == b"content"
    assert files(folder) == [folder / address[:2] / address[2:]]


def test_the_same_content_twice_is_one_file(folder: Path) -> None:
    artifacts = FileArtifacts(folder)
    assert artifacts.put("a", b"x", "text/plain").sha256 == artifacts.put("b", b"x", "text/html").sha256
    assert len(files(folder)) == 1


def test_many_threads_may_store_the_same_content_at_once(folder: Path) -> None:
    artifacts = FileArtifacts(folder)
    with ThreadPoolExecutor(8) as pool:
        stored = set(pool.map(lambda n: artifacts.put("a", bytes([n % 3]) * 1000, "x/y").sha256, range(60)))
    assert len(stored) == len(files(folder)) == 3


def test_a_damaged_file_is_refused_and_healed_by_storing_it_again(folder: Path) -> None:
    artifacts = FileArtifacts(folder)
    address = artifacts.put("a", b"content", "x/y").sha256
    files(folder)[0].write_bytes(b"contEnt")
    with pytest.raises(JournalBroken, match="no longer matches"):
        artifacts.get(address)
    artifacts.put("a", b"content", "x/y")
    assert artifacts.get(address) == b"content"


@pytest.mark.parametrize("address", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64])
def test_an_address_that_is_not_here_or_none_at_all_is_not_found(folder: Path, address: str) -> None:
    with pytest.raises(NotFound):
        FileArtifacts(folder).get(address)


def test_a_disk_that_refuses_leaves_nothing_half_written(folder: Path) -> None:
    artifacts = FileArtifacts(folder)
    address = hashlib.sha256(b"content").hexdigest()
    (folder / address[:2]).write_bytes(b"a file where a folder should be")
    with pytest.raises(JournalBroken, match="cannot be stored"):
        artifacts.put("a", b"content", "x/y")
    assert files(folder) == [folder / address[:2]]

"""The hub is a process of its own: found, ended, and killed at any instant without losing or doubling a report."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaios.drivers.hublink import HubLink, Unanswered, Unsent, Waiting
from qaios.hub.launch import attach, launch, stop
from qaios.security.keys import Identity, Role
from qaios.security.sealing import Envelope, seal
from qaios.security.statements import HubAddress, Receipt, Report

CRASHING = Path(__file__).with_name("crashing_hub.py")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    stop(tmp_path)


@pytest.fixture(scope="module")
def node() -> Identity:
    return Identity.generate(Role.NODE)


def run_server(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qaios.hub.server", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def start_crashing(home: Path, point: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(CRASHING), point, "--home", str(home)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def link_to(address: HubAddress, node: Identity, home: Path) -> HubLink:
    return await HubLink.open(address, node=node, keys=home / "keys", name="hub", timeout_s=30.0)


def sealed(link: HubLink, node: Identity, key: str) -> Envelope:
    report = Report(name=key, mission="m", task="t", content="x" * 5000)
    return seal(report.encode(), key=key, epoch=1, sender=node, recipient=link.identity)


def wait_for_end(pid: int) -> None:
    watch = os.pidfd_open(pid)
    try:
        assert select.select([watch], [], [], 30.0)[0]
    finally:
        os.close(watch)


def kill(address: HubAddress) -> None:
    watch = os.pidfd_open(address.pid)
    signal.pidfd_send_signal(watch, signal.SIGKILL)
    assert select.select([watch], [], [], 30.0)[0]
    os.close(watch)


def test_it_is_launched_once_found_again_and_ended(home: Path) -> None:
    address = launch(home)
    assert address.url.startswith("http://127.0.0.1:")
    assert launch(home) == attach(home) == address
    assert os.getsid(address.pid) != os.getsid(0)  # a signal to our terminal's processes does not reach it
    assert {path.stat().st_mode & 0o077 for path in (home / "hub").rglob("*.json")} == {0}
    assert HubAddress.path(home).stat().st_mode & 0o077 == 0
    second = run_server(home)
    assert second.returncode == 5 and f"process {address.pid}" in second.stderr
    assert stop(address) and not stop(address) and not stop(home)
    assert attach(home) is None and not HubAddress.path(home).exists()
    again = launch(home)
    assert (again.fingerprint, again.token, again.join) == (address.fingerprint, address.token, address.join)
    assert again.pid != address.pid


def test_it_ends_by_itself_when_nobody_asks_it_anything(home: Path) -> None:
    address = launch(home, idle_s=2.0)
    wait_for_end(address.pid)
    assert attach(home) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_it_listens_on_this_machine_only(home: Path, host: str) -> None:
    refused = run_server(home, "--host", host)
    assert refused.returncode == 4 and "plain HTTP" in refused.stderr


def test_what_a_killed_hub_announced_is_not_taken_for_a_hub(home: Path) -> None:
    kill(launch(home))
    assert HubAddress.path(home).exists()
    assert attach(home) is None
    HubAddress.path(home).write_bytes(b"{")
    assert attach(home) is None


@pytest.mark.parametrize(("point", "stored"), [("opened", False), ("written", False), ("committed", True)])
async def test_killed_while_storing_it_has_the_report_wholly_or_not_at_all(
    home: Path, node: Identity, point: str, stored: bool
) -> None:
    with start_crashing(home, point) as crashing:
        assert crashing.stdout and crashing.stdout.readline() == "ready\n"
        address = attach(home)
        assert address
        link = await link_to(address, node, home)
        with pytest.raises(Unanswered):
            await link.send(sealed(link, node, "k/1"))
        await link.close()
    link = await link_to(await asyncio.to_thread(launch, home), node, home)
    found = await link.ask("k/1")
    assert isinstance(found, Receipt) if stored else found is Waiting.NEVER
    receipt = await link.send(sealed(link, node, "k/1"))
    assert not stored or receipt == found
    assert await link.count() == 1
    assert len(list((home / "hub" / "envelopes").iterdir())) == 1
    await link.close()


async def test_kill_9_under_load_loses_and_doubles_nothing_acknowledged(home: Path, node: Identity) -> None:
    chance = random.Random(5)
    keys = iter(range(100_000))
    acknowledged: dict[str, Receipt] = {}
    doubtful: set[str] = set()
    for _ in range(3):
        address = await asyncio.to_thread(launch, home)
        link = await link_to(address, node, home)
        for key in sorted(doubtful):  # what broke off in the last life is sent again, as a retry would
            acknowledged[key] = await link.send(sealed(link, node, key))
        doubtful.clear()
        enough = asyncio.Event()
        left = chance.randrange(3, 25)

        async def send_until_it_dies(link: HubLink, enough: asyncio.Event) -> None:
            nonlocal left
            while True:
                key = f"load/{next(keys)}"
                try:
                    acknowledged[key] = await link.send(sealed(link, node, key))
                except (Unanswered, Unsent):
                    doubtful.add(key)
                    return
                left -= 1
                if left <= 0:
                    enough.set()

        senders = [asyncio.create_task(send_until_it_dies(link, enough)) for _ in range(3)]
        await asyncio.wait_for(enough.wait(), 60)
        kill(address)
        await asyncio.gather(*senders)
        await link.close()
    link = await link_to(await asyncio.to_thread(launch, home), node, home)
    for key, receipt in acknowledged.items():
        assert await link.ask(key) == receipt
    for key in doubtful:
        acknowledged[key] = await link.send(sealed(link, node, key))
    assert await link.count() == len(acknowledged) == len(list((home / "hub" / "envelopes").iterdir()))
    await link.close()

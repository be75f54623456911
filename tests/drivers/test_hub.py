"""An upload arrives once, sealed, with a receipt; and whatever breaks, nobody is told a lie about it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from qaios.contracts import Device, Site
from qaios.core.errors import DeviceFault, Invalid, OutcomeUnknown, Refused
from qaios.core.values import Artifact, Done, Never, Result, Running, Shape, Task, Unknown
from qaios.drivers.hub import DRIVER, HubConfig, HubDevice
from qaios.hub.app import Activity, Hub, make_app
from qaios.hub.store import Store
from qaios.security.files import write_durably
from qaios.security.keys import Identity, Role
from qaios.security.statements import HubAddress, Receipt, Report
from qaios.testing.clock import FakeClock
from qaios.testing.device_kit import DeviceKit
from qaios.testing.memory import FakeAttempt, MemoryArtifacts

TOKEN, JOIN = "token", "join"


class LocalHub:
    """The real hub on a real port of this process, which a test can make stumble."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.hold = asyncio.Event()  # cleared: reports are read and then nothing happens until it is set
        self.hold.set()
        self.held = asyncio.Event()  # a report has come and is being held
        self.hold_from_bytes = 0  # only reports of at least this size are held
        self.deaf_to_answers = False  # reports are stored, and the connection is cut instead of answering
        self.fails_from_bytes = 2**40  # reports of at least this size are answered with an error
        self.slow_to_list = False

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[LocalHub]:
        identity = Identity.open(self.home / "hub" / "keys", Role.HUB)
        with contextlib.ExitStack() as opened:
            executor = opened.enter_context(ThreadPoolExecutor(1))
            self.store = opened.enter_context(
                contextlib.closing(Store(self.home / "hub", identity, now_s=lambda: 1.0e9))
            )
            hub = Hub(self.store, identity.public, join=JOIN, executor=executor)
            listening = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP))
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            self.address = HubAddress(
                0, 0.0, f"http://127.0.0.1:{listening.getsockname()[1]}", TOKEN, JOIN, identity.public.fingerprint
            )
            self.announce(self.address)
            app = self._stumbling(make_app(hub, token=TOKEN, activity=Activity()))
            config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve([listening]))  # without taking the test's signals
            try:
                yield self
            finally:
                self.hold.set()
                server.should_exit = server.force_exit = True
                await serving

    def announce(self, address: HubAddress) -> None:
        write_durably(HubAddress.path(self.home), msgspec.json.encode(address))

    def _stumbling(self, app: ASGIApp) -> ASGIApp:
        async def stumbling(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] != "/v1/reports":
                await app(scope, receive, send)
            elif scope["method"] == "GET":
                await (self._hold_until_it_hangs_up(receive) if self.slow_to_list else app(scope, receive, send))
            elif self.deaf_to_answers:
                await app(scope, receive, _nowhere)
                raise ConnectionResetError("the line is cut")
            elif not self.hold.is_set() and _length(scope) >= self.hold_from_bytes:
                self.held.set()
                await self._hold_until_it_hangs_up(receive)
            elif _length(scope) >= self.fails_from_bytes:
                await Response("the hub is out of order", 500)(scope, receive, send)
            else:
                await app(scope, receive, send)

        return stumbling

    async def _hold_until_it_hangs_up(self, receive: Receive) -> None:
        hangs_up = asyncio.create_task(_end_of(receive))
        freed = asyncio.create_task(self.hold.wait() if not self.hold.is_set() else asyncio.Event().wait())
        await asyncio.wait((hangs_up, freed), return_when=asyncio.FIRST_COMPLETED)
        for task in (hangs_up, freed):
            task.cancel()


async def _end_of(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _length(scope: Scope) -> int:
    return int(dict(scope["headers"]).get(b"content-length", b"0"))


async def _nowhere(_message: Any) -> None:
    """Where answers go that nobody hears."""


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[LocalHub]:
    async with LocalHub(tmp_path).serve() as serving:
        yield serving


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(clock=FakeClock(), artifacts=MemoryArtifacts(), home=str(tmp_path))


def upload(arguments: Mapping[str, Any] | None = None) -> Task:
    return Task(1, "m-1", "upload", "hub.upload", arguments or {"name": "air.json", "content": {"pm25": [1.5, 2.0]}})


async def test_a_report_arrives_sealed_and_its_receipt_is_verified(hub: LocalHub, site: Site) -> None:
    attempt = FakeAttempt("n/m-1/1")
    picture = attempt.artifacts.put("map.png", b"picture", "image/png")
    arguments = {"name": "air.json", "content": {"b": 1, "a": 2}, "artifacts": [[picture]], "goal": "g", "notes": "n"}
    async with HubDevice(HubConfig(), site) as device:
        result = await device.execute(upload(arguments), attempt)
    report = Report.decode(hub.store.content("n/m-1/1"))
    assert (report.content, report.goal, report.notes, report.mission) == ({"a": 2, "b": 1}, "g", "n", "m-1")
    assert [(item.name, item.content) for item in report.attachments] == [("map.png", b"picture")]
    assert attempt.artifacts.get(result.value["sha256"]) == report.encode()
    receipt = msgspec.convert(result.value["receipt"], Receipt)
    assert receipt == hub.store.receipt("n/m-1/1")
    assert result.artifacts == (
        Artifact("air.json", receipt.sha256, receipt.size_bytes, result.artifacts[0].media_type),
    )
    (envelope,) = (hub.home / "hub" / "envelopes").iterdir()
    assert b"picture" not in envelope.read_bytes()


async def test_a_report_without_a_name_is_called_as_its_task(hub: LocalHub, site: Site) -> None:
    async with HubDevice(HubConfig(), site) as device:
        result = await device.execute(upload({"content": 1}), FakeAttempt("k/1"))
    assert Report.decode(hub.store.content("k/1")).name == result.artifacts[0].name == "upload"


async def test_artifacts_come_as_results_hold_them(hub: LocalHub, site: Site) -> None:
    attempt = FakeAttempt()
    picture = attempt.artifacts.put("map.png", b"picture", "image/png")
    plain = {key: value for key, value in msgspec.to_builtins(picture).items() if key != "type"}
    for number, given in enumerate(
        (picture, [picture], plain, msgspec.to_builtins([picture]), {"sha256": picture.sha256})
    ):
        key = f"n/m/{number}"
        async with HubDevice(HubConfig(), site) as device:
            await device.execute(
                upload({"name": "r", "artifacts": given}), FakeAttempt(key, artifacts=attempt.artifacts)
            )
        assert [item.content for item in Report.decode(hub.store.content(key)).attachments] == [b"picture"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "something to upload"),
        ({"name": 7, "content": 1}, "`name`"),
        ({"name": "r"}, "something to upload"),
        ({"name": "r", "artifacts": []}, "something to upload"),
        ({"name": "r", "content": 1, "priority": 1}, "no argument 'priority'"),
        ({"name": "r", "content": 1, "notes": 7}, "`notes`"),
        ({"name": "r", "content": object()}, "not plain data"),
        ({"name": "r", "artifacts": ["x"]}, "no artifact"),
        ({"name": "r", "artifacts": {"sha256": "0" * 64}}, "not to be had"),
    ],
)
async def test_wrong_arguments_are_refused_and_nothing_is_sent(
    hub: LocalHub, site: Site, arguments: Mapping[str, Any], why: str
) -> None:
    async with HubDevice(HubConfig(), site) as device:
        with pytest.raises(Refused, match=why):
            await device.execute(Task(1, "m", "t", "hub.upload", arguments), FakeAttempt())
    assert hub.store.count() == 0


async def test_too_large_a_report_is_refused(hub: LocalHub, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qaios.drivers.hub.CONTENT_MAX_BYTES", 1000)
    async with HubDevice(HubConfig(), site) as device:
        with pytest.raises(Refused, match="at most 1000"):
            await device.execute(upload({"name": "r", "content": "x" * 1000}), FakeAttempt())


async def test_the_same_key_is_one_report_in_every_life_of_the_kernel(hub: LocalHub, site: Site) -> None:
    results = []
    for _ in range(3):
        async with HubDevice(HubConfig(), site) as device:
            results += await asyncio.gather(*(device.execute(upload(), FakeAttempt("k/1")) for _ in range(3)))
            results.append(await device.execute(upload(), FakeAttempt("k/1")))
            recalled = await device.recall("k/1")
            assert isinstance(recalled, Done)
            results.append(recalled.result)
    assert all(result == results[0] for result in results)
    assert hub.store.count() == 1


async def test_a_key_that_stands_for_other_content_is_a_fault_that_no_retry_mends(hub: LocalHub, site: Site) -> None:
    async with HubDevice(HubConfig(), site) as device:
        await device.execute(upload(), FakeAttempt("k/1"))
    async with HubDevice(HubConfig(), site) as device:
        with pytest.raises(DeviceFault, match="another report under key") as fault:
            await device.execute(upload({"name": "air.json", "content": "other"}), FakeAttempt("k/1"))
    assert not fault.value.retryable


async def test_an_answer_that_is_lost_is_found_out_by_asking(hub: LocalHub, site: Site) -> None:
    hub.deaf_to_answers = True
    async with HubDevice(HubConfig(), site) as device:
        result = await device.execute(upload(), FakeAttempt("k/1"))
    assert result.value["key"] == "k/1"
    assert hub.store.count() == 1


async def test_a_broken_upload_that_never_arrived_may_be_tried_again(hub: LocalHub, site: Site) -> None:
    hub.hold.clear()
    async with HubDevice(HubConfig(timeout_s=0.3), site) as device:
        with pytest.raises(DeviceFault, match="has not stored it") as fault:
            await device.execute(upload(), FakeAttempt("k/1"))
        assert fault.value.retryable
        assert await device.recall("k/1") == Never()


async def test_when_the_hub_cannot_be_asked_the_outcome_is_unknown(hub: LocalHub, site: Site) -> None:
    hub.hold.clear()
    async with HubDevice(HubConfig(timeout_s=0.3), site) as device:
        sending = asyncio.create_task(device.execute(upload(), FakeAttempt("k/1")))
        await asyncio.wait_for(hub.held.wait(), 30)
        nowhere = msgspec.structs.replace(hub.address, url=unused_url())
        hub.announce(nowhere)
        with pytest.raises(OutcomeUnknown, match="cannot be asked"):
            await sending
        recalled = await device.recall("k/1")
        assert isinstance(recalled, Unknown) and "cannot be reached" in recalled.reason


def unused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_hub_that_was_restarted_elsewhere_is_found_again(hub: LocalHub, site: Site) -> None:
    async with HubDevice(HubConfig(), site) as device:
        hub.announce(msgspec.structs.replace(hub.address, url=unused_url()))
        with pytest.raises(DeviceFault, match="cannot be reached") as fault:
            await device.execute(upload(), FakeAttempt("k/1"))
        assert fault.value.retryable and fault.value.hint
        hub.announce(hub.address)
        await device.execute(upload(), FakeAttempt("k/1"))


async def test_cancelling_ends_the_upload_and_the_device_goes_on(hub: LocalHub, site: Site) -> None:
    hub.hold.clear()
    async with HubDevice(HubConfig(), site) as device:
        sending = asyncio.create_task(device.execute(upload(), FakeAttempt("k/1")))
        await asyncio.wait_for(hub.held.wait(), 30)
        assert isinstance(await device.recall("k/1"), Running)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await device.recall("k/1") == Never()
        hub.hold.set()
        await device.execute(upload(), FakeAttempt("k/2"))


async def test_halting_cuts_the_connection_and_says_what_became_of_it(hub: LocalHub, site: Site) -> None:
    device = HubDevice(HubConfig(), site)
    await device.halt()
    hub.hold.clear()
    async with device:
        sending = asyncio.create_task(device.execute(upload(), FakeAttempt("k/1")))
        await asyncio.wait_for(hub.held.wait(), 30)
        await device.halt()
        with pytest.raises(DeviceFault, match="has not stored it"):
            await sending
    await device.halt()
    assert device.halt_recipes() == ()


async def test_a_kernel_of_an_older_epoch_is_refused_here_and_by_the_hub(hub: LocalHub, site: Site) -> None:
    async with HubDevice(HubConfig(), site) as old, HubDevice(HubConfig(), site) as new:
        await new.execute(upload(), FakeAttempt("k/1", epoch=7))
        with pytest.raises(Refused, match="epoch 6 is over"):
            await new.execute(upload(), FakeAttempt("k/2", epoch=6))
        with pytest.raises(DeviceFault, match="epoch 6"):
            await old.execute(upload(), FakeAttempt("k/3", epoch=6))
    assert hub.store.count() == 1


async def test_no_hub_is_a_fault_that_says_what_to_do(site: Site) -> None:
    device = HubDevice(HubConfig(), site)
    with pytest.raises(DeviceFault, match="no hub is known") as fault:
        await device.__aenter__()
    assert "qaios.hub.server" in fault.value.hint and fault.value.retryable
    with pytest.raises(DeviceFault, match="not open"):
        await device.execute(upload(), FakeAttempt())
    assert isinstance(await device.recall("k"), Unknown)


async def test_a_hub_with_another_identity_is_not_talked_to(hub: LocalHub, site: Site) -> None:
    async with HubDevice(HubConfig(), site):
        pass
    known = hub.home / "keys" / "pinned-hub.json"
    known.write_bytes(msgspec.json.encode(Identity.generate(Role.HUB).public))
    with pytest.raises(DeviceFault, match="when first met") as fault:
        await HubDevice(HubConfig(), site).__aenter__()
    assert not fault.value.retryable and "pinned-hub.json" in fault.value.hint
    hub.announce(msgspec.structs.replace(hub.address, fingerprint="0" * 64))
    with pytest.raises(DeviceFault, match="announced"):
        await HubDevice(HubConfig(name="other"), site).__aenter__()


async def test_a_configured_hub_is_used_and_must_be_on_this_machine(hub: LocalHub, site: Site) -> None:
    HubAddress.path(hub.home).unlink()
    async with HubDevice(HubConfig(url=hub.address.url, token=TOKEN, join=JOIN), site) as device:
        await device.execute(upload(), FakeAttempt("k/1"))
    with pytest.raises(DeviceFault, match="token is missing or wrong"):
        await HubDevice(HubConfig(url=hub.address.url, token="wrong"), site).__aenter__()
    for url in ("http://10.0.0.1:80", "https://127.0.0.1", "http://localhost.example.org"):
        with pytest.raises(Invalid, match="loopback"):
            HubDevice(HubConfig(url=url), site)


async def test_a_full_disk_at_the_hub_may_be_tried_again(
    hub: LocalHub, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async with HubDevice(HubConfig(), site) as device:
        with monkeypatch.context() as broken:
            broken.setattr(hub.store, "_insert", full)
            with pytest.raises(DeviceFault, match="disk is full") as fault:
                await device.execute(upload(), FakeAttempt("k/1"))
        assert fault.value.retryable
        await device.execute(upload(), FakeAttempt("k/1"))
    assert hub.store.count() == 1


async def test_it_can_be_read_and_its_estimate_follows_what_was_seen(hub: LocalHub, site: Site) -> None:
    shape = Shape("hub.upload", {"name": "r", "artifacts": [{"sha256": "x", "size_bytes": 10 * 1024 * 1024}]})
    async with HubDevice(HubConfig(), site) as device:
        before = device.status()
        (guess,) = device.estimate([shape], before)
        assert guess.terms["size_bytes"] > 10 * 1024 * 1024 and guess.duration_s > 0
        await device.execute(upload(), FakeAttempt("k/1"))
        readings = {reading.name: reading.value for reading in await device.observe()}
        assert readings["reachable"] == 1.0 and readings["reports"] == 1.0 and readings["round_trip"] > 0
        assert device.status().version > before.version
        assert device.estimate([shape], before) == [guess] != device.estimate([shape], device.status())
        assert device.estimate([Shape("hub.fly", {})], before)[0].refusal
        hub.announce(msgspec.structs.replace(hub.address, url=unused_url()))
        assert [reading.value for reading in await device.observe()] == [0.0]


def test_the_driver_makes_one_device(site: Site) -> None:
    (device,) = DRIVER.devices(HubConfig(), site)
    assert (device.spec.name, device.spec.kind, device.spec.simulated) == ("hub", "hub", False)
    assert isinstance(Result(), Result)


class TestHubDevice(DeviceKit):
    """It keeps every promise of `Device`."""

    lacks: ClassVar[Mapping[str, str]] = {
        "unknown_key": "a hub that can be reached knows every key; of one that cannot, see the tests above",
        "batch": "it takes one report at a time",
    }

    def make(self, site: Site) -> Device:
        return HubDevice(HubConfig(), site)

    def unopenable(self, site: Site) -> Device:
        return HubDevice(HubConfig(name="away", url=unused_url(), token=TOKEN), site)

    @contextlib.asynccontextmanager
    async def surroundings(self, site: Site) -> AsyncIterator[None]:
        self.hub = LocalHub(Path(site.home))
        self.hub.hold.clear()
        self.hub.hold_from_bytes, self.hub.fails_from_bytes = 60_000, 30_000
        async with self.hub.serve():
            yield

    def task(self) -> Task:
        return upload()

    def slow_task(self) -> Task:
        return upload({"name": "slow", "content": "x" * 60_000})

    def faulty_task(self) -> Task:
        return upload({"name": "faulty", "content": "x" * 30_000})

    def bad_tasks(self) -> Sequence[Task]:
        return [*super().bad_tasks(), upload({"name": "r"}), upload({"name": "r", "content": 1, "x": 1})]

    def effects(self, device: Device) -> int:
        return self.hub.store.count()

    def slow_observe(self, device: Device) -> None:
        self.hub.slow_to_list = True

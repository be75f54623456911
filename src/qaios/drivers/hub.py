"""The hub as a device: what the node uploads, sealed so that only the hub can read it, with a receipt to show for it.

    hub.upload   {content: {…}, artifacts: [...], name: 'air.json', goal: '…', notes: '…'}      at most once

From the arguments becomes a `Report`: always the same bytes for the same task. It is stored as an artifact of this
node, sealed for the hub (HPKE X-Wing), signed (ML-DSA-65) and sent under the attempt's key; the result is the hub's
signed receipt, verified. Nothing here is simulated, though the hub may run on the same machine.

*When the connection breaks* the hub itself is asked for the key before anything is said: it has it (done), it never
got it (may be tried again), or it cannot be asked (the outcome is unknown, nobody uploads again by himself). `recall`
asks the same after a crash. A kernel of an older epoch is refused here and by the hub, which sees the signed epoch.

*Halting* cuts the connection. There are no recipes for other processes: an upload moves nothing and harms nobody,
and the death of the kernel closes its connection anyway.

`run/hub.json` says where the hub is, and is read anew for each task, so a hub that was restarted is found again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from qaios.contracts import Artifacts, Attempt, Device, Driver, Site
from qaios.core.errors import DeviceFault, JournalBroken, NotFound, OutcomeUnknown, QaiError, Refused
from qaios.core.values import (
    ActionSpec,
    Artifact,
    DeviceSpec,
    DeviceStatus,
    Done,
    Effect,
    Estimate,
    HaltRecipe,
    Never,
    Reading,
    Recall,
    Result,
    Running,
    Shape,
    Task,
    Unit,
    Unknown,
)
from qaios.drivers.hublink import HubLink, Unanswered, Waiting, check_loopback
from qaios.drivers.once import Once
from qaios.security.keys import MALFORMED, Identity, Role
from qaios.security.sealing import CONTENT_MAX_BYTES, SUITE, seal
from qaios.security.statements import REPORT_MEDIA_TYPE, Attachment, HubAddress, Receipt, Report

UPLOAD = ActionSpec(
    "hub.upload",
    "Upload a report to the hub, sealed and signed.",
    effect=Effect.EFFECTFUL,
    parameters={
        "name": "what the report is called; the task's name when left out",
        "content": "plain data to upload",
        "artifacts": "artifacts to upload with it: one, or a list, as results hold them",
        "goal": "what it is for, a sentence",
        "notes": "anything a reader should know, text",
    },
)

SETTLE_S = 10.0  # how long the hub is given to finish what it was just receiving, in real time
MEBIBYTE = 1024.0 * 1024.0
ROUND_TRIP, TRANSFER = "round_trip", "transfer_per_mebibyte"
UNSEEN = {ROUND_TRIP: 0.05, TRANSFER: 0.05}  # seconds; a guess until the first upload
MOVED = 0.2  # a measured time is published when it differs by so much of itself


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """All empty: the hub of this home, as `run/hub.json` says. Else where it is, and what it must show."""

    name: str = "hub"
    url: str = ""  # http:// to a loopback address
    token: str = ""  # the bearer token, from hub/hub.json where the hub runs
    join: str = ""  # the join token, from the same place; empty once this node is enrolled
    fingerprint: str = ""  # of the hub's identity
    timeout_s: float = 60.0  # without a byte from the hub, in real time


class HubDevice:
    """Implements `Device`."""

    def __init__(self, config: HubConfig, site: Site) -> None:
        """Raises `Invalid` when the configured address is none this node may talk to."""
        if config.url:
            check_loopback(config.url)
        self._spec = DeviceSpec(
            name=config.name,
            driver="hub",
            kind="hub",
            actions=(UPLOAD,),
            capacity=2,
            summary=f"The hub this node reports to ({SUITE})",
        )
        self._config = config
        self._site = site
        self._keys = Path(site.home) / "keys"
        self._once = Once()
        self._speed = _Speed()
        self._node: Identity | None = None
        self._link: HubLink | None = None
        self._linking = asyncio.Lock()
        self._sending: dict[str, asyncio.Task[Any]] = {}
        self._halting: set[str] = set()

    @property
    def spec(self) -> DeviceSpec:
        return self._spec

    async def __aenter__(self) -> Self:
        try:
            self._node = await asyncio.to_thread(Identity.open, self._keys, Role.NODE)
        except (QaiError, OSError) as error:
            raise DeviceFault(f"this node has no usable identity: {error}", retryable=False) from error
        try:
            await self._linked()
        except BaseException:
            self._node = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._node = None
        await self._once.close()
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    def status(self) -> DeviceStatus:
        return self._speed.status

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        """Duration in seconds, from the size of what is written in the task and the speed last seen."""
        return [_estimate(shape, status) for shape in shapes]

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        if fault := _fault(task.action, task.arguments):
            raise Refused(fault, hint="See `qai devices -o json` for the arguments of each action.")
        if self._node is None:
            raise DeviceFault(f"{self._spec.name} is not open")
        self._once.admit(attempt.epoch)
        node = self._node
        return await self._once.run(attempt.key, lambda: self._upload(task, attempt, node))

    async def halt(self) -> None:
        """Cut the connection of what is being sent. What the hub had already stored stays stored."""
        for key, sending in self._sending.items():
            self._halting.add(key)
            sending.cancel()
        await asyncio.sleep(0)

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        return ()

    async def observe(self) -> Sequence[Reading]:
        """Whether the hub answers, how fast, and how many reports it has."""
        now_s, started_s = self._site.clock.now_s(), time.monotonic()
        try:
            link = await self._linked()
            count = await link.count()
        except QaiError:
            return [Reading("reachable", 0.0, Unit.ONE, now_s)]
        self._speed.saw(ROUND_TRIP, time.monotonic() - started_s, now_s)
        return [
            Reading("reachable", 1.0, Unit.ONE, now_s),
            Reading("reports", float(count), Unit.ONE, now_s),
            *self.status().readings,
        ]

    async def recall(self, key: str) -> Recall:
        here = self._once.recall(key)
        if not isinstance(here, Never):
            return here
        try:
            answer = await (await self._linked()).ask(key)
        except QaiError as error:
            return Unknown(f"the hub cannot be asked: {error}")
        if isinstance(answer, Receipt):
            return Done(_result(answer))
        return Running(key) if answer is Waiting.RECEIVING else Never()

    # ── one upload ──

    async def _upload(self, task: Task, attempt: Attempt, node: Identity) -> Result:
        key = attempt.key
        self._sending[key] = _this_task()
        try:
            return await self._send(task, attempt, node)
        except asyncio.CancelledError:
            ended = await self._settled(key, "it was stopped")
            if key not in self._halting:
                raise
            return _result(_stored(ended))
        finally:
            del self._sending[key]
            self._halting.discard(key)

    async def _send(self, task: Task, attempt: Attempt, node: Identity) -> Result:
        attempt.progress(0.0, "packing the report")
        content = await asyncio.to_thread(_packed, task, attempt.artifacts)
        link = await self._linked()
        known = await link.ask(attempt.key, wait_s=SETTLE_S)
        if isinstance(known, Receipt):  # an earlier attempt got through without our hearing of it
            return _result(_matching(known, content))
        envelope = await asyncio.to_thread(
            seal, content, key=attempt.key, epoch=attempt.epoch, sender=node, recipient=link.identity
        )
        attempt.progress(0.1, f"sending {len(content)} bytes")
        started_s = time.monotonic()
        try:
            receipt = await link.send(envelope)
        except Unanswered as error:
            receipt = _stored(await self._settled(attempt.key, str(error)))
        self._speed.saw(TRANSFER, (time.monotonic() - started_s) / max(len(content) / MEBIBYTE, 1.0),
                        self._site.clock.now_s())  # fmt: skip
        attempt.progress(1.0, "the hub has it")
        return _result(_matching(receipt, content))

    async def _settled(self, key: str, why: str) -> Receipt | DeviceFault:
        """What became of a key that was being sent: the hub's receipt, or the fault to raise. Asks the hub."""
        try:
            answer = await (await self._linked()).ask(key, wait_s=SETTLE_S)
        except QaiError as error:
            return OutcomeUnknown(
                f"the upload broke off ({why}) and the hub cannot be asked whether it has it: {error}",
                hint="When the hub is back it can be asked again; the same key is never stored twice.",
            )
        if isinstance(answer, Receipt):
            return answer
        if answer is Waiting.RECEIVING:
            return OutcomeUnknown(f"the upload broke off ({why}) and the hub is still receiving it")
        return DeviceFault(f"the hub has not stored it: {why}", hint="Nothing was stored; trying again is safe.")

    async def _linked(self) -> HubLink:
        """The link to where the hub is now. Raises `DeviceFault` when there is none."""
        async with self._linking:
            if self._node is None and self._link is not None:
                return self._link  # closing: what is under way may still ask
            if self._node is None:
                raise DeviceFault(f"{self._spec.name} is not open")
            address = await asyncio.to_thread(self._address)
            if self._link is not None and self._link.address == address:
                return self._link
            fresh = await HubLink.open(
                address, node=self._node, keys=self._keys, name=self._spec.name, timeout_s=self._config.timeout_s
            )
            if self._link is not None:
                await self._link.close()
            self._link = fresh
            return fresh

    def _address(self) -> HubAddress:
        config = self._config
        if config.url:
            return HubAddress(0, 0.0, config.url, config.token, config.join, config.fingerprint)
        path = HubAddress.path(Path(self._site.home))
        try:
            return msgspec.json.decode(path.read_bytes(), type=HubAddress)
        except (OSError, *MALFORMED) as error:
            raise DeviceFault(
                f"no hub is known on this node: {path}: {error}",
                hint=f"Start one: python -m qaios.hub.server --home {self._site.home}",
            ) from error


class _Speed:
    """The times last seen, as the device's status; a new version only when one has really moved."""

    def __init__(self) -> None:
        self.status = DeviceStatus()

    def saw(self, name: str, duration_s: float, now_s: float) -> None:
        known = self.status.value(name)
        if known is not None and abs(duration_s - known) <= MOVED * known:
            return
        others = [reading for reading in self.status.readings if reading.name != name]
        readings = (*others, Reading(name, duration_s, Unit.SECOND, now_s))
        self.status = DeviceStatus(version=self.status.version + 1, readings=readings)


def _fault(action: str, arguments: Mapping[str, Any]) -> str:
    """What is wrong with the arguments, "" for nothing."""
    if action != UPLOAD.name:
        return f"the hub does not offer {action!r}, only {UPLOAD.name}"
    if unknown := sorted(set(arguments) - set(UPLOAD.parameters)):
        return f"{UPLOAD.name} has no argument {unknown[0]!r}"
    for text in ("name", "goal", "notes"):
        if not isinstance(arguments.get(text, ""), str):
            return f"`{text}` of {UPLOAD.name} is text, not {type(arguments[text]).__name__}"
    if arguments.get("content") is None and not arguments.get("artifacts"):
        return f"{UPLOAD.name} needs something to upload: `content`, `artifacts`, or both"
    return ""


def _estimate(shape: Shape, status: DeviceStatus) -> Estimate:
    if fault := _fault(shape.action, shape.form):
        return Estimate(duration_s=0.0, refusal=fault)
    size_bytes = _size_bytes(shape.form)
    seen = {name: status.value(name) or unseen for name, unseen in UNSEEN.items()}
    transfer_s = seen[TRANSFER] * max(size_bytes / MEBIBYTE, 1.0)
    terms = {"size_bytes": float(size_bytes), "round_trip_s": seen[ROUND_TRIP], "transfer_s": transfer_s}
    return Estimate(duration_s=seen[ROUND_TRIP] + transfer_s, terms=terms)


def _size_bytes(form: Mapping[str, Any]) -> int:
    """Of what is written in the task; a reference to another result counts as the text it is."""
    size_bytes = len(msgspec.msgpack.encode(form.get("content"), enc_hook=str))
    for item in _flat(form.get("artifacts")):
        known = item.size_bytes if isinstance(item, Artifact) else item.get("size_bytes") if _is_map(item) else None
        size_bytes += known if isinstance(known, int) else 0
    return size_bytes


def _packed(task: Task, artifacts: Artifacts) -> bytes:
    """The report of a task, stored on this node as well. Raises `Refused`, for then nothing was done."""
    arguments = task.arguments
    try:
        report = Report(
            name=arguments.get("name") or task.name,
            mission=task.mission,
            task=task.name,
            goal=arguments.get("goal", ""),
            notes=arguments.get("notes", ""),
            content=arguments.get("content"),
            attachments=tuple(_attached(item, artifacts) for item in _flat(arguments.get("artifacts"))),
        )
        content = report.encode()
    except (TypeError, OverflowError, RecursionError) as error:
        raise Refused(f"`content` of {UPLOAD.name} is not plain data: {error}") from error
    if len(content) > CONTENT_MAX_BYTES:
        raise Refused(
            f"the report has {len(content)} bytes; a hub takes at most {CONTENT_MAX_BYTES} at once",
            hint="Upload its artifacts by several tasks.",
        )
    try:
        artifacts.put(report.name, content, REPORT_MEDIA_TYPE)
    except JournalBroken as error:
        raise DeviceFault(f"the report cannot be kept on this node: {error}", hint=error.hint) from error
    return content


def _attached(item: Any, artifacts: Artifacts) -> Attachment:
    """The bytes of one artifact, given as `Artifact` or as the dict that a result holds."""
    fields = msgspec.to_builtins(item) if isinstance(item, Artifact) else item
    if not _is_map(fields) or not isinstance(fields.get("sha256"), str):
        raise Refused(f"`artifacts` of {UPLOAD.name} holds {item!r}, which is no artifact")
    address = fields["sha256"]
    try:
        content = artifacts.get(address)
    except (NotFound, JournalBroken) as error:
        raise Refused(f"an artifact of the report is not to be had: {error}", hint=error.hint) from error
    media_type = str(fields.get("media_type") or "application/octet-stream")
    return Attachment(str(fields.get("name") or address), address, media_type, content)


def _flat(items: Any) -> Iterator[Any]:
    """One artifact, a list of them, or lists of lists, as references to several results give."""
    if isinstance(items, list | tuple):
        for item in items:
            yield from _flat(item)
    elif items is not None:
        yield items


def _is_map(item: Any) -> bool:
    return isinstance(item, Mapping)


def _matching(receipt: Receipt, content: bytes) -> Receipt:
    """The receipt, if it is for this content: the key may stand for another one since an earlier life."""
    address = hashlib.sha256(content).hexdigest()
    if receipt.sha256 != address:
        raise DeviceFault(
            f"the hub has another report under key {receipt.key!r}: SHA-256 {receipt.sha256[:16]}, not {address[:16]}",
            retryable=False,
            hint="What the task refers to has changed between its attempts; submit it as a new mission.",
        )
    return receipt


def _stored(ended: Receipt | DeviceFault) -> Receipt:
    if isinstance(ended, DeviceFault):
        raise ended
    return ended


def _result(receipt: Receipt) -> Result:
    """Made from the receipt alone, so that `recall` in another life says exactly the same."""
    return Result(
        value={
            "receipt": msgspec.to_builtins(receipt),
            "key": receipt.key,
            "sha256": receipt.sha256,
            "size_bytes": receipt.size_bytes,
            "hub": receipt.hub,
        },
        artifacts=(Artifact(receipt.name, receipt.sha256, receipt.size_bytes, REPORT_MEDIA_TYPE),),
        provenance={"hub": receipt.hub, "node": receipt.sender, "suite": SUITE, "simulated": False},
    )


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def _devices(config: HubConfig, site: Site) -> Sequence[Device]:
    return [HubDevice(config, site)]


DRIVER = Driver(
    name="hub",
    summary="Uploads reports to the hub: sealed for it, signed by this node, acknowledged by a signed receipt.",
    config=HubConfig,
    devices=_devices,
)

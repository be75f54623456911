"""Enrolments, reports and receipts say what they say, and nobody else can say it."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from qaios.core.errors import Denied, Invalid
from qaios.security.keys import Identity
from qaios.security.statements import Attachment, Enrolment, Receipt, Report

CONTENT = b"picture"
REPORT = Report(
    name="air.json",
    mission="m-1",
    task="upload",
    goal="where is the plume",
    content={"b": 1, "a": [1.5, None, True]},
    attachments=(Attachment("map.png", hashlib.sha256(CONTENT).hexdigest(), "image/png", CONTENT),),
)


def receipt(node: Identity, hub: Identity) -> Receipt:
    return Receipt(
        key="m/t",
        name="air.json",
        sha256="ab" * 32,
        size_bytes=12,
        sender=node.public.fingerprint,
        hub=hub.public.fingerprint,
        stored_s=1.5,
    ).signed(hub)


def test_the_same_report_is_always_the_same_bytes() -> None:
    reordered = msgspec.structs.replace(REPORT, content={"a": [1.5, None, True], "b": 1})
    assert Report.decode(REPORT.encode()) == REPORT
    assert reordered.encode() == REPORT.encode()


def test_a_report_whose_attachment_is_another_one_is_refused() -> None:
    forged = msgspec.structs.replace(REPORT.attachments[0], content=b"another")
    with pytest.raises(Invalid, match=r"map\.png"):
        Report.decode(msgspec.structs.replace(REPORT, attachments=(forged,)).encode())


@pytest.mark.parametrize("content", [b"", b"\xc1", msgspec.msgpack.encode({"type": "receipt"})])
def test_what_is_no_report_is_refused(content: bytes) -> None:
    with pytest.raises(Invalid, match="no report"):
        Report.decode(content)


def test_a_receipt_is_believed_from_its_hub_only(node: Identity, hub: Identity, other_hub: Identity) -> None:
    given = receipt(node, hub)
    arrived = msgspec.json.decode(msgspec.json.encode(given), type=Receipt)
    assert arrived.check(hub.public) == given
    with pytest.raises(Denied, match="the receipt is from"):
        given.check(other_hub.public)


@pytest.mark.parametrize(
    "change",
    [
        {"key": "x"},
        {"name": "x"},
        {"sha256": "x"},
        {"size_bytes": 13},
        {"sender": "x"},
        {"stored_s": 2.0},
        {"version": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_receipt_is_refused(node: Identity, hub: Identity, change: dict[str, object]) -> None:
    with pytest.raises(Denied, match="not signed by"):
        msgspec.structs.replace(receipt(node, hub), **change).check(hub.public)


def test_a_node_is_enrolled_that_knows_the_join_token_and_holds_its_key(
    node: Identity, other_node: Identity, hub: Identity, other_hub: Identity
) -> None:
    enrolment = Enrolment.make(node, hub.public, "token")
    assert enrolment.check(hub.public, "token") == node.public
    assert b"token" not in msgspec.msgpack.encode(enrolment)
    with pytest.raises(Denied, match="join token"):
        enrolment.check(hub.public, "Token")
    with pytest.raises(Denied, match="join token"):
        enrolment.check(other_hub.public, "token")
    signed_by_another = Enrolment.make(other_node, hub.public, "token").signature
    with pytest.raises(Denied, match="not signed by"):
        msgspec.structs.replace(enrolment, signature=signed_by_another).check(hub.public, "token")

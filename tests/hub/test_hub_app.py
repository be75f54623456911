"""The hub answers those who have the token, believes enrolled nodes only, and explains every refusal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from qaios.core.errors import JournalBroken
from qaios.hub import app as hub_app
from qaios.hub.app import Activity, Hub, make_app
from qaios.hub.store import Store
from qaios.security.keys import Identity, PublicIdentity, Role
from qaios.security.sealing import Envelope, seal
from qaios.security.statements import ENVELOPE_MEDIA_TYPE, Enrolment, Receipt, Report

TOKEN, JOIN = "token", "join"


@pytest.fixture(scope="module")
def hub_identity() -> Identity:
    return Identity.generate(Role.HUB)


@pytest.fixture(scope="module")
def node() -> Identity:
    return Identity.generate(Role.NODE)


@pytest.fixture
def store(tmp_path: Path, hub_identity: Identity) -> Iterator[Store]:
    with closing(Store(tmp_path, hub_identity, now_s=lambda: 5.0)) as store:
        yield store


@pytest.fixture
async def client(store: Store, hub_identity: Identity) -> AsyncIterator[httpx.AsyncClient]:
    with ThreadPoolExecutor(1) as executor:
        hub = Hub(store, hub_identity.public, join=JOIN, executor=executor)
        transport = httpx.ASGITransport(make_app(hub, token=TOKEN, activity=Activity()))
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://hub", headers=headers) as client:
            yield client


def sealed(node: Identity, hub: Identity, key: str = "n/m/1", *, content: Any = 1, epoch: int = 1) -> Envelope:
    report = Report(name="r", mission="m", task="t", content=content)
    return seal(report.encode(), key=key, epoch=epoch, sender=node, recipient=hub.public)


async def enrol(client: httpx.AsyncClient, node: Identity, hub: Identity, join: str = JOIN) -> httpx.Response:
    return await client.post("/v1/nodes", content=msgspec.json.encode(Enrolment.make(node, hub.public, join)))


async def post(client: httpx.AsyncClient, envelope: Envelope, **headers: str) -> httpx.Response:
    usual = {"Idempotency-Key": envelope.key, "Content-Type": ENVELOPE_MEDIA_TYPE}
    return await client.post("/v1/reports", content=envelope.encode(), headers=usual | headers)


def check_problem(answer: httpx.Response, status: int, said: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status and problem["title"] and said in problem["detail"], problem


async def test_without_the_token_there_is_no_answer(client: httpx.AsyncClient) -> None:
    for given in ("", "Bearer wrong", "Basic token"):
        answer = await client.get("/v1/identity", headers={"Authorization": given})
        check_problem(answer, 401, "token is missing or wrong")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_it_shows_its_identity(client: httpx.AsyncClient, hub_identity: Identity) -> None:
    shown = msgspec.json.decode((await client.get("/v1/identity")).content, type=PublicIdentity)
    assert shown.check() == hub_identity.public


async def test_a_report_of_an_enrolled_node_is_stored_once_and_signed_for(
    client: httpx.AsyncClient, store: Store, node: Identity, hub_identity: Identity
) -> None:
    assert (await enrol(client, node, hub_identity)).status_code == 201
    assert (await enrol(client, node, hub_identity)).status_code == 201
    first = await post(client, sealed(node, hub_identity))
    again = await post(client, sealed(node, hub_identity))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.content == again.content == (await client.get("/v1/reports/n%2Fm%2F1")).content
    receipt = msgspec.json.decode(first.content, type=Receipt).check(hub_identity.public)
    assert (receipt.name, receipt.stored_s, receipt.sender) == ("r", 5.0, node.public.fingerprint)
    opened = await client.get("/v1/contents/n%2Fm%2F1")
    assert Report.decode(opened.content).content == 1
    assert store.count() == 1


async def test_receipts_are_listed_in_order_and_in_pages(
    client: httpx.AsyncClient, node: Identity, hub_identity: Identity
) -> None:
    await enrol(client, node, hub_identity)
    for number in range(5):
        await post(client, sealed(node, hub_identity, f"k{number}"))
    first = (await client.get("/v1/reports", params={"limit": 3})).json()
    rest = (await client.get("/v1/reports", params={"after": first["after"]})).json()
    assert [receipt["key"] for receipt in first["reports"] + rest["reports"]] == [f"k{n}" for n in range(5)]
    assert first["count"] == 5
    check_problem(await client.get("/v1/reports", params={"limit": "many"}), 400, "limit must be a number")


async def test_a_node_must_be_enrolled_and_know_the_join_token(
    client: httpx.AsyncClient, store: Store, node: Identity, hub_identity: Identity
) -> None:
    check_problem(await post(client, sealed(node, hub_identity)), 403, "is not enrolled")
    check_problem(await enrol(client, node, hub_identity, "guess"), 403, "join token is wrong")
    check_problem(await client.post("/v1/nodes", content=b"{"), 400, "no enrolment")
    assert store.count() == 0


async def test_a_key_stands_for_one_content(
    client: httpx.AsyncClient, store: Store, node: Identity, hub_identity: Identity
) -> None:
    await enrol(client, node, hub_identity)
    await post(client, sealed(node, hub_identity))
    check_problem(await post(client, sealed(node, hub_identity, content=2)), 409, "already stands for")
    other = Identity.generate(Role.NODE)
    await enrol(client, other, hub_identity)
    check_problem(await post(client, sealed(other, hub_identity)), 409, "already stands for")
    assert store.count() == 1


async def test_an_old_kernel_stores_nothing_and_may_still_ask(
    client: httpx.AsyncClient, store: Store, node: Identity, hub_identity: Identity
) -> None:
    await enrol(client, node, hub_identity)
    await post(client, sealed(node, hub_identity, "k1", epoch=3))
    check_problem(await post(client, sealed(node, hub_identity, "k2", epoch=2)), 409, "is over")
    assert (await post(client, sealed(node, hub_identity, "k1", epoch=2))).status_code == 200
    assert store.count() == 1


async def test_what_is_forged_misaddressed_or_garbled_is_refused(
    client: httpx.AsyncClient, store: Store, node: Identity, hub_identity: Identity
) -> None:
    await enrol(client, node, hub_identity)
    good = sealed(node, hub_identity)
    flipped = good.sealed[:-1] + bytes([good.sealed[-1] ^ 1])
    check_problem(await post(client, msgspec.structs.replace(good, sealed=flipped)), 403, "not signed by")
    stranger = Identity.generate(Role.HUB)
    check_problem(await post(client, sealed(node, stranger)), 403, "is for")
    no_report = seal(b"\xc1", key="k", epoch=1, sender=node, recipient=hub_identity.public)
    check_problem(await post(client, no_report), 400, "no report")
    check_problem(await post(client, good, **{"Idempotency-Key": "other"}), 400, "differ")
    check_problem(await post(client, good, **{"Idempotency-Key": ""}), 400, "Idempotency-Key")
    check_problem(await post(client, good, **{"Content-Type": "text/plain"}), 415, "comes as")
    headers = {"Idempotency-Key": "k", "Content-Type": ENVELOPE_MEDIA_TYPE}
    check_problem(await client.post("/v1/reports", content=b"junk", headers=headers), 400, "no envelope")
    assert store.count() == 0


async def test_too_much_is_refused_with_and_without_an_announced_length(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    monkeypatch.setattr(hub_app, "ENVELOPE_MAX_BYTES", 1000)
    headers = {"Idempotency-Key": "k", "Content-Type": ENVELOPE_MEDIA_TYPE}
    check_problem(await client.post("/v1/reports", content=b"x" * 1001, headers=headers), 413, "too much")
    check_problem(await client.post("/v1/reports", content=pieces(), headers=headers), 413, "too much")


async def test_what_is_not_here_is_not_found(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/v1/reports/k"), 404, "no report is stored")
    check_problem(await client.get("/v1/contents/k"), 404, "no report is stored")
    check_problem(await client.get("/v1/nothing"), 404, "")
    check_problem(await client.delete("/v1/reports"), 405, "")


async def test_damage_at_rest_is_noticed_when_a_report_is_read(
    client: httpx.AsyncClient, store: Store, tmp_path: Path, node: Identity, hub_identity: Identity
) -> None:
    await enrol(client, node, hub_identity)
    await post(client, sealed(node, hub_identity))
    (file,) = (tmp_path / "envelopes").iterdir()
    other = sealed(node, hub_identity, content=2)
    file.write_bytes(other.encode())
    with pytest.raises(JournalBroken, match="not what its receipt says"):
        store.content("n/m/1")
    check_problem(await client.get("/v1/contents/n%2Fm%2F1"), 500, "not what its receipt says")


async def test_starting_again_sweeps_what_was_never_acknowledged(
    client: httpx.AsyncClient, tmp_path: Path, node: Identity, hub_identity: Identity
) -> None:
    await enrol(client, node, hub_identity)
    await post(client, sealed(node, hub_identity))
    for name in (".unfinished-1", "0" * 64):
        (tmp_path / "envelopes" / name).write_bytes(b"left by a crash")
    with closing(Store(tmp_path, hub_identity, now_s=lambda: 6.0)) as again:
        assert len(list((tmp_path / "envelopes").iterdir())) == again.count() == 1
        assert Report.decode(again.content("n/m/1")).name == "r"

"""An identity is made once, kept private, and known again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from qaios.core.errors import Denied, Invalid
from qaios.security.keys import Identity, PublicIdentity, Purpose, Role, framed, pin


def test_an_identity_is_made_once_and_loaded_ever_after(tmp_path: Path) -> None:
    first = Identity.open(tmp_path / "keys", Role.NODE)
    again = Identity.open(tmp_path / "keys", Role.NODE)
    assert first.public == again.public
    assert first.public.fingerprint == again.public.fingerprint
    assert len(first.public.fingerprint) == 64
    assert Identity.open(tmp_path / "keys", Role.HUB).public.fingerprint != first.public.fingerprint


def test_its_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    Identity.open(tmp_path / "keys", Role.NODE)
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {"node.json": 0o600}


def test_two_that_make_it_at_once_agree_on_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = pool.map(lambda _: Identity.open(tmp_path / "keys", Role.NODE).public.fingerprint, range(16))
    assert len(set(made)) == 1


def test_a_file_others_could_read_is_refused(tmp_path: Path) -> None:
    Identity.open(tmp_path, Role.NODE)
    (tmp_path / "node.json").chmod(0o644)
    with pytest.raises(Denied, match="others may read it"):
        Identity.open(tmp_path, Role.NODE)


@pytest.mark.parametrize("content", [b"", b"{", b'{"type":"identity-secrets"}', b"[]"])
def test_a_damaged_file_is_refused_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    Identity.open(tmp_path, Role.NODE)
    (tmp_path / "node.json").write_bytes(content)
    with pytest.raises(Invalid, match="damaged"):
        Identity.open(tmp_path, Role.NODE)
    assert (tmp_path / "node.json").read_bytes() == content


def test_a_hubs_keys_are_no_nodes_keys(tmp_path: Path) -> None:
    Identity.open(tmp_path, Role.HUB)
    (tmp_path / "hub.json").rename(tmp_path / "node.json")
    with pytest.raises(Invalid, match="of a hub"):
        Identity.open(tmp_path, Role.NODE)


def test_a_public_identity_survives_json_and_msgpack_and_holds_no_secret(node: Identity) -> None:
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(node.public), type=PublicIdentity).check() == node.public
    assert node._secrets.signing_seed not in msgspec.msgpack.encode(node.public)
    assert "seed" not in repr(node)


@pytest.mark.parametrize(
    "change",
    [{"signing": b"x"}, {"mlkem": b"\xff" * 1184}, {"x25519": b""}, {"version": 2}],
    ids=lambda c: next(iter(c)),
)
def test_an_unusable_public_identity_is_refused(node: Identity, change: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        msgspec.structs.replace(node.public, **change).check()


def test_a_signature_holds_for_its_text_its_purpose_and_its_signer(node: Identity, other_node: Identity) -> None:
    signature = node.sign(Purpose.RECEIPT, b"text")
    node.public.verify(Purpose.RECEIPT, b"text", signature)
    for identity, purpose, text in (
        (node, Purpose.RECEIPT, b"Text"),
        (node, Purpose.ENVELOPE, b"text"),
        (other_node, Purpose.RECEIPT, b"text"),
    ):
        with pytest.raises(Denied, match="not signed by"):
            identity.public.verify(purpose, text, signature)


def test_a_known_identity_is_recognised_and_a_changed_one_refused(
    tmp_path: Path, hub: Identity, other_hub: Identity
) -> None:
    pin(tmp_path, "hub", hub.public)
    pin(tmp_path, "hub", hub.public)
    with pytest.raises(Denied, match="when first met") as refused:
        pin(tmp_path, "hub", other_hub.public)
    assert "pinned-hub.json" in refused.value.hint
    pin(tmp_path, "other", other_hub.public)


def test_framing_never_confuses_two_lists_of_parts() -> None:
    lists = [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b""), (b"", b"abc"), ()]
    assert len({framed(*parts) for parts in lists}) == len(lists)

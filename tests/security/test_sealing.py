"""Only the recipient opens an envelope, only the sender can have made it, and not one bit may differ."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qaios.core.errors import Denied, Invalid, QaiError
from qaios.security import sealing
from qaios.security.keys import Identity, Purpose
from qaios.security.sealing import Envelope, check_sender, seal, unseal

quick = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="session")
def envelope(node: Identity, hub: Identity) -> Envelope:
    return seal(b"the content", key="m/t", epoch=3, sender=node, recipient=hub.public)


@quick
@given(content=st.binary(max_size=2000), key=st.text(min_size=1, max_size=256), epoch=st.integers(0, 2**63 - 1))
def test_what_is_sealed_is_opened_by_its_recipient(
    node: Identity, hub: Identity, content: bytes, key: str, epoch: int
) -> None:
    envelope = seal(content, key=key, epoch=epoch, sender=node, recipient=hub.public)
    arrived = Envelope.decode(envelope.encode())
    assert unseal(arrived, recipient=hub, sender=node.public) == content


def test_sealing_twice_gives_two_envelopes_and_neither_shows_the_content(
    node: Identity, hub: Identity, envelope: Envelope
) -> None:
    again = seal(b"the content", key="m/t", epoch=3, sender=node, recipient=hub.public)
    assert again.sealed != envelope.sealed
    assert b"the content" not in msgspec.msgpack.encode(envelope)


@quick
@given(data=st.data())
def test_any_changed_byte_of_any_field_is_refused(
    node: Identity, hub: Identity, envelope: Envelope, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(Envelope.__struct_fields__))
    value = getattr(envelope, name)
    changed: object
    if isinstance(value, bytes):
        place, bits = data.draw(st.integers(0, len(value) - 1)), data.draw(st.integers(1, 255))
        changed = value[:place] + bytes([value[place] ^ bits]) + value[place + 1 :]
    elif isinstance(value, int):
        changed = data.draw(st.integers(0, 2**63 - 1).filter(lambda number: number != value))
    else:
        place = data.draw(st.integers(0, len(value) - 1))
        changed = value[:place] + chr(ord(value[place]) ^ 1) + value[place + 1 :]
    with pytest.raises(QaiError) as refused:
        unseal(msgspec.structs.replace(envelope, **{name: changed}), recipient=hub, sender=node.public)
    assert isinstance(refused.value, Invalid if name in ("version", "suite") else Denied)


@quick
@given(data=st.data())
def test_any_changed_byte_on_the_wire_is_refused(
    node: Identity, hub: Identity, envelope: Envelope, data: st.DataObject
) -> None:
    wire = bytearray(envelope.encode())
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(QaiError):
        unseal(Envelope.decode(bytes(wire)), recipient=hub, sender=node.public)


@pytest.mark.parametrize("name", ["sealed", "signature"])
@pytest.mark.parametrize("keep", [0, 1, 40])
def test_a_cut_envelope_is_refused(node: Identity, hub: Identity, envelope: Envelope, name: str, keep: int) -> None:
    cut = msgspec.structs.replace(envelope, **{name: getattr(envelope, name)[:keep]})
    with pytest.raises(Denied):
        unseal(cut, recipient=hub, sender=node.public)


def test_another_recipient_cannot_open_it(node: Identity, other_hub: Identity, envelope: Envelope) -> None:
    with pytest.raises(Denied, match="is for"):
        unseal(envelope, recipient=other_hub, sender=node.public)


def test_another_sender_is_not_believed(hub: Identity, other_node: Identity, envelope: Envelope) -> None:
    with pytest.raises(Denied, match="is from"):
        unseal(envelope, recipient=hub, sender=other_node.public)


def resigned(envelope: Envelope, signer: Identity) -> Envelope:
    """What an attacker can do who has keys of his own: claim any header, and sign it."""
    header = sealing._header(envelope.key, envelope.epoch, envelope.sender, envelope.recipient)
    signature = signer.sign(Purpose.ENVELOPE, sealing._signed_text(header, envelope.sealed))
    return msgspec.structs.replace(envelope, signature=signature)


def test_a_thief_cannot_sign_anothers_content_as_his_own(
    hub: Identity, other_node: Identity, envelope: Envelope
) -> None:
    stolen = resigned(msgspec.structs.replace(envelope, sender=other_node.public.fingerprint), other_node)
    check_sender(stolen, other_node.public)  # the signature itself is good
    with pytest.raises(Denied, match="cannot be opened"):
        unseal(stolen, recipient=hub, sender=other_node.public)


def test_a_recipient_cannot_pass_it_on_as_sent_to_another(
    node: Identity, other_hub: Identity, envelope: Envelope
) -> None:
    forwarded = msgspec.structs.replace(envelope, recipient=other_hub.public.fingerprint)
    with pytest.raises(Denied, match="not signed by"):
        unseal(forwarded, recipient=other_hub, sender=node.public)


@pytest.mark.parametrize("change", [{"key": "m/other"}, {"epoch": 4}])
def test_content_cannot_be_replayed_under_another_key_or_epoch_even_by_its_sender(
    node: Identity, hub: Identity, envelope: Envelope, change: dict[str, object]
) -> None:
    with pytest.raises(Denied, match="not signed by"):
        unseal(msgspec.structs.replace(envelope, **change), recipient=hub, sender=node.public)
    with pytest.raises(Denied, match="cannot be opened"):
        moved = resigned(msgspec.structs.replace(envelope, **change), node)
        unseal(moved, recipient=hub, sender=node.public)


def test_too_much_content_is_refused_before_anything_is_done(
    node: Identity, hub: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "CONTENT_MAX_BYTES", 10)
    seal(b"x" * 10, key="k", epoch=0, sender=node, recipient=hub.public)
    with pytest.raises(Invalid, match="too much for one envelope"):
        seal(b"x" * 11, key="k", epoch=0, sender=node, recipient=hub.public)


@pytest.mark.parametrize("key", ["", "k" * 257])
def test_a_key_has_a_sensible_length(node: Identity, hub: Identity, key: str) -> None:
    with pytest.raises(Invalid, match="key"):
        seal(b"x", key=key, epoch=0, sender=node, recipient=hub.public)

"""Content that travels sealed: only one recipient can read it, and it is certain who sent it.

`seal` is called by whoever sends, `unseal` by the recipient. Between them goes an `Envelope`: the content
encrypted by HPKE (RFC 9180) with X-Wing, HKDF-SHA256 and AES-256-GCM, and an ML-DSA-65 signature over it.

We encrypt, then sign. A forged envelope is refused before the recipient's private key has touched anything,
and the signature covers all that is on the wire. The two known weaknesses of that order, and of the opposite
one, are closed by naming both identities everywhere: a thief who strips the signature and signs the ciphertext
himself fails, because the sender's fingerprint is bound into the encryption (HPKE's `info`); a recipient who
passes an envelope on fails, because the recipient's fingerprint is in the signed text. Key and epoch are bound
the same way, so an envelope says for what it was made. See docs/decisions/0002.
"""

from __future__ import annotations

import hashlib
from typing import Self

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from qaios.core.errors import Denied, Invalid
from qaios.security.keys import MALFORMED, Identity, PublicIdentity, Purpose, framed

VERSION = 1
SUITE = "HPKE-XWing-HKDF-SHA256-AES256GCM+ML-DSA-65"
CONTENT_MAX_BYTES = 64 * 1024 * 1024  # sealed in one piece and in memory; more is refused
ENVELOPE_MAX_BYTES = CONTENT_MAX_BYTES + 64 * 1024  # with keys, signature and tag
KEY_MAX_CHARACTERS = 256

_HPKE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Envelope(msgspec.Struct, frozen=True, tag="envelope", forbid_unknown_fields=True):
    """One sealed content with its signed header. Travels and is kept as msgpack."""

    key: str  # the idempotency key: the same content for the same purpose has the same key
    epoch: int  # of the sender; a recipient refuses what is older than it has seen
    sender: str  # fingerprint
    recipient: str  # fingerprint
    sealed: bytes  # HPKE encapsulation and ciphertext
    signature: bytes  # ML-DSA-65 over all of the above
    version: int = VERSION
    suite: str = SUITE

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Raise `Invalid` for bytes that are no envelope."""
        try:
            return msgspec.msgpack.decode(content, type=cls)
        except MALFORMED as error:
            raise Invalid(f"this is no envelope: {error}") from error


def seal(content: bytes, *, key: str, epoch: int, sender: Identity, recipient: PublicIdentity) -> Envelope:
    """Encrypt `content` for `recipient` and sign it as `sender`. Sealing twice gives two different envelopes.

    Raises `Invalid` above `CONTENT_MAX_BYTES` or for a key that is empty or too long.
    """
    if len(content) > CONTENT_MAX_BYTES:
        raise Invalid(
            f"{len(content)} bytes are too much for one envelope; at most {CONTENT_MAX_BYTES} are sealed at once",
            hint="Split the content, or leave out its largest artifact.",
        )
    if not 0 < len(key) <= KEY_MAX_CHARACTERS:
        raise Invalid(f"an envelope's key has 1 to {KEY_MAX_CHARACTERS} characters, not {len(key)}")
    header = _header(key, epoch, sender.public.fingerprint, recipient.fingerprint)
    sealed = _HPKE.encrypt(content, recipient.sealing_key, header)
    return Envelope(
        key=key,
        epoch=epoch,
        sender=sender.public.fingerprint,
        recipient=recipient.fingerprint,
        sealed=sealed,
        signature=sender.sign(Purpose.ENVELOPE, _signed_text(header, sealed)),
    )


def unseal(envelope: Envelope, *, recipient: Identity, sender: PublicIdentity) -> bytes:
    """Give back the content. The caller says whom it expects as `sender`, usually looked up by `envelope.sender`.

    Raises `Invalid` for a version or suite this program does not know, `Denied` for everything that is not
    exactly what `sender` sealed for `recipient`.
    """
    check_sender(envelope, sender)
    if envelope.recipient != recipient.public.fingerprint:
        raise Denied(f"the envelope is for {envelope.recipient[:16]}, not for {recipient.public.fingerprint[:16]}")
    header = _header(envelope.key, envelope.epoch, envelope.sender, envelope.recipient)
    try:
        return _HPKE.decrypt(envelope.sealed, recipient.sealing_key, header)
    except InvalidTag:
        raise Denied("the envelope cannot be opened: it was sealed for other keys or under another header") from None


def check_sender(envelope: Envelope, sender: PublicIdentity) -> None:
    """The part of `unseal` that needs no private key: anyone can check who made an envelope."""
    if (envelope.version, envelope.suite) != (VERSION, SUITE):
        raise Invalid(
            f"envelope of version {envelope.version}, {envelope.suite}; this program opens version {VERSION}, {SUITE}",
            hint="Bring node and hub to the same release.",
        )
    if envelope.sender != sender.fingerprint:
        raise Denied(f"the envelope is from {envelope.sender[:16]}, not from {sender.fingerprint[:16]}")
    header = _header(envelope.key, envelope.epoch, envelope.sender, envelope.recipient)
    sender.verify(Purpose.ENVELOPE, _signed_text(header, envelope.sealed), envelope.signature)


def _header(key: str, epoch: int, sender: str, recipient: str) -> bytes:
    parts = (str(VERSION), SUITE, key, str(epoch), sender, recipient)
    return framed(Purpose.ENVELOPE.value, *(part.encode() for part in parts))


def _signed_text(header: bytes, sealed: bytes) -> bytes:
    """SHA-512 stands for the ciphertext, so that 64 MiB are not copied to be signed; it resists collisions at 2^256."""
    return framed(header, hashlib.sha512(sealed).digest())

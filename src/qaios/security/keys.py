"""Who a node or a hub is: its keys, their fingerprint, and the identities it has come to know.

An identity is an ML-DSA-65 key that signs (FIPS 204) and an X-Wing key pair that is sealed to: ML-KEM-768
(FIPS 203) with X25519, so that breaking one of the two opens nothing. It is made once under `QAIOS_HOME/keys`
and loaded ever after. `PublicIdentity` is what is handed to others; its fingerprint is the name everybody uses.
The keys lie there unencrypted, readable by the owner alone: whoever is root on the node is the node.

Every signature names its `Purpose` in ML-DSA's context string, so a text signed for one use is worthless for
another. Identities of others are pinned on first use (`pin`): a changed one is refused until a person agrees.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
from functools import cached_property
from pathlib import Path
from typing import Self, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey

from qaios.core.errors import Denied, Invalid
from qaios.security.files import PRIVATE_FOLDER, make_folder, write_durably

VERSION = 1

T = TypeVar("T")

# What msgspec raises on bytes from outside: bad text is a UnicodeDecodeError, endless nesting a RecursionError.
MALFORMED = (msgspec.MsgspecError, ValueError, RecursionError)


class Role(enum.StrEnum):
    """What the holder of an identity is."""

    NODE = "node"
    HUB = "hub"


class Purpose(enum.Enum):
    """What a signature is for. The value is the ML-DSA context string (at most 255 bytes)."""

    ENVELOPE = b"qaios/envelope/1"
    ENROLMENT = b"qaios/enrolment/1"
    RECEIPT = b"qaios/receipt/1"


class PublicIdentity(msgspec.Struct, frozen=True, tag="identity", forbid_unknown_fields=True, dict=True):
    """What others may know of an identity. Plain data: msgspec writes it as JSON with base64, or as msgpack."""

    role: Role
    signing: bytes  # ML-DSA-65 public key, 1952 bytes
    mlkem: bytes  # ML-KEM-768 encapsulation key, 1184 bytes
    x25519: bytes  # 32 bytes
    version: int = VERSION

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything above, 64 hexadecimal digits."""
        text = framed(b"qaios/identity/1", self.role.encode(), self.signing, self.mlkem, self.x25519)
        return hashlib.sha256(text).hexdigest()

    @cached_property
    def sealing_key(self) -> MLKEM768X25519PublicKey:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.mlkem), X25519PublicKey.from_public_bytes(self.x25519)
        )

    def verify(self, purpose: Purpose, text: bytes, signature: bytes) -> None:
        """Raise `Denied` unless this identity signed `text` for `purpose`."""
        try:
            MLDSA65PublicKey.from_public_bytes(self.signing).verify(signature, text, purpose.value)
        except InvalidSignature:
            raise Denied(
                f"this is not signed by {self.role} {self.fingerprint[:16]} as {purpose.name.lower()}",
                hint="It was changed on the way, or somebody else made it; ask the sender again.",
            ) from None

    def check(self) -> Self:
        """Raise `Invalid` unless this program can use version and keys; call it on what came from outside."""
        if self.version != VERSION:
            raise Invalid(
                f"identity of version {self.version}; this program knows version {VERSION}",
                hint="Bring node and hub to the same release.",
            )
        try:
            MLDSA65PublicKey.from_public_bytes(self.signing)
            _ = self.sealing_key
        except ValueError as error:
            raise Invalid(f"identity with an unusable key: {error}") from error
        return self


class _Secrets(msgspec.Struct, frozen=True, tag="identity-secrets", forbid_unknown_fields=True):
    """The file of an identity. Private keys are kept as their seeds, the form FIPS 203 and 204 recommend."""

    role: Role
    signing_seed: bytes  # 32 bytes
    mlkem_seed: bytes  # 64 bytes
    x25519: bytes  # 32 bytes
    version: int = VERSION


class Identity:
    """The private side: what signs, and what opens that which was sealed to it."""

    def __init__(self, secrets: _Secrets) -> None:
        try:
            self._signing = MLDSA65PrivateKey.from_seed_bytes(secrets.signing_seed)
            mlkem = MLKEM768PrivateKey.from_seed_bytes(secrets.mlkem_seed)
            x25519 = X25519PrivateKey.from_private_bytes(secrets.x25519)
        except ValueError as error:
            raise Invalid(f"identity with an unusable private key: {error}") from error
        self._secrets = secrets
        self.sealing_key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = PublicIdentity(
            role=secrets.role,
            signing=self._signing.public_key().public_bytes_raw(),
            mlkem=mlkem.public_key().public_bytes_raw(),
            x25519=x25519.public_key().public_bytes_raw(),
        )

    @classmethod
    def generate(cls, role: Role) -> Self:
        """New keys from the operating system's random numbers; a seeded generator has no business here."""
        return cls(
            _Secrets(
                role=role,
                signing_seed=MLDSA65PrivateKey.generate().private_bytes_raw(),
                mlkem_seed=MLKEM768PrivateKey.generate().private_bytes_raw(),
                x25519=X25519PrivateKey.generate().private_bytes_raw(),
            )
        )

    @classmethod
    def open(cls, folder: Path, role: Role) -> Self:
        """Load the identity from `folder`, or make it there when there is none yet.

        Two processes that make it at once end up with the same one. Raises `Denied` when others could read the
        file, `Invalid` when it is damaged: a new identity is never made in place of an old one that is unreadable.
        """
        make_folder(folder)
        folder.chmod(PRIVATE_FOLDER)
        path = folder / f"{role}.json"
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # Another process may be faster; its identity is ours then.
                write_durably(path, msgspec.json.encode(cls.generate(role)._secrets), replace=False)
        return cls(_load_secrets(path, role))

    def sign(self, purpose: Purpose, text: bytes) -> bytes:
        """The ML-DSA-65 signature of `text`, 3309 bytes, hedged: the same text signs differently each time."""
        return self._signing.sign(text, purpose.value)

    def __repr__(self) -> str:
        return f"Identity({self.public.role}, {self.public.fingerprint[:16]})"


def pin(folder: Path, name: str, presented: PublicIdentity) -> None:
    """Remember who `name` is, or check that it is still the same. Trust on first use.

    Raises `Denied` when `name` was somebody else before, `Invalid` when the record is damaged.
    """
    path = folder / f"pinned-{name}.json"
    try:
        write_durably(path, msgspec.json.encode(presented), replace=False)
    except FileExistsError:
        known = _decode(path, PublicIdentity)
        if known.fingerprint != presented.fingerprint:
            raise Denied(
                f"{name} shows the identity {presented.fingerprint[:16]}, and {known.fingerprint[:16]} when first met",
                hint=f"If it was set up anew on purpose, remove {path} and try again; if not, somebody is in between.",
            ) from None


def framed(*parts: bytes) -> bytes:
    """Join parts so that no two different lists of parts give the same text: each is preceded by its length."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def _load_secrets(path: Path, role: Role) -> _Secrets:
    if path.stat().st_mode & 0o077:
        raise Denied(f"{path} holds private keys and others may read it", hint=f"chmod 600 {path}")
    secrets = _decode(path, _Secrets)
    if secrets.role != role or secrets.version != VERSION:
        raise Invalid(f"{path} holds version {secrets.version} of a {secrets.role}, not version {VERSION} of a {role}")
    return secrets


def _decode(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except MALFORMED as error:
        raise Invalid(f"{path} is damaged: {error}", hint="Restore it from a backup.") from error

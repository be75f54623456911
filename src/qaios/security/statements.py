"""What a node and a hub say to each other, as signed statements.

    Enrolment   node → hub   "this is me, and somebody gave me the join token"
    Report      node → hub   the content of an upload; travels inside an `Envelope`
    Receipt     hub → node   "I have stored this, and will have it after a crash"
    HubAddress  on disk      where the hub of this node listens, and which identity it must show

The hub (its own process) and the driver `hub` (in the kernel's process) share these words and nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any, Self

import msgspec

from qaios.core.errors import Denied, Invalid
from qaios.security.keys import MALFORMED, Identity, PublicIdentity, Purpose, framed

REPORT_MEDIA_TYPE = "application/vnd.qaios.report+msgpack"
ENVELOPE_MEDIA_TYPE = "application/vnd.qaios.envelope+msgpack"


class HubAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`QAIOS_HOME/run/hub.json`, readable by the owner alone: what is needed to talk to the hub."""

    pid: int
    started_s: float  # of the process, seconds after the machine's boot: guards against a recycled pid
    url: str
    token: str  # who has it may talk to the hub
    join: str  # who has it may enrol a node
    fingerprint: str

    @staticmethod
    def path(home: Path) -> Path:
        """Where the hub of this home says where it listens, while one runs."""
        return home / "run" / "hub.json"


class Attachment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One artifact inside a report."""

    name: str
    sha256: str
    media_type: str
    content: bytes


class Report(msgspec.Struct, frozen=True, tag="report", forbid_unknown_fields=True):
    """What a node uploads. Holds no time and no attempt number: the same task gives the same bytes, try after try."""

    name: str
    mission: str
    task: str
    goal: str = ""
    notes: str = ""
    content: Any = None  # plain data
    attachments: tuple[Attachment, ...] = ()
    version: int = 1

    def encode(self) -> bytes:
        """The one form of this report: fields in order, keys of mappings sorted."""
        return msgspec.msgpack.encode(self, order="deterministic")

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Raise `Invalid` unless it is a report whose attachments are what they say."""
        try:
            report = msgspec.msgpack.decode(content, type=cls)
        except MALFORMED as error:
            raise Invalid(f"the envelope holds no report: {error}") from error
        for attachment in report.attachments:
            if hashlib.sha256(attachment.content).hexdigest() != attachment.sha256:
                raise Invalid(f"attachment {attachment.name!r} does not match its address {attachment.sha256[:16]}")
        return report


class Enrolment(msgspec.Struct, frozen=True, tag="enrolment", forbid_unknown_fields=True):
    """A node asks to be known. The join token itself does not travel: only a code that proves it is known."""

    identity: PublicIdentity
    proof: bytes  # HMAC-SHA256 under the join token, of node and hub
    signature: bytes  # by the node: it holds the key it shows

    @classmethod
    def make(cls, node: Identity, hub: PublicIdentity, join: str) -> Self:
        proof = _join_proof(node.public, hub, join)
        return cls(node.public, proof, node.sign(Purpose.ENROLMENT, framed(hub.fingerprint.encode(), proof)))

    def check(self, hub: PublicIdentity, join: str) -> PublicIdentity:
        """The node's identity, or `Denied`."""
        if not hmac.compare_digest(self.proof, _join_proof(self.identity, hub, join)):
            raise Denied("the join token is wrong", hint="Take it from hub/hub.json where the hub runs.")
        self.identity.check().verify(Purpose.ENROLMENT, framed(hub.fingerprint.encode(), self.proof), self.signature)
        return self.identity


class Receipt(msgspec.Struct, frozen=True, tag="receipt", forbid_unknown_fields=True):
    """The hub's word that a report is stored: durable, once, under this key."""

    key: str
    name: str  # of the report
    sha256: str  # of the opened report
    size_bytes: int  # of the opened report
    sender: str  # fingerprint of the node
    hub: str  # fingerprint of the hub
    stored_s: float  # seconds since the Unix epoch, on the hub's clock
    signature: bytes = b""
    version: int = 1

    def signed(self, hub: Identity) -> Self:
        return msgspec.structs.replace(self, signature=hub.sign(Purpose.RECEIPT, self._text()))

    def check(self, hub: PublicIdentity) -> Self:
        """Raise `Denied` unless `hub` gave this receipt."""
        if self.hub != hub.fingerprint:
            raise Denied(f"the receipt is from {self.hub[:16]}, not from {hub.fingerprint[:16]}")
        hub.verify(Purpose.RECEIPT, self._text(), self.signature)
        return self

    def _text(self) -> bytes:
        return msgspec.json.encode(msgspec.structs.replace(self, signature=b""), order="deterministic")


def _join_proof(node: PublicIdentity, hub: PublicIdentity, join: str) -> bytes:
    text = framed(b"qaios/join/1", node.fingerprint.encode(), hub.fingerprint.encode())
    return hmac.new(join.encode(), text, hashlib.sha256).digest()

"""The node's side of the talk with a hub: requests over HTTP, answers that are verified, refusals made clear.

The device `hub` (`drivers.hub`) uses it. Opening a link checks that the hub shows the identity it must show, pins it
at the first meeting, and enrols the node. What matters to the caller is how a request can fail:

    Unsent        the hub was not reached: nothing can have happened
    Unanswered    it was sent and no answer came: it may have happened, `ask` finds out
    Refused       the hub read it and said no: nothing was stored
    DeviceFault   the two cannot work together until somebody does something
"""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from qaios.core.errors import DeviceFault, Invalid, QaiError, Refused
from qaios.security.keys import MALFORMED, Identity, PublicIdentity, pin
from qaios.security.sealing import Envelope
from qaios.security.statements import ENVELOPE_MEDIA_TYPE, Enrolment, HubAddress, Receipt

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
KEEP_ALIVE_S = 2.0  # shorter than the hub keeps a silent connection, so that none is used that it has just closed


class Unsent(DeviceFault):
    """The hub was not reached; nothing was sent."""


class Unanswered(DeviceFault):
    """The request went out, or part of it, and no answer came back."""


class Waiting(enum.Enum):
    """What the hub says of a key that it has no receipt for."""

    RECEIVING = "receiving"
    NEVER = "never"


class HubLink:
    """A link to one hub whose identity is known."""

    def __init__(self, address: HubAddress, client: httpx.AsyncClient) -> None:
        self.address = address
        self._client = client
        self.identity: PublicIdentity

    @classmethod
    async def open(cls, address: HubAddress, *, node: Identity, keys: Path, name: str, timeout_s: float) -> Self:
        """Reach the hub at `address`, know it again as `name`, be enrolled. Raises `DeviceFault`."""
        check_loopback(address.url)
        library = await asyncio.to_thread(_import_httpx)  # costs half a second, once; the loop goes on meanwhile
        client = library.AsyncClient(
            base_url=address.url,
            headers={"Authorization": f"Bearer {address.token}"},
            timeout=library.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
            limits=library.Limits(keepalive_expiry=KEEP_ALIVE_S),
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # trusts nobody; loading authorities takes 80 ms
            trust_env=False,  # a proxy of the environment has no business on the way to this machine itself
        )
        link = cls(address, client)
        try:
            link.identity = await link._meet(keys, name)
            if address.join:
                enrolment = Enrolment.make(node, link.identity, address.join)
                await link._request("POST", "/v1/nodes", content=msgspec.json.encode(enrolment))
        except BaseException:
            await client.aclose()
            raise
        return link

    async def close(self) -> None:
        await self._client.aclose()

    async def send(self, envelope: Envelope) -> Receipt:
        """Upload. The receipt is the hub's own, and for this key; what it is for is the caller's to compare."""
        headers = {"Idempotency-Key": quote(envelope.key, safe=""), "Content-Type": ENVELOPE_MEDIA_TYPE}
        content = await asyncio.to_thread(envelope.encode)
        answer = await self._request("POST", "/v1/reports", content=content, headers=headers)
        return self._verified(answer, envelope.key)

    async def ask(self, key: str, *, wait_s: float = 0.0) -> Receipt | Waiting:
        """What became of a key. Waits up to `wait_s` for one that is just being received."""
        answer = await self._request("GET", f"/v1/reports/{quote(key, safe='')}", params={"wait_s": str(wait_s)})
        if answer.status_code == 404:
            return Waiting.NEVER
        if answer.status_code == 202:
            return Waiting.RECEIVING
        return self._verified(answer, key)

    async def count(self) -> int:
        """How many reports the hub has stored."""
        answer = await self._request("GET", "/v1/reports", params={"limit": "0"})
        return int(_decoded(answer, dict[str, Any])["count"])

    async def _meet(self, keys: Path, name: str) -> PublicIdentity:
        shown = _decoded(await self._request("GET", "/v1/identity"), PublicIdentity)
        try:
            shown.check()
            if self.address.fingerprint not in ("", shown.fingerprint):
                raise Invalid(f"it shows {shown.fingerprint[:16]} and announced {self.address.fingerprint[:16]}")
            await asyncio.to_thread(pin, keys, name, shown)
        except QaiError as error:
            raise DeviceFault(f"this is not the right hub: {error}", retryable=False, hint=error.hint) from error
        return shown

    def _verified(self, answer: httpx.Response, key: str) -> Receipt:
        receipt = _decoded(answer, Receipt)
        try:
            receipt.check(self.identity)
        except QaiError as error:
            raise Unanswered(f"the hub's receipt cannot be believed: {error}", hint=error.hint) from error
        if receipt.key != key:
            raise Unanswered(f"the hub gave a receipt for key {receipt.key!r}, not for {key!r}")
        return receipt

    async def _request(self, method: str, path: str, **parts: Any) -> httpx.Response:
        library = _import_httpx()
        where = f"the hub at {self.address.url}"
        try:
            answer: httpx.Response = await self._client.request(method, path, **parts)
        except (library.ConnectError, library.ConnectTimeout, library.PoolTimeout) as error:
            raise Unsent(f"{where} cannot be reached: {error}", hint="Start it again, or wait for it.") from error
        except (library.TransportError, RuntimeError) as error:
            raise Unanswered(f"{where} gave no answer: {type(error).__name__} {error}") from error
        if answer.is_success or (answer.status_code == 404 and method == "GET"):
            return answer
        raise _refusal(where, answer)


def check_loopback(url: str) -> None:
    """Raise `Invalid` unless the URL is plain HTTP to this very machine: without TLS nothing else is talked to."""
    parts = urlsplit(url)
    try:
        loopback = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = False
    if parts.scheme != "http" or not loopback:
        raise Invalid(
            f"hub at {url!r}: only http:// to a loopback address (127.0.0.1, ::1) is spoken",
            hint="A hub on another machine needs a tunnel that ends on this one.",
        )


def _refusal(where: str, answer: httpx.Response) -> DeviceFault | Refused:
    """What the hub answered, as the error it means here."""
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, Any])
    except MALFORMED:
        problem = {}
    status = answer.status_code
    said = f"{where} refused with {status}: {problem.get('detail', 'no reason given')}"
    hint = str(problem.get("hint", ""))
    if status >= 500:
        return Unanswered(said, hint=hint)
    if status in (400, 413, 415):
        return Refused(said, hint=hint)
    return DeviceFault(said, retryable=False, hint=hint)


def _decoded(answer: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except MALFORMED as error:
        raise Unanswered(f"the hub's answer {answer.status_code} cannot be read: {error}") from error


def _import_httpx() -> Any:
    import httpx

    return httpx

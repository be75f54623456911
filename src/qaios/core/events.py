"""Facts, in the past tense: one Struct for a *batch* of tasks, never one per task.

The kernel makes them, `core.machine` accepts or refuses them, the journal keeps them, the bus shows them.
Columns are numpy arrays; on the wire they are MessagePack extensions holding a dtype letter and raw
little-endian bytes, so a million outcomes cost one copy. Text columns (names, results) are one blob with the
end offset of each item (`Blobs`). Fields marked *opaque* differ between runs of the same seed (measured times,
random bytes) and are left out of the canonical digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from qaios.core.values import Decision, DeviceState, MissionState, Rung, Shape

Ids = NDArray[np.int64]


class Blobs(msgspec.Struct, frozen=True):
    """Many byte strings as one: item i is `joined[ends[i-1]:ends[i]]`."""

    joined: bytes
    ends: NDArray[np.int64]

    @staticmethod
    def of(items: Iterable[bytes]) -> Blobs:
        listed = list(items)
        ends = np.cumsum(np.fromiter((len(item) for item in listed), np.int64, len(listed)))
        return Blobs(b"".join(listed), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> bytes:
        start = int(self.ends[index - 1]) if index else 0
        return self.joined[start : int(self.ends[index])]

    def __iter__(self) -> Iterator[bytes]:
        return (self[index] for index in range(len(self)))


class TaskColumns(msgspec.Struct, frozen=True):
    """New tasks, as columns of equal length; `shape` indexes the event's own `shapes`.

    Edges are pairs of positions in these columns: task `heads[i]` needs task `tails[i]`.
    """

    names: Blobs
    shape: NDArray[np.int32]
    priority: NDArray[np.int32]
    deadline_s: NDArray[np.float64]  # on the node's clock; inf: none
    retries: NDArray[np.uint8]
    heads: NDArray[np.int32]
    tails: NDArray[np.int32]
    arguments: Blobs | None = None  # MessagePack, where tasks of one shape differ; None: each is its shape's form
    fallback: dict[int, str] = {}
    device: dict[int, str] = {}


class Event(msgspec.Struct, frozen=True, tag_field="event", kw_only=True):
    """Root of all events. `at_s` is the node's clock."""

    at_s: float


class KernelBooted(Event, frozen=True, tag="kernel-booted"):
    """A kernel took the journal; whatever ran under an older epoch is no longer ours."""

    epoch: int
    node: str  # opaque; makes idempotency keys unique among all nodes
    version: str


class MissionSubmitted(Event, frozen=True, tag="mission-submitted"):
    mission: str
    name: str
    goal: str
    owner: str
    key: str  # the submitter's idempotency key, "" for none
    seed: int
    deadline_s: float | None
    document: bytes  # as submitted, for people
    shapes: tuple[Shape, ...]
    tasks: TaskColumns


class TasksAdded(Event, frozen=True, tag="tasks-added"):
    """Tasks that `parent` spawned, or that repair it. Whoever needs `parent` needs them as well."""

    parent: int
    repairs: bool
    replan_s: float  # opaque
    shapes: tuple[Shape, ...]
    tasks: TaskColumns


class TasksPlaced(Event, frozen=True, tag="tasks-placed"):
    """For an effectful task this is the INTENT: durable before the device hears of it."""

    ids: Ids
    devices: tuple[str, ...]
    device: NDArray[np.uint16]  # index into `devices`, per id
    decisions: tuple[Decision, ...]
    decision: NDArray[np.uint32]  # index into `decisions`, per id
    effectful: NDArray[np.bool_]
    epoch: int


class TasksFinished(Event, frozen=True, tag="tasks-finished"):
    ids: Ids
    results: Blobs  # MessagePack of `Result`


class AttemptsFailed(Event, frozen=True, tag="attempts-failed"):
    """One attempt each did not succeed; `rung` is what the ladder does next."""

    ids: Ids
    device: str
    reason: str
    rung: Rung
    lost_s: float | None = None  # how long the device had been silent when it was called lost


class AttemptsLost(Event, frozen=True, tag="attempts-lost"):
    """The kernel died with these under way and it is safe to run them again; not counted as a try."""

    ids: Ids
    reason: str


class AttemptsUnknown(Event, frozen=True, tag="attempts-unknown"):
    ids: Ids
    device: str
    reason: str


class UnknownResolved(Event, frozen=True, tag="unknown-resolved"):
    """A person or a planner said what became of an unknown effect."""

    ids: Ids
    happened: bool  # True: it is done; False: it never happened and may be tried again
    by: str


class RepairRefused(Event, frozen=True, tag="repair-refused"):
    ids: Ids
    reason: str


class TasksRerouted(Event, frozen=True, tag="tasks-rerouted"):
    """No device of this fleet can do the action: the named fallback takes over, or a planner, or the task fails."""

    ids: Ids
    reason: str
    fallback: bool
    repair: bool = False


class CancelAsked(Event, frozen=True, tag="cancel-asked"):
    ids: Ids
    by: str


class TasksCancelled(Event, frozen=True, tag="tasks-cancelled"):
    """The device confirmed that the attempt stopped."""

    ids: Ids


class ChunkEmitted(Event, frozen=True, tag="chunk-emitted"):
    id: int
    chunk: bytes  # MessagePack


class DeadlineMissed(Event, frozen=True, tag="deadline-missed"):
    ids: Ids


class MissionEnded(Event, frozen=True, tag="mission-ended"):
    """No task of the mission can go on. Follows from the tasks; written down for whoever watches."""

    mission: str
    state: MissionState
    reason: str = ""


class DeviceChanged(Event, frozen=True, tag="device-changed"):
    device: str
    state: DeviceState
    reason: str = ""
    pid: int | None = None  # opaque


class EngineCrashed(Event, frozen=True, tag="engine-crashed"):
    engine: str
    reason: str
    restarts: int
    wait_s: float


class Halted(Event, frozen=True, tag="halted"):
    """Journaled after the fact: nothing gates a stop."""

    devices: tuple[str, ...]
    by: str


AnyEvent = (
    KernelBooted
    | MissionSubmitted
    | TasksAdded
    | TasksPlaced
    | TasksFinished
    | AttemptsFailed
    | AttemptsLost
    | AttemptsUnknown
    | UnknownResolved
    | RepairRefused
    | TasksRerouted
    | CancelAsked
    | TasksCancelled
    | ChunkEmitted
    | DeadlineMissed
    | MissionEnded
    | DeviceChanged
    | EngineCrashed
    | Halted
)

_DTYPES: dict[str, int] = {"<i8": 1, "<i4": 2, "<f8": 3, "|u1": 4, "<u2": 5, "<u4": 6, "|b1": 7}
_CODES = {code: np.dtype(text) for text, code in _DTYPES.items()}


def _enc_hook(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False))
        return msgspec.msgpack.Ext(_DTYPES[little.dtype.str], little.data.cast("B") if little.size else b"")
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value).__name__} has no place in an event")


def _ext_hook(code: int, data: memoryview) -> Any:
    if code not in _CODES:
        raise msgspec.DecodeError(f"no column has the type code {code}")
    if len(data) % _CODES[code].itemsize:
        raise msgspec.DecodeError(f"{len(data)} bytes are no whole number of {_CODES[code]} items")
    # Copied, so that a block of the journal can be freed while its columns live on.
    return np.frombuffer(data, dtype=_CODES[code]).copy()


def _dec_hook(expected: Any, value: Any) -> Any:
    """A column of another type than its field's would be read as other numbers: refused."""
    if not isinstance(value, np.ndarray):
        raise ValueError("a column is not one")
    wanted = np.dtype(get_args(get_args(expected)[1])[0])
    if value.dtype != wanted:
        raise ValueError(f"a column of {wanted} holds {value.dtype}")
    return value


_encoder = msgspec.msgpack.Encoder(enc_hook=_enc_hook)
_decoder = msgspec.msgpack.Decoder(list[AnyEvent], dec_hook=_dec_hook, ext_hook=_ext_hook)


def encode_events(events: Sequence[Event]) -> bytes:
    """One journal block."""
    return _encoder.encode(list(events))


def decode_events(block: bytes | memoryview) -> list[Event]:
    """Raises `msgspec.DecodeError` on anything that `encode_events` did not write."""
    try:
        return list(_decoder.decode(block))
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError(f"a text of the block is not UTF-8: {error}") from error


def ids_of(*ids: int) -> Ids:
    return np.array(ids, dtype=np.int64)

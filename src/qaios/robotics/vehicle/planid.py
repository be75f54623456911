"""Plan ids on the wire: the MAVLink 2 extension fields that pymavlink 2.4.50 does not carry yet.

MAVLink's common dialect has, since 2023, `opaque_id` at the end of MISSION_COUNT and MISSION_ACK, and `mission_id`,
`fence_id`, `rally_points_id` at the end of MISSION_CURRENT. Extension fields are outside the checksum's seed, so
a packet with them is valid for those who do not know them; these functions write and read them at their place in
the payload. The standard lets the vehicle choose the id; ours takes the one a ground station proposes in
MISSION_COUNT when it is not zero, so that whoever uploaded can recognise his plan after losing all memory.
"""

from __future__ import annotations

import struct
from typing import Any

# Payload offset of the id, by message id.
_COUNT, _ACK, _CURRENT = 44, 47, 42
_OFFSET = {_COUNT: 5, _ACK: 4, _CURRENT: 6}


def _payload(message: Any) -> bytes:
    packet = bytes(message.get_msgbuf())
    return packet[10:-2] if packet and packet[0] == 0xFD else b""


def read(message: Any) -> int:
    """The plan id of a received MISSION_COUNT, MISSION_ACK or MISSION_CURRENT (the mission's); 0 when there is none."""
    offset = _OFFSET[message.get_msgId()]
    field = _payload(message)[offset : offset + 4]
    return int.from_bytes(field.ljust(4, b"\0"), "little")


def pack(mav: Any, message: Any, *ids: int) -> bytes:
    """The packet of `message` (one of the three) with its ids appended; `mav` is a pymavlink MAVLink.

    MISSION_CURRENT takes mission, fence and rally ids; the others one.
    """
    body = bytes(message.pack(mav)[10:-2])
    offset = _OFFSET[message.get_msgId()]
    payload = body.ljust(offset, b"\0")[:offset] + b"".join(struct.pack("<I", plan) for plan in ids)
    return bytes(message._pack(mav, message.crc_extra, payload))

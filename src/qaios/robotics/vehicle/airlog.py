"""The sample log: every air reading of this flight, kept on the vehicle and served by MAVLink's log protocol.

NAMED_VALUE_FLOAT "pm25" tells each reading as it is made, but a lossy link drops some; LOG_REQUEST_LIST shows one
log, **id 1**, and LOG_REQUEST_DATA gives its bytes, 90 at a time, from any offset, as often as asked. The log is a
plain array of 24-byte little-endian records, struct `<Iiifff`:

    uint32  time_boot_ms      when
    int32   lat, lon          where, degrees * 1e7
    float   relative_alt      m above home
    float   pm25              ug/m3
    float   sigma             ug/m3, one standard deviation

LOG_ERASE empties it. It dies with the vehicle, as the card in a lost drone does.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from qaios.robotics.geo import Origin
from qaios.worlds.wire import AirSample, Vec3

if TYPE_CHECKING:
    from qaios.robotics.vehicle.endpoint import Address, Endpoint

LOG_ID = 1
RECORD = struct.Struct("<Iiifff")
CHUNK_BYTES = 90
CHUNKS_PER_REQUEST = 256


class AirLog:
    """Samples in the order they were made."""

    def __init__(self, frame: Origin) -> None:
        self._frame = frame
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // RECORD.size

    def add(self, sample: AirSample, position_m: Vec3) -> None:
        lon, lat = self._frame.place(position_m[0], position_m[1])
        self._bytes += RECORD.pack(
            round(sample.t_s * 1000.0),
            round(lat * 1e7),
            round(lon * 1e7),
            position_m[2],
            sample.pm25_ugm3,
            sample.sigma_ugm3,
        )

    def take(self, endpoint: Endpoint, message: Any, peer: Address) -> None:
        """Answer one message of the log protocol."""
        match message.get_type():
            case "LOG_REQUEST_LIST":
                now_s = int(endpoint.epoch_s + endpoint.autopilot.now_s)
                entry = endpoint.mav.log_entry_encode(LOG_ID, 1, LOG_ID, now_s, len(self._bytes))
                endpoint.answer(entry, peer)
            case "LOG_REQUEST_DATA" if message.id == LOG_ID:
                self._serve(endpoint, message.ofs, message.count, peer)
            case "LOG_ERASE":
                self._bytes.clear()

    def _serve(self, endpoint: Endpoint, offset: int, count: int, peer: Address) -> None:
        """LOG_DATA from `offset`; a chunk shorter than 90 bytes, or empty, is the end of the log."""
        end = min(offset + count, offset + CHUNK_BYTES * CHUNKS_PER_REQUEST)
        while offset < end:
            chunk = bytes(self._bytes[offset : min(end, offset + CHUNK_BYTES)])
            padded = list(chunk.ljust(CHUNK_BYTES, b"\0"))
            endpoint.answer(endpoint.mav.log_data_encode(LOG_ID, offset, len(chunk), padded), peer)
            if len(chunk) < CHUNK_BYTES:
                return
            offset += CHUNK_BYTES

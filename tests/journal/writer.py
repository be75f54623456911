"""A process that appends to a journal until something stops it; run by the tests of the journal.

    python writer.py JOURNAL [--file-max BYTES] [--read-only]

Says on stdout, a line each: `acked N` for every durable block, `broken MESSAGE` when the journal is.
"""

import asyncio
import ctypes
import resource
import signal
import sys
from pathlib import Path

from qaios.core.errors import JournalBroken
from qaios.core.events import KernelBooted, decode_events, encode_events
from qaios.journal.sqlite import SqliteJournal


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def limit_file_size(size_bytes: int) -> None:
    """A disk that is full after `size_bytes`: the write itself fails, as on a real one."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


def give_up_capabilities() -> None:
    """Even root must obey file permissions from now on (capset to nothing, version 3 header)."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


async def append_for_ever(journal: SqliteJournal) -> None:
    number = journal.head[0]
    while True:
        number += 1
        event = KernelBooted(at_s=float(number), epoch=number, node="n" * 200, version="1")
        say(f"acked {await journal.append([event])}")


def main() -> None:
    arguments = sys.argv[1:]
    path = Path(arguments[0])
    try:
        if "--read-only" in arguments:
            give_up_capabilities()
        journal = SqliteJournal(path, encode=encode_events, decode=decode_events)
        if "--file-max" in arguments:
            limit_file_size(int(arguments[arguments.index("--file-max") + 1]))
        asyncio.run(append_for_ever(journal))
    except JournalBroken as error:
        say(f"broken {error}")


if __name__ == "__main__":
    main()

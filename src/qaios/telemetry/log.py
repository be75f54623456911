"""The node's log: one JSON object a line, in `QAIOS_HOME/log/node.log`, rotated by size.

It is for people and for `qai logs`; the truth is the journal. Standard `logging` underneath, so that what
libraries say lands there too.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
from pathlib import Path
from typing import Any

_FIELDS = ("mission", "task", "device", "engine")


class JsonLines(logging.Formatter):
    """`at` is the machine's wall clock, seconds since the Unix epoch."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": round(record.created, 3),
            "level": record.levelname.lower(),
            "from": record.name,
            "text": record.getMessage(),
        }
        line.update({name: getattr(record, name) for name in _FIELDS if hasattr(record, name)})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def open_log(home: Path, *, bytes_max: int = 8_000_000, files: int = 4) -> logging.Handler:
    """Send `qaios` and warnings of libraries to the node's log; returns the handler, to be closed by `close_log`."""
    folder = home / "log"
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.handlers.RotatingFileHandler(
        folder / "node.log", maxBytes=bytes_max, backupCount=files, encoding="utf-8"
    )
    handler.setFormatter(JsonLines())
    ours = logging.getLogger("qaios")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    return handler


def close_log(handler: logging.Handler) -> None:
    logging.getLogger("qaios").removeHandler(handler)
    handler.close()

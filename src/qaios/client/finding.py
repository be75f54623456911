"""Which home, and does that process live? The few answers that `qai halt` needs before anything else is imported.

Only modules that cost next to nothing are used here: no typing, no pathlib, no dataclasses. That is also why the start
of a process is read here once more, and not by `drivers.worker`, which brings asyncio along. What can wait is in
`client.run_files`.
"""

from __future__ import annotations

import os
import sys


def home_text() -> str:
    """`QAIOS_HOME`, or the platform's folder for state, as an absolute path."""
    named = os.environ.get("QAIOS_HOME")
    if named:
        return os.path.abspath(os.path.expanduser(named))  # noqa: PTH100, PTH111 - pathlib costs more than halting
    if sys.platform == "linux":
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111
        return os.path.join(state, "qaios")  # noqa: PTH118
    import platformdirs

    return platformdirs.user_state_dir("qaios", appauthor=False)


def read_text(path: str) -> str | None:
    """The file's text; None when there is no such file or it is not text."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            return file.read()
    except (OSError, UnicodeDecodeError):
        return None


def is_running(pid: int, started_s: float = 0.0) -> bool:
    """Whether this process lives and, where its start is known, is still the same one."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it lives and belongs to somebody else
    now_s = process_started_s(pid)
    if now_s is None:
        return sys.platform != "linux"  # elsewhere nobody says when it started; on Linux it has just ended
    return not started_s or abs(now_s - started_s) < 1.0


def process_started_s(pid: int) -> float | None:
    """When a process started, in seconds after the machine's boot; None where the machine does not say."""
    text = read_text(f"/proc/{pid}/stat")
    if text is None or ")" not in text:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    if fields[0] in ("Z", "X"):
        return None  # a zombie has ended
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")

"""QAI OS: one kernel for quantum, classical, AI and robot work.

`import qaios` costs nothing: what a notebook or script needs is loaded when first asked for, so that `qai --help`
stays fast and no SDK is imported by accident. `__init__.pyi` tells type checkers what is here.

    Mission, task       missions written in Python       (qaios.client.notebook, qaios.client.tasks)
    Client, SyncClient  a node that runs already         (qaios.client)
    System, Settings    a node in this process           (qaios.system)
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["Client", "Mission", "Settings", "SyncClient", "System", "__version__", "task"]

_WHERE = {
    "Client": "qaios.client.http",
    "Mission": "qaios.client.notebook",
    "Settings": "qaios.system.config",
    "SyncClient": "qaios.client.sync",
    "System": "qaios.system.system",
    "task": "qaios.client.tasks",
}


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'qaios' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

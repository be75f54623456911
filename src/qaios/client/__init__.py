"""The typed client of a running node, and the notebook's missions. The command line uses them, and so may any program.

`Client` (async) and `SyncClient` are loaded when first asked for: httpx and pydantic alone cost more than
all of `qai --help`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qaios.client.http import Client
    from qaios.client.sync import SyncClient

__all__ = ["Client", "SyncClient"]


def __getattr__(name: str) -> Any:
    if name == "Client":
        from qaios.client.http import Client

        return Client
    if name == "SyncClient":
        from qaios.client.sync import SyncClient

        return SyncClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Functions for missions in tests: importable, as every task function must be."""

from __future__ import annotations

from qaios import task


@task(priority=1)
def double(x: int) -> int:
    return 2 * x


@task
def total(parts: list[int], extra: int = 0) -> dict[str, int]:
    return {"sum": sum(parts) + extra}

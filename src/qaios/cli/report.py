"""A mission's report for people: the outcome, the tasks, the metrics, where the artifacts are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from qaios.cli.output import duration, emit_table, paint

if TYPE_CHECKING:
    from qaios.schema.views import MissionReport


def show_report(report: MissionReport) -> None:
    """A report for people: the outcome, the tasks, the metrics, where the artifacts are."""
    took = f" in {duration(report.duration_s)} of mission time" if report.duration_s is not None else ""
    simulated = ", simulated" if report.simulated else ""
    click.echo(f"mission {report.mission} ({report.id}): {paint(report.state)}{took}, seed {report.seed}{simulated}")
    if report.reason:
        click.echo(f"reason: {report.reason}")
    in_order = sorted(report.tasks, key=lambda row: (row.started is None, row.started))
    emit_table(in_order, _task_columns(report.submitted))
    for name, value in report.metrics.items():
        click.echo(f"{name}\t{value:.4g}" if isinstance(value, float) else f"{name}\t{value}")
    for artifact in report.artifacts:
        click.echo(f"artifact\t{artifact.name}\t{artifact.size_bytes} bytes\t{artifact.sha256}")


def _task_columns(submitted: float) -> tuple[tuple[str, Callable[[Any], Any]], ...]:
    return (
        ("TASK", lambda row: row.name),
        ("STATE", lambda row: row.state),
        ("PRIORITY", lambda row: row.priority),
        ("ACTION", lambda row: row.action),
        ("DEVICE", lambda row: row.device),
        ("ATTEMPTS", lambda row: row.attempts),
        ("BEGAN", lambda row: duration(row.started - submitted) if row.started is not None else "-"),
        (
            "TOOK",
            lambda row: duration(row.ended - row.started) if row.ended is not None and row.started is not None else "-",
        ),
        ("WAITED FOR", lambda row: "; ".join(row.why.waited_for)),
        ("ERROR", lambda row: row.error.message if row.error is not None else None),
    )

"""`qai` as a click group; its verbs are in `cli.verbs`."""

from __future__ import annotations

import os

import click

import qaios
from qaios.cli.lazy import LazyGroup
from qaios.cli.verbs import ABOUT, EPILOG, VERBS


@click.group(
    cls=LazyGroup,
    verbs=VERBS,
    help=ABOUT,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(qaios.__version__, "--version", prog_name="qai", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    if os.environ.get("NO_COLOR"):
        ctx.color = False

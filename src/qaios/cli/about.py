"""`qai version` and `qai completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from qaios.cli.output import emit_one, output_option


@click.command()
@output_option
def version(form: str) -> None:
    """Print the version."""
    import platform

    import qaios

    row = {"version": qaios.__version__, "python": platform.python_version(), "platform": platform.platform()}
    emit_one(row, form, lambda: click.echo(f"qai {qaios.__version__}"), name="version")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    bash: eval "$(qai completion bash)" in ~/.bashrc; zsh the same in ~/.zshrc;
    fish: qai completion fish > ~/.config/fish/completions/qai.fish
    """
    from qaios.cli.group import cli

    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(maker(cli, {}, "qai", "_QAI_COMPLETE").source())

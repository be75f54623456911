"""`qai`: the entry point, and how every error ends.

Data goes to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 invalid,
5 conflict, 6 permission, 7 unreachable, 8 deadline, 130 interrupt (`core.errors` says which error is which).
"""

from __future__ import annotations

import os
import sys

from qaios.cli.verbs import help_text

EXIT_INTERRUPTED = 130


def run(arguments: list[str] | None = None) -> int:
    """The exit code of a command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--help"], ["-h"]):
        sys.stdout.write(help_text())
        return 0
    if given[:1] == ["halt"]:
        from qaios.cli import halting

        halting.begin(given[1:])
    import click

    from qaios.cli.group import cli

    try:
        code = cli.main(given, prog_name="qai", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; nothing more may be written, not even by Python's own farewell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from qaios.core.errors import QaiError

        if isinstance(error, OSError) and error.filename is not None:
            return show_disk_error(error)
        if not isinstance(error, QaiError):
            raise
        show_error(error)
        return error.exit_code


def show_disk_error(error: OSError) -> int:
    """A folder that is not there or may not be written is the person's to mend: no traceback. Returns the exit code."""
    import click

    from qaios.core.errors import Denied, QaiError

    click.echo(f"error: {error.filename}: {error.strerror}", err=True)
    click.echo("hint: QAIOS_HOME must name a folder that you may write and that has room; see `qai doctor`", err=True)
    return Denied.exit_code if isinstance(error, PermissionError) else QaiError.exit_code


def show_error(error: Exception) -> None:
    """What went wrong and what to do about it, on stderr."""
    import click

    from qaios.core.errors import MissionInvalid

    if isinstance(error, MissionInvalid):
        count = len(error.faults)
        click.echo(f"{error}\n{count} fault{'s' if count != 1 else ''}", err=True)
        return
    click.echo(f"error: {error}", err=True)
    hint = getattr(error, "hint", "")
    if hint:
        click.echo(f"hint: {hint}", err=True)


def main() -> None:
    """The script `qai`."""
    sys.exit(run())


if __name__ == "__main__":
    main()

"""`apportion`: the commands assembled, and the one place where a user's fault becomes a line and an exit code."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..formats.errors import ApportionError
from ..stages.commands import commands
from .show import show
from .typed import as_typer


class Commands(TyperGroup):
    """Print a user's fault as one `error:` line and exit with its code; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ApportionError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(error.exit_code) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None


app = typer.Typer(
    name="apportion",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failed at run time, 2 wrong usage or recipe, 3 bad data, 4 some rows failed, 5 gate.",
)


def _version(shown: bool) -> None:
    if shown:
        from .. import __version__

        typer.echo(f"apportion {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    plugin: Annotated[
        list[Path] | None, typer.Option("--plugin", help="Python file that registers methods, scorers …; repeatable.")
    ] = None,
) -> None:
    """Which tokens, steps and branches of a rollout earned its reward?

    sample -> tree-build -> score -> assign-credit -> train -> eval: every stage reads and writes one Parquet file.
    """
    if plugin:
        from ..stages.registry import load_plugin

        for path in plugin:
            load_plugin(path)


def _assemble() -> None:
    folders: dict[str, typer.Typer] = {}
    for command in commands().values():
        folder, _, name = command.name.rpartition(" ")
        if folder and folder not in folders:
            folders[folder] = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
            app.add_typer(folders[folder], name=folder, help=f"{folder}: see its commands.")
        (folders[folder] if folder else app).command(name)(as_typer(command, show))


_assemble()


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()

"""`apportion`: the commands assembled, and the one place where a user's fault becomes a line and an exit code."""

import atexit
import errno
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from types import FrameType
from typing import Annotated, Any, TextIO, cast

import typer
from typer.core import TyperGroup

from ..formats.errors import ApportionError, DeprecatedUse, ForeignFileError, unknown
from ..stages.core.extras import missing_extra
from ..stages.core.harmless import HarmlessStream
from ..stages.core.plugin_faults import blame_plugins
from ..stages.core.table import commands
from ..stages.core.trust import trust_remote_code
from .show import show
from .typed import PLUGIN, as_typer

# What a wrong command line raises, in whichever click this typer brings.
_WrongUse: Any = typer.BadParameter.mro()[1]


NOTICES = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)  # that something will change one day
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a write to a full disk raises


class Commands(TyperGroup):
    """Print a user's fault as one `error:` line and exit with its code; a bug keeps its traceback."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _faults_as_lines():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _faults_as_lines():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the pipeline; Typer would put folders last."""
        firsts = list(dict.fromkeys(name.split()[0] for name in commands()))
        return super().list_commands(ctx) if ctx.parent else sorted(self.commands, key=firsts.index)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and not args[0].startswith("-") and args[0] not in self.commands:
            folder = f"{ctx.info_name} " if ctx.parent else ""
            raise unknown("command", folder + args[0], [folder + name for name in self.commands])
        return super().resolve_command(ctx, args)


@contextmanager
def _faults_as_lines() -> Iterator[None]:
    try:
        with blame_plugins():
            yield
    except ApportionError as error:
        print(getattr(error, "frames", ""), end="", file=sys.stderr)
        print(f"error: {' '.join(str(error).split())}{_way_in(error)}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    except ModuleNotFoundError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        print(f"error: {missing}", file=sys.stderr)
        raise typer.Exit(missing.exit_code) from error
    except _WrongUse as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        fault: Any = error
        message = " ".join(fault.format_message().split()).rstrip(".").replace(": Value error, ", ": ")
        hint = _near_choice(message) or (f"; see `{fault.ctx.command_path} --help`" if fault.ctx is not None else "")
        print(f"error: {message[:1].lower()}{message[1:]}{hint}", file=sys.stderr)
        raise typer.Exit(fault.exit_code) from error
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        if error.errno not in FULL or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(_not_written(error), file=sys.stderr)
        raise typer.Exit(1) from None


def _way_in(error: ApportionError) -> str:
    """The import that takes a file which is no rollout file; empty where none does, and for any other fault."""
    if not isinstance(error, ForeignFileError):
        return ""
    from ..stages.exchange.guess import importer_of

    name = importer_of(error.path)
    return f"; `apportion import {error.path} -o OUT` reads it as {name}" if name else ""


def _hush_others() -> None:
    """Keep notices of other projects' changes off the terminal, where nobody can do anything about them; ours are a line.

    Not by a filter: a library that is imported later may put its own before it. Whoever asks for warnings (python -W,
    PYTHONWARNINGS) gets them as always.
    """
    if sys.warnoptions:
        return
    usual, told = warnings.showwarning, set[str]()

    def shown(message: Any, category: type[Warning], *place: Any, **named: Any) -> None:
        if issubclass(category, DeprecatedUse):
            line = f"warning: {' '.join(str(message).split())}"
            if line not in told:
                told.add(line)
                print(line, file=sys.stderr)
        elif not issubclass(category, NOTICES):
            usual(message, category, *place, **named)

    warnings.showwarning = shown
    # For the processes that a command starts.
    os.environ["PYTHONWARNINGS"] = ",".join(f"ignore::{category.__name__}" for category in NOTICES)


def _not_written(error: OSError) -> str:
    return f"error: standard output: not written ({error.strerror or error})"


def _near_choice(message: str) -> str:
    """What was meant by a value that is none of the choices, which click knows in words only; empty if that can't be told.

    >>> _near_choice("'metods' is not one of 'methods', 'tasks'")
    "; did you mean 'methods'?"
    """
    given, _, choices = message.partition(" is not one of ")
    near = get_close_matches(given.rpartition(" '")[2].strip("'"), re.findall(r"'([^']*)'", choices), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
    plugin: PLUGIN = None,
    trusted: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run code that comes with the models named; otherwise none runs."),
    ] = False,
) -> None:
    """Which tokens, steps and branches of a rollout earned its reward?

    sample -> tree-build -> score -> assign-credit -> train -> eval: every stage reads and writes one Parquet file.
    """
    trust_remote_code(trusted)
    if os.environ.get("APPORTION_PLUGINS"):
        from ..stages.core.plugin_files import load_named_by_environment

        load_named_by_environment()


def _assemble() -> None:
    folders: dict[str, typer.Typer] = {}
    for command in commands().values():
        folder, _, name = command.name.rpartition(" ")
        if folder and folder not in folders:
            folders[folder] = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None)
            about = (sys.modules[command.function.__module__].__doc__ or "").partition("\n")[0]
            app.add_typer(folders[folder], name=folder, help=about)
        (folders[folder] if folder else app).command(name)(as_typer(command, show))


_assemble()


def main() -> None:
    """Entry point of the console script."""
    # Read when torch is imported. Threads that spin while they wait halve the speed of a machine with other work to do.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _hush_others()
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the command
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    # Whatever a file, a server or a model says, and this is told: one place where it becomes harmless.
    sys.stdout, sys.stderr = (cast("TextIO", HarmlessStream(stream)) for stream in (sys.stdout, sys.stderr))
    for number, usual in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        if signal.getsignal(number) is usual:
            signal.signal(number, _end)
    try:
        app()
    except SystemExit as ended:
        _leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    except KeyboardInterrupt:  # a second one, while the first was being answered
        _leave(128 + signal.SIGINT)


def _end(number: int, frame: FrameType | None) -> None:
    """Raise what takes away whatever is being written. Not within an import, which may swallow it, as pyarrow's of pandas
    does: then a moment later."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            again = threading.Timer(0.05, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _leave(code: int) -> None:
    """End the process at once. On the ordinary way out pyarrow's threads are taken down with the libraries, and one that
    is just starting aborts the process ("terminate called without an active exception"), seldom, when all is done.

    A signal that comes now raises nothing, which nobody could catch: it ends the process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is _end:
            signal.signal(number, lambda number, frame: os._exit(128 + number))
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        print(_not_written(error), file=sys.stderr)
        code = code or 1
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

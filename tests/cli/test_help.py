"""Help and listings: complete, and cheap."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from apportion import __version__
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.core.table import commands
from typer.testing import Result

Cli = Callable[..., Result]

COMMANDS = commands()
FOLDERS = sorted({name.rpartition(" ")[0] for name in COMMANDS} - {""})
MODELS = {"torch", "transformers", "datasets", "pyarrow.dataset", "reasoning_gym", "matplotlib"}
WATCHED = (*MODELS, "pyarrow", "numpy", "rich")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_names_every_option(name: str, cli: Cli) -> None:
    result = cli(*name.split(), "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    words = " ".join(result.stdout.split())
    assert COMMANDS[name].summary
    assert " ".join(COMMANDS[name].summary.split()) in words
    for option in COMMANDS[name].options().values():
        assert option.help, f"{name}: {option.key} has no help"
        for flag in option.flags or (option.name,):
            assert flag in words


@pytest.mark.parametrize("folder", FOLDERS)
def test_help_of_a_folder_lists_its_commands(folder: str, cli: Cli) -> None:
    result = cli(folder, "--help")
    assert result.exit_code == 0
    inside = [name.removeprefix(f"{folder} ") for name in COMMANDS if name.startswith(f"{folder} ")]
    assert [line.split()[0] for line in result.stdout.partition("Commands:\n")[2].splitlines()] == inside


def test_help_lists_the_commands_in_the_order_of_the_pipeline(cli: Cli) -> None:
    result = cli("--help")
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.partition("Commands:\n")[2].splitlines() if line.strip()]
    assert listed[: listed.index("Exit")] == list(dict.fromkeys(name.split()[0] for name in COMMANDS))


def test_no_arguments_show_the_help_and_end_with_2(cli: Cli) -> None:
    result = cli()
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"apportion {__version__}\n"


def test_version_of_the_module() -> None:
    words = [sys.executable, "-m", "apportion", "--version"]
    found = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == f"apportion {__version__}\n"


def imported_by(code: str) -> set[str]:
    """Which of WATCHED a fresh process has imported after `code`."""
    report = f"\nimport sys\nprint('FOUND', *[name for name in {WATCHED} if name in sys.modules])"
    ended = subprocess.run(
        [sys.executable, "-c", code + report], capture_output=True, text=True, timeout=60, check=True
    )
    return set(ended.stdout.splitlines()[-1].split()[1:])


def running(*command_lines: str) -> str:
    return f"""
from apportion.cli.main import app
for line in {command_lines!r}:
    try:
        app(line.split())
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""


def test_help_imports_nothing_heavy() -> None:
    every = ["--help", *(f"{name} --help" for name in (*FOLDERS, *COMMANDS))]
    assert imported_by(running(*every)) == set()


def test_listing_methods_imports_no_model_library() -> None:
    assert imported_by(running("list methods", "list recipes")) & MODELS == set()


def test_the_check_for_heavy_imports_can_fail() -> None:
    assert imported_by("import pyarrow.dataset") >= {"pyarrow.dataset", "pyarrow"}


def listing(cli: Cli, kind: str) -> list[dict]:
    result = cli("list", kind, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_methods_as_json_say_what_they_need_and_where_they_come_from(cli: Cli) -> None:
    entries = listing(cli, "methods")
    assert [entry["name"] for entry in entries] == [method.name for method in METHODS]
    assert {"grpo", "rloo", "tempo"} <= {entry["name"] for entry in entries}
    for entry in entries:
        assert isinstance(entry["needs"], list)
        assert all(entry[key] for key in ("granularity", "source", "evidence", "summary"))


@pytest.mark.parametrize("kind", ["methods", "tasks", "scorers", "strategies", "engines", "objectives", "recipes"])
def test_a_listing_as_json_is_objects_with_name_and_summary(kind: str, cli: Cli) -> None:
    entries = listing(cli, kind)
    assert entries
    assert all(entry["name"] and entry["summary"] for entry in entries)
    assert len({entry["name"] for entry in entries}) == len(entries)


@pytest.mark.parametrize("kind", ["methods", "scorers", "strategies", "objectives", "recipes"])
def test_a_listing_on_a_terminal_has_every_name(kind: str, cli: Cli) -> None:
    shown = cli("list", kind).stdout
    assert all(line.strip() for line in shown.splitlines())  # an option's text of several lines stays in its own
    for entry in listing(cli, kind):
        assert entry["name"] in shown

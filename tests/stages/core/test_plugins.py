"""What a user's file or an installed package registers: whole or not at all, and part of what it made."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.errors import UsageError
from apportion.formats.parquet import RolloutFile
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.core.kinds import kinds
from apportion.stages.core.plugin_files import load_plugin
from apportion.stages.core.plugins import plugin_digests
from apportion.stages.score.kind import SCORERS
from typer.testing import Result

Cli = Callable[..., Result]

METHOD = '''
from apportion.stages.assign_credit.kind import credit_method

@credit_method(granularity="rollout", methodology="monte-carlo", source="theirs", evidence="guess")
def {name}(credit, *, scale: float = 1.0):
    """Theirs."""
    return {factor} * scale * (credit.reward - credit.groups.spread(credit.groups.mean(credit.reward)))
'''


pytestmark = pytest.mark.usefixtures("forget_plugins")


def file_of(folder: Path, name: str = "theirs", factor: float = 1.0, more: str = "") -> Path:
    path = folder / f"{name}.py"
    path.write_text(METHOD.format(name=name, factor=factor) + more)
    return path


def load_anew(path: Path) -> None:
    """As the next command would, in a process of its own."""
    for name in [name for name, plugin in METHODS.brought_by.items() if plugin.path == path]:
        METHODS.remove(name)
    load_plugin(path)


# ------------------------------------------------------------------------------------------------ whole or not at all


@pytest.mark.parametrize("fault", ["import nothing_of_that_name", "1 / 0", "raise SystemExit(3)", "def"])
def test_a_file_that_fails_late_has_registered_nothing(cli: Cli, tmp_path: Path, fault: str) -> None:
    path = file_of(tmp_path, more=f"\n{fault}\n")
    before = [method.name for method in METHODS]
    result = cli("--plugin", path, "list", "methods")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"error: --plugin {path}: ")
    assert [method.name for method in METHODS] == before
    file_of(tmp_path)
    assert cli("--plugin", path, "list", "methods").exit_code == 0  # mended, it is as if nothing had been


def test_a_name_that_is_taken_is_one_line(cli: Cli, tmp_path: Path) -> None:
    path = file_of(tmp_path, "grpo")
    result = cli("--plugin", path, "list", "methods")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: --plugin {path}: credit method 'grpo' is there already (built in); choose another name (line 4 of grpo.py)\n"
    )
    (tmp_path / "other").mkdir()
    first, second = file_of(tmp_path), file_of(tmp_path / "other")
    result = cli("--plugin", first, "--plugin", second, "list", "methods")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: --plugin {second}: credit method 'theirs' is there already (--plugin {first}); choose another name (line 4 of theirs.py)\n"
    )


def test_built_ins_that_a_plugin_imports_are_not_its_own(tmp_path: Path) -> None:
    """In a process of its own, where the plugin is the first that imports them."""
    path = tmp_path / "late.py"
    path.write_text("from apportion.stages.assign_credit.outcome.grpo import grpo\n1 / 0\n")
    script = f"""
from pathlib import Path
from apportion.formats.errors import UsageError
from apportion.stages.core.plugin_files import load_plugin
try:
    load_plugin(Path({str(path)!r}))
except UsageError as error:
    print(error)
from apportion.stages.assign_credit.kind import METHODS
print(METHODS["grpo"].name, METHODS.brought_by)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == f"--plugin {path}: ZeroDivisionError: division by zero (line 2 of late.py)\ngrpo {{}}\n"


# ------------------------------------------------------------------------------------------------ installed packages


def installed(folder: Path, group: str, code: str, *, name: str = "their_package") -> dict[str, str]:
    """A package with one entry point, as pip leaves it on the path; the environment of a process that has it."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\nit = {name}\n")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def process(environment: dict[str, str], *words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "apportion", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_group_of_methods_is_the_one_that_contributing_names(scored_file: Path, tmp_path: Path) -> None:
    environment = installed(tmp_path, "apportion.methods", METHOD.format(name="theirs", factor=2.0))
    out = tmp_path / "credit.parquet"
    made = process(environment, "assign-credit", scored_file, "--method", "theirs", "-o", out)
    assert made.returncode == 0, made.stderr
    column = RolloutFile(out).read().ragged("token.advantage")
    assert column.segments.first(column.values).tolist() == [1.0, -1.0, 1.0, -1.0]
    (record,) = RolloutFile(out).provenance.history
    assert set(record.inputs) == {"rollouts", "plugin/their_package"}


def test_every_room_with_a_kind_is_found() -> None:
    assert {"methods", "scorers", "strategies", "memories", "objectives", "engines", "tasks"} <= set(kinds())


def test_a_package_has_the_digest_of_all_its_files(tmp_path: Path) -> None:
    """Of its code alone."""
    environment = installed(tmp_path, "apportion.methods", "from . import theirs")
    folder = tmp_path / "their_package"
    folder.mkdir()
    (tmp_path / "their_package.py").rename(folder / "__init__.py")
    script = "from apportion.stages.core.plugins import plugin_digests; print(plugin_digests('assign-credit', {'method': 'theirs'}))"
    told: list[str] = []
    for factor in (1.0, 1.0, 2.0):
        (folder / "theirs.py").write_text(METHOD.format(name="theirs", factor=factor))
        (folder / "notes.txt").write_text(str(len(told)))
        ran = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        )
        told.append(ran.stdout)
    assert told[0] == told[1] != told[2]
    assert told[0].startswith("{'plugin/their_package': '")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (METHOD.format(name="theirs", factor=1.0) + "\nimport nothing\n", "ModuleNotFoundError: No module named 'nothing'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        (METHOD.format(name="grpo", factor=1.0), "credit method 'grpo' is there already (built in); choose another name"),
    ],
)  # fmt: skip
def test_an_entry_point_with_a_fault_is_one_line(tmp_path: Path, code: str, fault: str) -> None:
    environment = installed(tmp_path, "apportion.methods", code)
    told = process(environment, "list", "methods")
    assert told.returncode == 2
    assert told.stderr == (
        f"error: their-package 1.0, entry point 'it' of apportion.methods: {fault}; mend or uninstall it\n"
    )


# ------------------------------------------------------------------------------------------------ what it made


def test_the_history_has_the_digest_of_the_plugin_that_was_used(cli: Cli, tmp_path: Path, scored_file: Path) -> None:
    path = file_of(tmp_path)
    load_plugin(path)
    for method in ("grpo", "theirs"):
        out = tmp_path / f"{method}.parquet"
        assert cli("assign-credit", scored_file, "--method", method, "-o", out).exit_code == 0
        (record,) = RolloutFile(out).provenance.history
        assert ("plugin/theirs.py" in record.inputs) == (method == "theirs")


def test_the_commands_name_the_plugin_and_are_refused_for_another(cli: Cli, tmp_path: Path, scored_file: Path) -> None:
    path, out = file_of(tmp_path), tmp_path / "credit.parquet"
    load_plugin(path)
    cli("assign-credit", scored_file, "--method", "theirs", "-o", out)
    printed = cli("log", out, "--shell").stdout.splitlines()
    assert printed[-1] == (f"apportion --plugin {path} assign-credit input.parquet --method theirs -o credit.parquet")
    digest = plugin_digests("assign-credit", {"method": "theirs"})["plugin/theirs.py"]

    load_anew(file_of(tmp_path, factor=3.0))
    refused = cli("log", out, "--shell")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"used the plugin 'theirs.py' of digest {digest}, loaded is one of " in refused.stderr

    METHODS.remove("theirs")
    refused = cli("log", out, "--shell")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "which is not loaded; run: apportion --plugin FILE log … --shell" in refused.stderr
    assert cli("log", out).exit_code == 0


RECIPE = """
name: small
about: one step of a plugin's and one without
steps:
  - assign-credit: {rollouts: SCORED, method: grpo, out: grpo.parquet}
  - assign-credit: {rollouts: SCORED, method: theirs, out: theirs.parquet}
  - tree-build: {rollouts: theirs.parquet, out: tree.parquet}
"""


def test_an_edited_plugin_runs_again_the_steps_that_use_it(cli: Cli, tmp_path: Path, scored_file: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.replace("SCORED", str(scored_file)))

    def ran() -> tuple[int, int]:
        told = json.loads(cli("run", recipe, "--dir", tmp_path / "run", "--json").stdout)
        return told["ran"], told["skipped"]

    load_plugin(file_of(tmp_path))
    assert ran() == (3, 0)
    assert ran() == (0, 3)
    load_anew(file_of(tmp_path, factor=3.0))
    assert ran() == (2, 1)
    column = RolloutFile(tmp_path / "run/tree.parquet").read().ragged("token.advantage")
    assert column.segments.first(column.values).tolist() == [1.5, -1.5, 1.5, -1.5]


def test_the_commands_of_a_recipe_name_the_plugin(cli: Cli, tmp_path: Path, scored_file: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE.replace("SCORED", str(scored_file)))
    load_plugin(file_of(tmp_path))
    lines = cli("run", recipe, "--shell").stdout.splitlines()
    assert [f"--plugin {tmp_path}/theirs.py" in line for line in lines] == [False, True, False]


TASK = """
from apportion.stages.score.kind import scorer
from apportion.stages.tasks import task_family

task_family("mine")(lambda spec, options: None)
"""


def test_where_a_file_may_name_the_task_a_plugin_with_tasks_counts(tmp_path: Path) -> None:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    load_plugin(path)
    assert set(plugin_digests("score", {"with": "verify"})) == {"plugin/task.py"}
    assert set(plugin_digests("assign-credit", {"method": "grpo"})) == set()
    assert set(plugin_digests("eval policy", {"task": "mine/some"})) == {"plugin/task.py"}


def test_a_plugin_may_not_be_added_twice_under_one_name(tmp_path: Path) -> None:
    entry = SCORERS["verify"]
    with pytest.raises(UsageError, match=r"scorer 'verify' is there already \(built in\)"):
        SCORERS.add(entry)

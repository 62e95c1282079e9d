"""Where a recipe may write: into its run's folder, under names of its own; elsewhere only where the user says so."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from apportion.formats.errors import UsageError
from apportion.formats.recipes import load_recipe
from apportion.stages.run import run
from apportion.stages.run._run import Ran
from apportion.stages.run.lock import only_run
from typer.testing import Result

Cli = Callable[..., Result]


@pytest.fixture
def work(tmp_path: Path, scored_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a scored file, from which recipes run quickly."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(text: str) -> str:
    Path("recipe.yaml").write_text(text)
    return "recipe.yaml"


def files() -> set[str]:
    return {path.as_posix() for path in Path().rglob("*") if path.is_file()}


INSPECT = "inspect: {rollouts: scored.parquet, tree: false, stats: false, "


def test_every_output_lands_in_the_folder(work: Path, cli: Cli) -> None:
    for name in ("a.svg", "a.html"):
        Path(name).write_text("mine")
    file = recipe(f"name: pictures\nsteps: [{INSPECT} svg: a.svg, html: deep/a.html}}]")
    assert cli("run", file).exit_code == 0
    assert Path("runs/pictures/a.svg").is_file()
    assert Path("runs/pictures/deep/a.html").is_file()
    assert Path("a.svg").read_text() == "mine"
    Path("runs/pictures/a.svg").unlink()
    assert cli("run", file).exit_code == 0
    assert Path("runs/pictures/a.svg").is_file(), "a picture that is gone is drawn again"


def test_later_steps_read_any_output_by_its_name(work: Path, cli: Cli) -> None:
    file = recipe(
        """
name: kept
steps:
  - eval policy: {prompts: 1, n: 2, max_tokens: 4, device: cpu, keep: kept.parquet, out: report.json}
  - tree-build: {rollouts: kept.parquet, out: tree.parquet}
"""
    )
    shown = cli("run", file, "--shell").stdout
    assert "--keep runs/kept/kept.parquet" in shown
    assert "tree-build runs/kept/kept.parquet" in shown


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (INSPECT + "svg: ../a.svg}", "svg '../a.svg' is outside of the run's folder"),
        (INSPECT + "html: /tmp/a.html}", "html '/tmp/a.html' is outside of the run's folder"),
        (INSPECT + "html: ~/a.html}", "html '~/a.html' is outside of the run's folder"),
        ("eval policy: {keep: ../a.parquet}", "keep '../a.parquet' is outside of the run's folder"),
        (INSPECT + 'svg: "a\\0"}', "a character that is no text"),
        (INSPECT + "svg: a, html: ./a}", "html './a' is written twice"),
        (
            "tree-build: {rollouts: scored.parquet, out: journal.jsonl}",
            "out 'journal.jsonl' is a name of the run's own",
        ),
        ("tree-build: {rollouts: scored.parquet, out: a/../run.lock}", "is a name of the run's own"),
        ("tree-build: {rollouts: scored.parquet, out: Journal.jsonl/a}", "is a name of the run's own"),
        ("tree-build: {rollouts: scored.parquet, out: a}, score: {rollouts: x, out: a/b}", "step 1"),
    ],
)
@pytest.mark.parametrize("how", [(), ("--shell",), ("--dry-run",)])
def test_a_place_that_is_not_the_steps_own_is_refused(
    work: Path, cli: Cli, step: str, told: str, how: tuple[str, ...]
) -> None:
    before = files()
    result = cli("run", recipe(f"steps: [{{{step}}}]"), *how)
    assert result.exit_code == 2
    assert told in result.stderr
    assert files() == before | {"recipe.yaml"}


def test_an_output_in_another_one_is_refused(work: Path, cli: Cli) -> None:
    for first, second in (("a", "a/b"), ("a/b", "a")):
        steps = f"steps: [split: {{rollouts: x, parts: 2, out: {first}}}, tree-build: {{rollouts: x, out: {second}}}]"
        file = recipe(steps.replace(", tree-build", "}, {tree-build").replace("[split", "[{split").replace("}]", "}}]"))
        result = cli("run", file, "--shell")
        assert (result.exit_code, "lies in another step's output, or holds it" in result.stderr) == (2, True)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", "..", ".hidden", "a\\b", "a\nb"])
def test_a_name_is_no_path(work: Path, name: str) -> None:
    text = name.replace("\\", "\\\\").replace("\n", "\\n")
    with pytest.raises(UsageError, match=r"recipe.yaml: name .*: it names the run's folder"):
        load_recipe(recipe(f'name: "{text}"\nsteps: [log: {{path: x}}]'))


OUT = "vars: {{where: {default}, size: 1}}\nsteps: [tree-build: {{rollouts: scored.parquet, out: '{out}'}}]"


def test_a_place_outside_that_the_user_gave(work: Path, cli: Cli) -> None:
    file = recipe(OUT.format(default="here", out="${where}/tree.parquet"))
    command = ("run", file, "--dir", "run")
    assert cli(*command).exit_code == 0
    assert Path("run/here/tree.parquet").is_file()
    assert cli(*command, "--set", f"where={work}/far").exit_code == 0
    assert Path("far/tree.parquet").is_file()
    again = cli(*command, "--set", f"where={work}/far", "--json")
    assert '"skipped": 1' in again.stdout
    Path("far/tree.parquet").write_text("changed, though this run made it")
    assert cli(*command, "--set", f"where={work}/far").exit_code == 0
    assert Path("far/tree.parquet").read_bytes().startswith(b"PAR1")


def test_what_no_run_made_is_not_overwritten(work: Path, cli: Cli) -> None:
    file = recipe(OUT.format(default="here", out="${where}/tree.parquet"))
    for where, options in (("far", ("--dir", "run", "--set", f"where={work}/far")), ("here", ("--dir", "."))):
        Path(where).mkdir()
        Path(where, "tree.parquet").write_text("mine")
        result = cli("run", file, *options)
        assert result.exit_code == 2
        assert "tree.parquet: exists already, and no run made it" in result.stderr
        assert Path(where, "tree.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("default", "out", "settings"),
    [
        ("/tmp/far", "${where}/a", ()),  # the recipe's own
        ("/tmp/far", "${where}/a", ("--set", "size=2")),
        ("x", "${where}/../../a", ("--set", "where=WORK/far/deep")),  # beyond what the user gave
        ("x", "../a", ("--set", "where=WORK")),  # not in the name
    ],
)
def test_a_place_outside_that_the_user_did_not_give(
    work: Path, cli: Cli, default: str, out: str, settings: tuple[str, ...]
) -> None:
    settings = tuple(each.replace("WORK", str(work)) for each in settings)
    result = cli("run", recipe(OUT.format(default=default, out=out)), "--dir", "run/deep", *settings)
    assert (result.exit_code, "is outside of the run's folder" in result.stderr) == (2, True)


def test_a_link_that_leads_outside_is_outside(work: Path, cli: Cli) -> None:
    Path("run").mkdir()
    Path("far").mkdir()
    Path("run/link").symlink_to(work / "far")
    result = cli("run", recipe(OUT.format(default="x", out="link/a")), "--dir", "run")
    assert (result.exit_code, "is outside of the run's folder" in result.stderr) == (2, True)


# ------------------------------------------------------------------------------------------------ one at a time


def test_two_runs_in_one_folder_are_one_line(work: Path, cli: Cli) -> None:
    file = recipe(OUT.format(default="here", out="tree.parquet"))
    Path("run").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib; from apportion.stages.run.lock import only_run\n"
         "with only_run(pathlib.Path('run')): print('held', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    temporary = Path("run/.tree.parquet.4711.tmp")
    temporary.touch()
    result = cli("run", file, "--dir", "run")
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"error: run: process {holder.pid} is running a recipe there; wait for it, or choose another --dir\n"
    )
    assert temporary.exists()
    assert cli("run", file, "--dir", "run", "--dry-run").exit_code == 0
    with holder:
        holder.kill()  # the lock ends with its process
    assert cli("run", file, "--dir", "run").exit_code == 0
    assert pq.read_table("run/tree.parquet").num_rows == 4
    assert not temporary.exists()


def test_the_lock_is_given_back(work: Path) -> None:
    Path("run").mkdir()
    for _ in range(2):
        with only_run(Path("run")):
            pass
    ran = run(recipe(OUT.format(default="here", out="tree.parquet")), folder=Path("run"))
    assert isinstance(ran, Ran)
    assert ran.ran == 1

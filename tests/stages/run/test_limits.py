"""Recipes and journals that are odd, or made to do harm: one line and exit code 2, at once."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.errors import UsageError
from apportion.formats.recipes import expand
from apportion.stages.core.table import commands
from apportion.stages.run.journal import Journal
from apportion.stages.run.plan import Planned
from typer.testing import Result

Cli = Callable[..., Result]


def refused(cli: Cli, folder: Path, text: str) -> str:
    path = folder / "odd.yaml"
    path.write_text(text)
    started = time.process_time()
    result = cli("run", path, "--dry-run", "--dir", folder / "out")
    assert result.exit_code == 2, result.output
    assert time.process_time() - started < 5
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("-'a'", "bad operand type for unary -: 'str'"),
        ("'a' * 1000000000", "1,000,000,000 characters or items, expected at most 65,536"),
        ("1000000000 * names", "2,000,000,000 characters or items, expected at most 65,536"),
        ("'%999999999d' % 1", "999,999,999 characters or items, expected at most 65,536"),
        ("9223372036854775807 * 2", "a number of 64 bits; expected one from -2^63 to 2^63 - 1"),
        ("10000000000000000000000000", "a number of 84 bits"),
        ("1 % 0", "modulo by zero"),
        (r"'\ud800'", "a character that is no text"),
        (r"'a' + '\0'", "a character that is no text"),
        ("'%c' % 0", "a character that is no text"),
        ("(" * 250 + "1" + ")" * 250, "not an expression"),
        ("-" * 999 + "1", ""),
        ("1" + " + 1" * 400, "1,601 characters, expected at most 1,000"),
        ("latest(names)", "expected"),
        ("names.a", "no 'a' in it"),
    ],
)
def test_an_expression_is_bounded(expression: str, said: str, cli: Cli, tmp_path: Path) -> None:
    def latest(command: str, *, where: str) -> str:
        raise TypeError("expected a command's name")

    started = time.process_time()
    with pytest.raises(UsageError) as fault:
        expand(f"${{{expression}}}", {"names": ["a", "b"]}, {"latest": latest}, "here")
    assert said in str(fault.value)
    assert len(str(fault.value)) < 1500
    assert time.process_time() - started < 2


def test_a_value_that_no_line_of_shell_holds_is_told_with_its_step(cli: Cli, tmp_path: Path) -> None:
    line = refused(cli, tmp_path, 'steps: [eval policy: {series: "\\u202e", out: a.json}]')
    assert line.startswith("error: odd.yaml, step 1 (eval policy): option 'series' is")


def test_what_recipes_compute_still_works() -> None:
    variables = {"names": ["a", "b"], "round": 7, "deep": {"x": 2.5}}
    assert expand("${round * 2 - 3}", variables, {}, "") == 11
    assert expand("${'%03d' % round}", variables, {}, "") == "007"
    assert expand("${names * 2}", variables, {}, "") == ["a", "b", "a", "b"]
    assert expand("${'=' * 20}-${-deep.x}", variables, {}, "") == "=" * 20 + "--2.5"


def test_a_text_of_many_expressions_is_bounded() -> None:
    with pytest.raises(UsageError, match="a text of at most 65,536 characters"):
        expand("${a}" * 9000, {"a": "y" * 60000}, {}, "here")


HEAD = "head: {rollouts: a}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: [{loop: {var: i, range: 1000000000000, steps: []}}]", "more than 100000 steps; shorten its loops"),
        (f"steps: [{{loop: {{var: i, range: 1000000000000, steps: [{HEAD}]}}}}]", "more than 100000 steps"),
        (
            "steps: [{loop: {var: i, range: 1000, steps: [{loop: {var: j, range: 1000, steps: [{loop: {var: k, in: [], steps: []}}]}}]}}]",
            "more than 100000 steps",
        ),
        ("a: &a [*a]\nsteps: *a", "not YAML (an anchor that contains itself)"),
        (f"vars: {{x: 2020-13-45}}\nsteps: [{HEAD}]", "not YAML (month must be in 1..12)"),
        ("vars: {1: 2, a: 3}\nsteps: [head: {rollouts: '${b}'}]", "unknown variable 'b'"),
        ("steps: [sample: {out: '\\0'}]".replace("'\\0'", '"\\0"'), "a character that is no text"),
        ("steps: [sample: {out: a, seed: 1.0e+25}]", "seed must be between -2^63 and 2^63 - 1, got a number of 84 bits"),
        ("steps: [run: {recipe: missing.yaml}]", "missing.yaml: no such file"),
    ],
)  # fmt: skip
def test_a_recipe_is_bounded(text: str, said: str, cli: Cli, tmp_path: Path) -> None:
    assert said in refused(cli, tmp_path, text)


def test_a_recipe_that_runs_itself_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    assert refused(cli, tmp_path, f"steps: [run: {{recipe: {path}}}]").endswith(f"{path} runs itself")
    (tmp_path / "other.yaml").write_text(f"steps: [run: {{recipe: {path}}}]")
    line = refused(cli, tmp_path, f"steps: [run: {{recipe: {tmp_path}/other.yaml}}]")
    assert line == f"error: other.yaml, step 1 (run): {path} runs itself"


def test_a_recipe_in_a_recipe_is_checked_before_anything_runs(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text("steps: [nothing: {}]")
    line = refused(cli, tmp_path, f"steps: [run: {{recipe: {tmp_path}/inner.yaml}}]")
    assert "inner.yaml, step 1 (nothing): unknown command 'nothing'" in line


def test_a_long_text_and_any_folder_may_be_an_option(cli: Cli, tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"file-{number}").touch()
    path = tmp_path / "long.yaml"
    path.write_text(f"steps: [show: {{rollouts: {tmp_path}, where: '{'x' * 5000}'}}, show: {{rollouts: /proc}}]")
    assert cli("run", path, "--dry-run", "--dir", tmp_path / "out").exit_code == 0


STEP = Planned(commands()["head"], {}, None, "")
WHOLE = {"key": "k", "command": "head", "out": None, "state": None}
ODD = (
    "null",
    '{"key": "k", "state": 1, "outputs": 3}',
    "[]",
    "1",
    '"a"',
    "{}",
    '{"key": "k"}',
    '{"key": ["k"], "state": 1}',
    "nonsense",
    "[" * 9000,
    "\xff\xfe",
)


@pytest.mark.parametrize("line", ODD)
def test_an_odd_line_of_a_journal_is_told_of(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(f"{json.dumps(WHOLE)}\n".encode() + line.encode("latin-1") + b"\n")
    journal = Journal(tmp_path)
    assert journal.is_done("k", STEP)
    assert capsys.readouterr().err == (
        f"{path}: line 2 says of no step that it is done; what is not known to be done runs again\n"
    )


def test_half_a_last_line_is_what_a_killed_run_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "journal.jsonl"
    for left in (json.dumps(WHOLE)[:20], ""):
        path.write_text(f"{json.dumps(WHOLE)}\n{left}")
        journal = Journal(tmp_path)
        assert journal.is_done("k", STEP)
        journal.add("next", STEP)
        assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k", "next"]
    path.write_text(json.dumps(WHOLE))  # whole, but for its line end
    Journal(tmp_path).add("next", STEP)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["k", "next"]
    assert capsys.readouterr().err == ""


def test_a_journal_that_is_no_file_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out" / "journal.jsonl").mkdir(parents=True)
    (tmp_path / "a.yaml").write_text(f"steps: [{HEAD}]")
    result = cli("run", tmp_path / "a.yaml", "--dry-run", "--dir", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}/out/journal.jsonl: cannot be read (Is a directory)")

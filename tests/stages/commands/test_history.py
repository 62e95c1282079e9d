"""`apportion log`: the whole history, and the commands that make a file again."""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion import __version__
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.commands.reproduction import commands_of
from apportion.stages.core.harmless import UNSAFE
from typer.testing import Result

Cli = Callable[..., Result]


def shell_of(cli: Cli, path: Path) -> list[str]:
    result = cli("log", path, "--shell")
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


def run_all(cli: Cli, lines: list[str]) -> None:
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "apportion"
        result = cli(*words)
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_history_has_everything_and_names_it(chain: Path, cli: Cli) -> None:
    path = chain / "credit.parquet"
    shown = cli("log", path).stdout
    history = RolloutFile(path).provenance.history
    assert [record.stage for record in history] == ["sample", "tree-build", "score", "assign-credit", "assign-credit"]
    assert shown.splitlines()[0] == f"{path}: format 1, tokens_exact: True"
    tokens = RolloutFile(path).read().num_tokens
    for record in history:
        assert f"{record.stage} {__version__}  (12 groups, 48 rollouts, {tokens:,} tokens)\n" in shown
        assert all(f"    {name}: " in shown for name in record.parameters)
        assert all(f"    {role} <- {digest}\n" in shown for role, digest in record.inputs.items())
    assert "    seed: 3\n" in shown
    assert "    settings: column=reward, truncated=0.25\n" in shown
    assert "    device: cpu\n" in shown


def test_each_stage_names_the_digest_of_the_file_before(chain: Path, cli: Cli) -> None:
    content = json.loads(cli("log", chain / "credit.parquet", "--json").stdout)
    assert (content["format"], content["facts"]) == (1, {"tokens_exact": True})
    assert "shell" not in content
    names = ["rollouts", "tree", "scored", "tempo"]
    assert [record["inputs"]["rollouts"] for record in content["history"][1:]] == [
        RolloutFile(chain / f"{name}.parquet").digest() for name in names
    ]


def test_the_commands_leave_defaults_out(chain: Path, cli: Cli) -> None:
    assert shell_of(cli, chain / "credit.parquet") == [
        "apportion sample --prompts 12 -n 4 --seed 3 --max-tokens 32 --engine transformers --device cpu -o rollouts.parquet",
        "apportion tree-build rollouts.parquet -o tree.parquet",
        "apportion score tree.parquet --set truncated=0.25 -o scored.parquet",
        "apportion assign-credit scored.parquet --method tempo -o credit-2.parquet",
        "apportion assign-credit credit-2.parquet --method grpo --as grpo -o credit.parquet",
    ]
    content = json.loads(cli("log", chain / "credit.parquet", "--shell", "--json").stdout)
    assert content["shell"] == shell_of(cli, chain / "credit.parquet")


def test_the_commands_make_the_file_again(
    chain: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = shell_of(cli, chain / "credit.parquet")
    monkeypatch.chdir(tmp_path)
    run_all(cli, lines)
    again, original = (cli("digest", path).stdout.split()[0] for path in ("credit.parquet", chain / "credit.parquet"))
    assert again == original
    history = [RolloutFile(folder / "credit.parquet").provenance.history for folder in (tmp_path, chain)]
    assert [record.parameters for record in history[0]] == [record.parameters for record in history[1]]


def test_options_that_were_set_come_back(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first").mkdir()
    run_all(
        cli,
        [
            "apportion sample --prompts 3 -n 3 --seed 2 --round 4 --split test --task-set terms=2 --temperature 0.5"
            " --max-tokens 16 --purpose probe --device cpu -o first/a.parquet",
            "apportion tree-build first/a.parquet -o first/b.parquet",
            "apportion score first/b.parquet -o first/c.parquet",
            "apportion assign-credit first/c.parquet --method tempo --set scale=none --set eps=1e-3 -o 'first/my file.parquet'",
            "apportion upgrade 'first/my file.parquet' -o first/tree.parquet",
        ],
    )
    lines = shell_of(cli, Path("first/tree.parquet"))
    assert "--task-set terms=2" in lines[0]
    assert "--round 4 --split test" in lines[0]
    assert "--set eps=0.001 --set scale=none" in lines[3]
    assert lines[1].endswith(" -o tree-2.parquet")
    assert lines[4] == "apportion upgrade credit.parquet -o tree.parquet"
    run_all(cli, lines)
    digests = {line.split()[0] for line in cli("digest", "tree.parquet", "first/tree.parquet").stdout.splitlines()}
    assert len(digests) == 1


def test_a_checkpoint_has_the_history_of_its_rollouts(
    chain: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = cli(
        "train", chain / "credit.parquet", "--lr", "3e-4", "--credit", "grpo", "--device", "cpu", "-o", "first/policy"
    )
    assert made.exit_code == 0, made.output
    stages = [record["stage"] for record in json.loads(cli("log", "first/policy", "--json").stdout)["history"]]
    assert stages == ["sample", "tree-build", "score", "assign-credit", "assign-credit", "train"]
    lines = shell_of(cli, Path("first/policy"))
    assert lines[-1] == "apportion train credit-2.parquet --credit advantage_grpo --lr 0.0003 --device cpu -o policy"
    run_all(cli, lines)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (Path("policy"), Path("first/policy"))]
    assert weights[0] == weights[1]


def test_of_several_files_a_checkpoint_has_only_its_own(chain: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    source = RolloutFile(chain / "credit.parquet")
    for number, (start, stop) in enumerate(((0, 20), (20, 48))):
        part = source.read().slice(start, stop)
        write_rollouts(tmp_path / "files" / f"{number}.parquet", [part], source.provenance)
    assert cli("train", tmp_path / "files", "--lr", "1e-4", "--device", "cpu", "-o", tmp_path / "policy").exit_code == 0
    history = json.loads(cli("log", tmp_path / "policy", "--json").stdout)["history"]
    assert [record["stage"] for record in history] == ["train"]
    lines = shell_of(cli, tmp_path / "policy")
    assert [line[:1] for line in lines] == ["#", "#", "a"]
    assert "file 1 of several" in lines[1]


def record(stage: str, version: str = __version__, **parameters: object) -> Record:
    return Record(stage=stage, version=version, parameters=parameters, inputs={"rollouts": "d1", "policy": "d2"})


def lines_of(*records: Record) -> list[str]:
    return commands_of(Path("x/out.parquet"), Provenance(history=records))


def test_what_commands_cannot_bring_back_is_said() -> None:
    assert lines_of(record("score", **{"with": "verify", "settings": {"truncated": None}})) == [
        "# input.parquet: made elsewhere, digest d1",
        "apportion score input.parquet -o out.parquet",
    ]
    assert lines_of(record("sample", model="runs/a/policy", n=8, new_option=3)) == [
        "# runs/a/policy: a policy with digest d2",
        "apportion sample --model runs/a/policy -o out.parquet",
    ]
    assert lines_of(record("sample", "0.0.1"), record("polish", "9")) == [
        f"# made by apportion 0.0.1; this is {__version__}",
        "apportion sample -o rollouts.parquet",
        f"# polish 9: apportion {__version__} has no command that writes such a file",
    ]


def test_options_of_an_unknown_method_are_all_given() -> None:
    (_, line) = lines_of(record("assign-credit", method="theirs", settings={"a": 1}, column="advantage"))
    assert line == "apportion assign-credit input.parquet --method theirs --set a=1 -o out.parquet"


def test_a_file_of_another_tool_has_no_commands(cli: Cli, tmp_path: Path) -> None:
    write_rollouts(tmp_path / "bare.parquet", [rollouts_of([1.0])], Provenance())
    assert "no history in it (another tool wrote it)" in cli("log", tmp_path / "bare.parquet").stdout
    result = cli("log", tmp_path / "bare.parquet", "--shell")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (3, "", 1)
    assert "no history in it" in result.stderr


def test_inputs_of_no_place_are_said_to_be_made_elsewhere() -> None:
    merge = Record(
        stage="merge", version=__version__, parameters={"histories": [[0], [0]]},
        inputs={"rollouts/x": "d3", "rollouts/7": "d4", f"rollouts/{'9' * 5000}": "d5"},
    )  # fmt: skip
    remarks = [line for line in lines_of(record("sample", model="builtin:tiny"), merge) if line.startswith("#")]
    assert remarks == ["# input.parquet (file 7 of several): made elsewhere, digest d4"]


HOSTILE = (
    "x\ntouch ran", "x\r\ntouch ran\n", "$(touch ran)", "`touch ran`", "'; touch ran; '", '"; touch ran; "',
    "x\\\ntouch ran", "# x\n\ntouch ran", "x\u2028touch ran", "x\0\ntouch ran", "x\x1b[2K\ntouch ran", "-o", "--force", "&& touch ran",
    "| tee ran", "> ran", "<(touch ran)", "~", "*", "!!", "${IFS}touch${IFS}ran", "\u202etouch ran", "",
)  # fmt: skip
PARAMETERS = {
    "sample": ("model", "task", "strategy", "engine", "device", "split", "seed"),
    "score": ("with",), "assign-credit": ("method", "as", "credit", "preset"), "train": ("model", "objective", "credit"),
    "split": ("part", "by"), "merge": ("histories",), "filter": ("where",), "remember": ("what", "earlier"),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
@pytest.mark.parametrize("bad", HOSTILE)
def test_a_hostile_history_runs_nothing_but_apportion(bad: str, tmp_path: Path) -> None:
    records = [Record(stage=bad, version=bad, parameters={bad: bad}, inputs={bad: bad, f"rollouts/{bad}": bad})]
    for stage, names in PARAMETERS.items():
        for settings in ({bad: bad}, {"a": bad}, bad):
            given = {name: bad for name in names if name != "histories"} | {
                "settings": settings,
                "task_settings": settings,
            }
            records.append(
                Record(
                    stage=stage,
                    version=bad,
                    parameters=given,
                    inputs={"rollouts": bad, f"rollouts/{bad}": bad, "policy": bad},
                )
            )
    lines = commands_of(Path(f"x/{bad.replace('/', '')}"), Provenance(history=tuple(records)))
    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    (programs / "apportion").write_text("#!/bin/sh\nprintf '%s\\n' \"$1\" >> ../stages\n")
    (programs / "apportion").chmod(0o755)
    found = subprocess.run(
        ["sh"], input="\n".join(lines) + "\n", text=True, cwd=work, capture_output=True,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(work)},
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert not list(work.iterdir())
    stages = (tmp_path / "stages").read_text().splitlines() if (tmp_path / "stages").exists() else []
    assert set(stages) <= set(PARAMETERS)
    assert bool(stages) or UNSAFE.search(bad)


def test_a_command_that_writes_no_rollouts_is_not_shown() -> None:
    (line,) = lines_of(record("inspect", html="../x.html", rollouts="a"))
    assert line.startswith("# inspect ")

"""The examples of docs/plugins.md work as they stand; what is wrong with a plugin is one line."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.plugin import Decisions
from apportion.stages.assign_credit.kind import INPUTS, METHODS
from apportion.stages.core.kinds import kinds
from apportion.stages.score.kind import SCORERS
from apportion.stages.score.reward_functions import BATCHES
from apportion.stages.score.reward_functions import INPUTS as REWARD_INPUTS
from typer.testing import Result

PAGE = Path(__file__).parent.parent / "docs" / "plugins.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
EXAMPLES = {name: code for code in BLOCKS for name in re.findall(r"^def (\w+)", code, flags=re.MULTILINE)[:1]}


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """plugin(name) → the file of the page's example; what it registers is forgotten in the end."""

    def write(name: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(EXAMPLES[name])
        return path

    yield write
    for kind in kinds().values():
        for name in set(kind.brought_by) & set(EXAMPLES):
            kind.remove(name)


def test_there_is_an_example_of_every_kind_that_one_function_makes() -> None:
    assert list(EXAMPLES) == ["exact", "my_method", "my_step_method", "brevity", "twice", "weighted"]


def test_the_method(
    plugin: Callable[[str], Path], cli: Callable[..., Result], scored_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "credit.parquet"
    command = ("assign-credit", scored_file, "--method", "my_method", "--set", "scale=2", "-o", out)
    result = cli("--plugin", plugin("my_method"), *command)
    assert result.exit_code == 0, result.output
    listed = json.loads(cli("list", "methods", "--json").stdout)
    assert next(entry for entry in listed if entry["name"] == "my_method")["options"] == {"scale": 1.0}
    column = RolloutFile(out).read().ragged("token.advantage")
    assert column.segments.first(column.values).tolist() == [1.0, -1.0, 1.0, -1.0]  # 2 · (R - 0.5)


def test_the_step_method(
    plugin: Callable[[str], Path], cli: Callable[..., Result], scored_file: Path, tmp_path: Path
) -> None:
    path, steps, out = plugin("my_step_method"), tmp_path / "steps.parquet", tmp_path / "credit.parquet"
    assert cli("score", scored_file, "--with", "steps", "--set", "model=builtin:tiny", "-o", steps).exit_code == 0
    command = ("assign-credit", steps, "--method", "my_step_method", "-o", out)
    assert cli("--plugin", path, *command).exit_code == 0
    refused = cli(*command, "--set", "judged=true", "--force")
    assert refused.exit_code == 3, refused.stderr
    assert "no column 'step.reward', which my_step_method needs" in refused.stderr
    assert "or --set judged=false" in refused.stderr

    (call,) = [code for code in BLOCKS if "my_step_method(" in code and "def " not in code]
    formula = METHODS["my_step_method"].function
    expression, _, expected = call.strip().splitlines()[-1].partition("  # ")
    assert str(eval(expression, {"np": np, "my_step_method": formula, "Decisions": Decisions})) == expected


def test_the_page_names_every_parameter_that_is_bound_by_name() -> None:
    table = PAGE.read_text().partition("| parameter | what it gets |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:]))) == INPUTS


def test_the_reward_functions(cli: Callable[..., Result], chain: Path, tmp_path: Path, forget_plugins: None) -> None:
    file = tmp_path / "reward.py"
    file.write_text(EXAMPLES["exact"])
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    assert cli("score", chain / "rollouts.parquet", "--with", f"{file}:exact", "-o", first).exit_code == 0
    words = ["--with", f"{file}:brief", "--set", "most=8", "--set", "column=rewards.brief"]
    assert cli("score", first, *words, "-o", second).exit_code == 0
    rollouts = RolloutFile(second).read()
    texts, references = rollouts.strings("text"), rollouts.strings("reference")
    pairs = zip(texts, references, strict=True)
    assert rollouts.numbers("reward").tolist() == [float(text.strip().endswith(known)) for text, known in pairs]
    assert rollouts.numbers("rewards.brief").tolist() == [float(len(text) <= 8) for text in texts]


def test_the_page_names_what_a_reward_function_can_be_given() -> None:
    table = PAGE.read_text().partition("| parameter | what the function gets |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines()[2:])))
    assert {name for names in REWARD_INPUTS.values() for name in names} <= named
    assert named - {name for names in REWARD_INPUTS.values() for name in names} <= BATCHES | {"finish_reason"}


def test_the_scorer(plugin: Callable[[str], Path], cli: Callable[..., Result], chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "scored.parquet"
    command = ("score", chain / "rollouts.parquet", "--with", "brevity", "--set", "most=8", "-o", out)
    assert cli("--plugin", plugin("brevity"), *command).exit_code == 0
    rollouts = RolloutFile(out).read()
    expected = [float(len(text) <= 8) for text in rollouts.strings("text")]
    assert rollouts.numbers("rewards.brevity").tolist() == expected


def test_the_strategy(plugin: Callable[[str], Path], cli: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "sampled.parquet"
    size = ("--prompts", 2, "-n", 2, "--max-tokens", 8, "--device", "cpu")
    assert cli("--plugin", plugin("twice"), "sample", "--strategy", "twice", *size, "-o", out).exit_code == 0
    assert RolloutFile(out).read().groups.sizes.tolist() == [4, 4]


def test_the_objective(plugin: Callable[[str], Path], cli: Callable[..., Result], chain: Path, tmp_path: Path) -> None:
    command = (
        "train",
        chain / "credit.parquet",
        "--objective",
        "weighted",
        "--device",
        "cpu",
        "-o",
        tmp_path / "policy",
    )
    result = cli("--plugin", plugin("weighted"), *command)
    assert result.exit_code == 0, result.output
    assert '"weight"' in (tmp_path / "policy" / "metrics.jsonl").read_text()


PLUGIN_WITH_A_DATACLASS = '''
from __future__ import annotations
from dataclasses import KW_ONLY, dataclass
from apportion.plugin import scorer

@dataclass
class Shape:
    _: KW_ONLY
    size: int

@scorer(needs=(), granularity="rollout", source="theirs")
def shapes(rollouts):
    """Sizes."""
    return {"size": [Shape(size=3).size] * len(rollouts)}
'''


def test_a_plugin_may_have_dataclasses(cli: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "shapes.py"
    path.write_text(PLUGIN_WITH_A_DATACLASS)
    listed = cli("--plugin", path, "list", "scorers")
    SCORERS.remove("shapes")
    assert "Sizes." in listed.stdout


def test_a_plugin_with_a_fault_is_one_line(cli: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_that_name\n")
    result = cli("--plugin", path, "list", "methods")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "broken.py" in result.stderr
    assert "nothing_of_that_name" in result.stderr

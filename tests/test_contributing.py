"""The method that CONTRIBUTING.md shows works as it stands, and from a user's own file."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats.parquet import RolloutFile
from apportion.stages.assign_credit.kind import METHODS
from apportion.stages.score.kind import SCORERS
from typer.testing import Result

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    path = tmp_path / "my_method.py"
    path.write_text(
        code.replace("from ....formats", "from apportion.formats").replace(
            "from ..kind", "from apportion.stages.assign_credit.kind"
        )
    )
    return path


def test_the_example_of_a_method_runs_as_a_plugin(
    plugin: Path, cli: Callable[..., Result], scored_file: Path, tmp_path: Path
) -> None:
    try:
        out = tmp_path / "credit.parquet"
        command = ("assign-credit", scored_file, "--method", "my_method", "--set", "scale=2", "-o", out)
        result = cli("--plugin", plugin, *command)
        assert result.exit_code == 0, result.output
        listed = json.loads(cli("list", "methods", "--json").stdout)
        assert next(entry for entry in listed if entry["name"] == "my_method")["options"] == {"scale": 1.0}
    finally:
        METHODS.remove("my_method")
    column = RolloutFile(out).read().ragged("token.advantage")
    assert column.segments.first(column.values).tolist() == [1.0, -1.0, 1.0, -1.0]  # 2 · (R - 0.5)


PLUGIN_WITH_A_DATACLASS = '''
from __future__ import annotations
from dataclasses import KW_ONLY, dataclass
from apportion.stages.score.kind import scorer

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

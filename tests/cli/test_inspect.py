from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.structure.prefix_tree import add_prefix_tree
from typer.testing import Result


def test_the_tree_is_drawn_whatever_its_nodes_are_called(tmp_path: Path, cli: Callable[..., Result]) -> None:
    tree = add_prefix_tree(rollouts_of([1.0, 0.0, 0.0], tokens=[[5, 7, 9], [5, 7, 8], [5, 6]]))
    ids = tree.ragged("node.id")
    assert ids.values.tolist() == [0, 2, 4, 0, 2, 3, 0, 1]
    renamed = tree.with_columns({"node.id": Ragged((100 - ids.values).astype(np.int32), ids.offsets)})
    path = tmp_path / "renamed.parquet"
    write_rollouts(path, [renamed], Provenance())
    result = cli("inspect", path, "--no-stats")
    assert result.exit_code == 0
    drawn = [line for line in result.stdout.splitlines() if "×" in line]
    assert [" ".join(line.split()) for line in drawn] == [
        "root ×3 V 0.33", "└── 5 ×3 V 0.33", "├── 7 ×2 V 0.50", "│ ├── 9 ×1 V 1.00", "│ └── 8 ×1 V 0.00",
        "└── 6 ×1 V 0.00",
    ]  # fmt: skip


def test_only_groups_that_match_are_shown(cli: Callable[..., Result], tmp_path: Path) -> None:
    batch = rollouts_of([1.0, 0.0, 0.0, 0.0], groups=[0, 0, 1, 1])
    write_rollouts(tmp_path / "a.parquet", [batch], Provenance())
    shown = cli("inspect", tmp_path / "a.parquet", "--where", "reward == 0 and group_mean(reward) == 0", "--no-stats")
    assert shown.exit_code == 0, shown.output
    assert "group g1" in shown.stdout
    assert "group g0" not in shown.stdout
    assert "r2" in shown.stdout
    none = cli("inspect", tmp_path / "a.parquet", "--where", "reward > 1")
    assert none.exit_code == 2
    assert "true of no rollout" in none.stderr


def test_words_of_a_file_are_neither_markup_nor_commands_to_the_terminal(
    cli: Callable[..., Result], tmp_path: Path
) -> None:
    hostile = "[/x]\x1b]0;title\x07\x9b5m\u202e:smile:"
    shown = "[/x]␛]0;title�5m�:smile:"  # the library leaves the bell out
    messages = pa.array([[{"role": "user", "content": hostile}]] * 2)
    batch = rollouts_of([1.0, 0.0]).with_columns(
        {"group_id": [hostile] * 2, "rollout_id": [f"{hostile}{row}" for row in range(2)], "prompt": messages}
        | {"flags": [[hostile], []], "token.advantage": Ragged.from_lists([[1.0], [0.5]], np.float32)}
    )
    path, other, svg = tmp_path / "hostile.parquet", tmp_path / "other.parquet", tmp_path / "hostile.svg"
    write_rollouts(path, [batch], Provenance())
    turned = Ragged.from_lists([[-1.0], [0.5]], np.float32)
    write_rollouts(other, [batch.with_columns({"token.advantage": turned})], Provenance())
    for words in (["inspect", path, "--svg", svg], ["diff", path, other]):
        result = cli(*words)
        assert result.exit_code == 0, result.output
        assert not set("\x1b\x07\x9b\u202e") & set(result.stdout)
        assert shown in result.stdout
    assert "\x1b" not in svg.read_text()
    assert f"group {shown}" in cli("inspect", path).stdout
    assert f"flags: {shown} 1" in cli("inspect", path).stdout


def test_the_group_shown_by_default_is_one_whose_rewards_differ(cli: Callable[..., Result], tmp_path: Path) -> None:
    batch = rollouts_of([0.0, 0.0, 1.0, 0.0], groups=[0, 0, 1, 1])
    write_rollouts(tmp_path / "a.parquet", [batch], Provenance())
    write_rollouts(tmp_path / "dead.parquet", [batch.slice(0, 2)], Provenance())
    assert "group g1" in cli("inspect", tmp_path / "a.parquet").stdout
    assert "group g0" in cli("inspect", tmp_path / "a.parquet", "--limit", "1").stdout
    assert "group g0" in cli("inspect", tmp_path / "dead.parquet").stdout


def test_a_rollout_of_a_group_is_shown_with_the_tree_of_the_group(cli: Callable[..., Result], tmp_path: Path) -> None:
    tree = add_prefix_tree(rollouts_of([1.0, 0.0, 0.0], tokens=[[5, 7, 9], [5, 7, 8], [5, 6]]))
    write_rollouts(tmp_path / "a.parquet", [tree], Provenance())
    for rollout in ("r2", "2"):
        shown = cli("inspect", tmp_path / "a.parquet", "--group", "g0", "--rollout", rollout, "--no-stats")
        assert shown.exit_code == 0, shown.output
        assert "r2  reward 0" in shown.stdout
        assert "r1" not in shown.stdout
        assert "×3" in shown.stdout
    wrong = cli("inspect", tmp_path / "a.parquet", "--group", "g0", "--rollout", "r9")
    assert wrong.exit_code == 2
    assert "rollout of group 'g0'" in wrong.stderr


def test_the_page_takes_the_place_of_the_view_in_the_terminal(cli: Callable[..., Result], tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.parquet", [rollouts_of([1.0, 0.0])], Provenance())
    written = cli("inspect", tmp_path / "a.parquet", "--html", tmp_path / "a.html")
    assert written.exit_code == 0, written.output
    assert written.stdout == ""
    assert "page: " in written.stderr


def test_turns_stand_beneath_their_rollout_and_do_nothing_to_a_terminal(
    cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = rollouts_of([1.0, 0.0], tokens=[[1, 2, 3, 4], [1, 2, 3, 4]], mask=[[True, False, False, True]] * 2)
    steps = {
        "step.start": [[0, 3]] * 2,
        "step.end": [[1, 4]] * 2,
        "step.state": [["PF/FG", "\x1b[31m\u202e漢字 😀"]] * 2,
    }
    credit = Ragged.from_lists([[0.5, 0.0, 0.0, 1.5], [-1.0, 0.0, 0.0, -1.0]], np.float32)
    path = tmp_path / "turns.parquet"
    columns = {name: pa.array(value) for name, value in steps.items()}
    write_rollouts(path, [batch.with_columns({**columns, "token.advantage": credit})], Provenance())
    for width in ("40", "80", "160"):
        monkeypatch.setenv("COLUMNS", width)
        shown = cli("inspect", path, "--no-stats")
        assert shown.exit_code == 0, shown.output
        assert not set("\x1b\u202e") & set(shown.stdout)
        assert "␛[31m�漢字 😀" in shown.stdout
        assert "+1.500" in shown.stdout


def test_credit_can_be_shown_less_the_mean_of_its_rollout(cli: Callable[..., Result], tmp_path: Path) -> None:
    batch = rollouts_of([1.0, 0.0], tokens=[[1, 2], [1, 2]])
    credit = Ragged.from_lists([[0.5, 1.5], [-1.0, -1.0]], np.float32)
    write_rollouts(tmp_path / "a.parquet", [batch.with_columns({"token.advantage": credit})], Provenance())
    shown = cli("inspect", tmp_path / "a.parquet", "--no-stats", "--relative").stdout
    assert "‹-0.50›" in shown
    assert "‹0›" in shown
    assert "token.advantage less its rollout's mean" in shown

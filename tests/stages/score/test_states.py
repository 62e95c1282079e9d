from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from apportion.formats.errors import DataError
from apportion.formats.parquet import RolloutFile
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.models.policy import load_tokenizer
from apportion.stages.score.structure.states import states
from typer.testing import Result


def with_steps(tokens: Sequence[Sequence[int]], starts: Sequence[Sequence[int]]) -> Rollouts:
    ends = [[*row[1:], len(ids)] for row, ids in zip(starts, tokens, strict=True)]
    return rollouts_of([0.0] * len(tokens), tokens=tokens).with_columns(
        {"step.start": Ragged.from_lists(starts, np.int32), "step.end": Ragged.from_lists(ends, np.int32)}
    )


def written(lines: Sequence[Sequence[str]]) -> Rollouts:
    """Responses in the tokens of builtin:tiny, a step for every line."""
    tokenizer = load_tokenizer("builtin:tiny")
    tokens, starts = [], []
    for response in lines:
        parts = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in response]
        starts.append(np.cumsum([0, *map(len, parts)])[:-1].tolist())
        tokens.append([token for part in parts for token in part])
    batch = with_steps(tokens, starts)
    return batch.with_columns({"text": [tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens]})


def test_steps_meet_while_their_token_ids_are_the_same() -> None:
    batch = with_steps([[1, 2, 3, 4], [1, 2, 3, 5], [9, 2, 3, 4]], [[0, 2, 3]] * 3)
    found = states(batch, window="tokens")["step.state"].to_pylist()
    assert found[0] == found[1]
    assert [found[0][at] == found[2][at] for at in range(3)] == [True, False, False]
    assert found[0][0] == ""
    assert len(set(found[0])) == 3


def test_a_step_of_no_tokens_keeps_the_state() -> None:
    (found,) = states(with_steps([[1, 2]], [[0, 1, 1]]), window="tokens")["step.state"].to_pylist()
    assert found[1] == found[2] != found[0]


def test_rollouts_that_come_to_the_same_line_meet_again() -> None:
    batch = written([["7+10=17\n", "17-12=5\n", "5+6=11"], ["10+7=17\n", "17-12=5\n", "5+6=11"]])
    assert states(batch, window="line", model="builtin:tiny")["step.state"].to_pylist() == [
        ["", "7+10=17", "17-12=5"],
        ["", "10+7=17", "17-12=5"],
    ]
    one, other = states(batch, model="builtin:tiny")["step.state"].to_pylist()
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, False, False]


def test_rollouts_without_steps_and_empty_responses() -> None:
    starts = Ragged(np.array([0], np.int32), np.array([0, 1, 1, 1]), np.array([True, False, True]))
    batch = rollouts_of([0.0] * 3, tokens=[[4], [5], []]).with_columns({"step.start": starts})
    assert states(batch, window="tokens")["step.state"].to_pylist() == [[""], None, []]


def test_the_tokenizer_has_to_be_the_files_own() -> None:
    batch = written([["7+10=17\n", "17-12=5"]])
    with pytest.raises(DataError, match="does not give column 'text'"):
        states(batch.with_columns({"text": ["something else"]}), window="line", model="builtin:tiny")


def test_the_command_names_what_makes_the_steps(cli: Callable[..., Result], chain: Path, tmp_path: Path) -> None:
    result = cli("score", chain / "scored.parquet", "--with", "states", "-o", tmp_path / "out.parquet")
    assert result.exit_code == 3
    assert "step.start" in result.stderr


@pytest.mark.parametrize("window", ["prefix", "line", "tokens"])
def test_steps_states_and_gigpo_follow_each_other(
    window: str, cli: Callable[..., Result], chain: Path, tmp_path: Path
) -> None:
    split, keyed, credit = (tmp_path / f"{name}.parquet" for name in ("split", "keyed", "credit"))
    assert cli("score", chain / "scored.parquet", "--with", "steps", "-o", split).exit_code == 0
    result = cli("score", split, "--with", "states", "--set", f"window={window}", "-o", keyed)
    assert result.exit_code == 0, result.output
    result = cli("assign-credit", keyed, "--method", "gigpo", "-o", credit)
    assert result.exit_code == 0, result.output
    found = RolloutFile(credit).read().arrow("step.state").to_pylist()
    assert all(row[0] == "" for row in found if row)
    assert len({state for row in found for state in row}) > 12

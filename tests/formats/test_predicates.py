"""What a predicate is true of, on rows small enough to see; and what it refuses, in one line."""

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError, UsageError
from apportion.formats.predicates import Predicate
from apportion.formats.rollouts import Rollouts

# Two groups: a (rows 0, 1, 2) and b (rows 3, 4). Row 1 has no reward and no flags, row 4 no credit and no entropy.
TABLE = pa.table(
    {
        "rollout_id": ["r0", "r1", "r2", "r3", "r4"],
        "group_id": ["a", "a", "a", "b", "b"],
        "reward": pa.array([1.0, None, 0.0, 0.5, 0.5]),
        "rewards": [{"format": 1.0}, {"format": 0.0}, {"format": None}, {"format": 1.0}, {"format": 0.0}],
        "flat.name": pa.array([1, 2, 3, 4, 5]),
        "odd-name": pa.array([1, 2, 3, 4, 5]),
        "fork": pa.array([None, 3, None, 0, None], pa.int32()),
        "finish_reason": ["stop", "length", None, "error", "stop"],
        "text": ["so wait", "", "wait", None, "no"],
        "flags": [["truncated"], None, [], ["error", "truncated"], [None]],
        "prompt_ids": [[1, 2], [1, 2], [1, 2], [9], [9]],
        "correct": pa.array([True, None, False, True, False]),
        "blank": pa.nulls(5),
        "prompt": pa.array([[{"role": "user", "content": "?"}]] * 5),
        "step": [
            {"start": [0, 1], "kind": ["turn", "tool"]}, {"start": [0], "kind": [None]}, {"start": [0], "kind": ["turn"]},
            {"start": [], "kind": []}, {"start": None, "kind": None},
        ],
        "token": [
            {"id": [5, 6, 7], "mask": [True, False, True], "advantage": [0.5, 0.0, -0.25], "entropy": [1.0, 2.0, 3.0]},
            {"id": [5], "mask": [True], "advantage": [1.0], "entropy": [0.0]},
            {"id": [5, 5], "mask": [True, True], "advantage": [-1.0, -2.0], "entropy": [0.5, 0.5]},
            {"id": [], "mask": [], "advantage": [], "entropy": []},
            {"id": [8, 9], "mask": [True, True], "advantage": None, "entropy": None},
        ],
        "edge": [{"weight": [1.5]}, {"weight": None}, {"weight": [2.0, 3.0]}, {"weight": [None]}, None],
    }
)  # fmt: skip

ROWS = {
    # columns and comparison; row 1 has no reward
    "reward == 1": [0],
    "reward != 1": [2, 3, 4],
    "reward <= 0.5": [2, 3, 4],
    "0 < reward < 1": [3, 4],
    "1 > reward": [2, 3, 4],
    "not reward == 1": [1, 2, 3, 4],
    "rewards.format > 0.5": [0, 3],
    "column('odd-name') >= 4": [3, 4],
    "flat.name >= 4": [3, 4],
    "finish_reason == 'stop'": [0, 4],
    "finish_reason != 'stop'": [1, 3],
    "finish_reason < 'm'": [1, 3],
    "fork >= 0": [1, 3],
    "correct": [0, 3],
    "not correct": [1, 2, 4],
    "correct == False": [2, 4],
    "blank > 0 or blank == 'x'": [],
    "missing(blank)": [0, 1, 2, 3, 4],
    # missing
    "reward == None": [1],
    "reward is None": [1],
    "reward != null": [0, 2, 3, 4],
    "missing(reward)": [1],
    "missing(finish_reason)": [2],
    "missing(token.advantage)": [4],
    "token.advantage is not None": [0, 1, 2, 3],
    "missing(step.start) or missing(flags)": [1, 4],
    # combination
    "reward > 0 and finish_reason == 'stop'": [0, 4],
    "reward == 1 or reward == 0": [0, 2],
    "reward == 1 or reward == 0 and finish_reason == 'stop'": [0],
    "(reward == 1 or reward == 0) and not finish_reason == 'stop'": [2],
    "True": [0, 1, 2, 3, 4],
    "false": [],
    "1 < 2": [0, 1, 2, 3, 4],
    # arithmetic
    "reward * 2 - 1 == 0": [3, 4],
    "-reward < -0.5": [0],
    "reward / reward == 1": [0, 3, 4],
    "missing(reward / reward)": [1, 2],
    "row % 2 == 0": [0, 2, 4],
    "reward + rewards.format >= 1.5": [0, 3],
    "correct + 1 == 2": [0, 3],
    # membership
    "finish_reason in ['length', 'error']": [1, 3],
    "finish_reason in ('length',)": [1],
    "finish_reason in []": [],
    "finish_reason in [None, 'length']": [1, 2],
    "finish_reason not in ['length', 'error']": [0, 4],
    "row in {1, 4}": [1, 4],
    "'truncated' in flags": [0, 3],
    "'truncated' not in flags": [1, 2, 4],
    "7 in token.id": [0],
    "finish_reason in flags": [3],
    "'wait' in text": [0, 2],
    "'wait' not in text": [1, 4],
    "'tool' in step.kind": [0],
    # derived
    "length == 2": [2, 4],
    "length > prompt_length": [0, 4],
    "prompt_length == 1": [3, 4],
    "group_size == 3": [0, 1, 2],
    # lists: row 3 is empty, row 4 has no credit
    "sum(token.advantage) == 0.25": [0],
    "sum(token.advantage) == 0": [3],
    "mean(token.advantage) < 0": [2],
    "missing(mean(token.advantage))": [3, 4],
    "max(token.advantage) == 1": [1],
    "min(token.advantage) < -0.1": [0, 2],
    "first(token.advantage) > 0 and last(token.advantage) < 0": [0],
    "any(token.advantage < 0)": [0, 2],
    "any(token.advantage == 0 and not token.mask)": [0],
    "all(token.advantage < 0)": [2, 3],
    "count(token.advantage < 0) == 2": [2],
    "count(step.start) == 1": [1, 2],
    "count(step.kind) == 0": [3, 4],
    "count(flags) == 2": [3],
    "max(abs(token.advantage)) >= 1": [1, 2],
    "sum(token.mask) == 2": [0, 2, 4],
    "std(token.entropy) == 1": [0],
    "sum(token.advantage * token.mask) == 0.25": [0],
    "any(token.advantage >= reward)": [],
    "any(token.advantage > reward - 1)": [0],
    "sum(edge.weight) == 5": [2],
    # of the group: the rewards of a are 1 and 0, those of b 0.5 and 0.5
    "reward > group_mean(reward)": [0],
    "group_mean(reward) == 0.5": [0, 1, 2, 3, 4],
    "group_std(reward) == 0": [3, 4],
    "group_max(length) == 3": [0, 1, 2],
    "group_sum(reward) - reward == 0": [0],
    "group_any('error' in flags)": [3, 4],
    "group_all(reward >= 0)": [3, 4],
    "(reward - group_mean(reward)) / group_std(reward) > 0.7": [0],
}  # fmt: skip


@pytest.mark.parametrize("text", ROWS)
def test_rows(text: str) -> None:
    predicate = Predicate(text)
    predicate.check(TABLE.schema)
    found = predicate(Rollouts(TABLE))
    assert found.dtype == bool
    assert np.flatnonzero(found).tolist() == ROWS[text]


@pytest.mark.parametrize("text", ROWS)
def test_the_columns_it_reads_are_all_it_needs(text: str) -> None:
    predicate = Predicate(text)
    wanted = predicate.reads(TABLE.schema)
    whole = Rollouts(TABLE)
    bare = Rollouts(pa.table({"group_id": TABLE["group_id"]}))
    columns = {path: whole.arrow(path) for path in wanted}
    flat = {path: columns.pop(path) for path in ("flat.name",) if path in columns}
    pruned = bare.with_columns(columns)
    for path, array in flat.items():
        pruned = Rollouts(pruned.table.append_column(path, array))
    assert np.flatnonzero(predicate(pruned)).tolist() == ROWS[text]


def test_rows_count_from_the_batch_s_place_in_the_file() -> None:
    assert Predicate("row >= 102")(Rollouts(TABLE), 100).tolist() == [False, False, True, True, True]


def test_a_group_is_not_seen_beyond_its_rows() -> None:
    assert Predicate("group_mean(odd) == 4.5")(
        Rollouts(TABLE.append_column("odd", TABLE["odd-name"]).slice(3))
    ).tolist() == [True, True]


def test_a_small_float_equals_its_literal() -> None:
    table = pa.table({"group_id": ["a"], "token": [{"id": [1], "advantage": [0.1]}]})
    narrow = Rollouts(table).with_columns({"token.advantage": pa.array([[0.1]], pa.list_(pa.float32()))})
    assert Predicate("any(token.advantage == 0.1)")(narrow).tolist() == [True]


FAULTS = {
    "rewrd > 0": "unknown column 'rewrd'; did you mean 'reward'?",
    "token.advantge > 0": "unknown column 'token.advantge'; did you mean 'token.advantage'?",
    "rewards > 0": "unknown column 'rewards'; did you mean 'reward'?",
    "lenght > 0": "unknown column 'lenght'; did you mean 'length'?",
    "column('odd') > 0": "unknown column 'odd'",
    "summ(token.advantage) > 0": "unknown function 'summ'; did you mean 'sum'?",
    "reward.mean() > 0": "unknown function 'reward.mean'",
    "reward": "'reward' is a number, expected a condition such as reward > 0",
    "'text'": "is text, expected a condition",
    "None": "is nothing, expected a condition",
    "token.advantage > 0": "say any(token.advantage > 0) or all(token.advantage > 0)",
    "reward > 'high'": "'reward' is a number and \"'high'\" is text, which cannot be compared",
    "finish_reason > 1": "'finish_reason' is text and '1' is a number, which cannot be compared",
    "reward > None": "nothing is less or more than None",
    "reward and True": "and: 'reward' is a number, expected a condition",
    "not reward": "not: 'reward' is a number, expected a condition",
    "finish_reason + 1 > 0": "is text, expected a number",
    "reward + None > 0": "None is no number",
    "any(token.advantage)": "is a list of numbers on 'token', expected a condition",
    "any(reward > 0)": "expected a list such as token.advantage; over the rollouts of a group: group_any",
    "sum(reward) > 0": "over the rollouts of a group: group_sum",
    "sum(1) > 0": "a literal, expected a list",
    "sum(step.kind) > 0": "is a list of texts on 'step', expected a number",
    "group_mean(token.advantage) > 0": "expected one value a rollout",
    "group_any(reward)": "expected a condition",
    "any(token.advantage > step.start)": "'token' beside places on 'step'; reduce one, as in sum(token.advantage)",
    "finish_reason in 'stop,length'": "expected a list, as in ['a', 'b'] or flags",
    "reward in length": "'length' is a number, expected a list",
    "prompt == 'x'": "which a predicate cannot read",
    "max(reward, 1) > 0": "max takes one argument",
    "any(*flags)": "any takes one argument",
    "sum > 0": "'sum' is a function, expected sum(…)",
    "['a']": "a list of literals stands after `in`",
    "reward = 1": "invalid syntax (character 8); write ==",
    "reward > 0 && length > 1": "invalid syntax (character 13); write and",
    "reward >": "invalid syntax (character",
    "reward > 0 & length > 1": "only + - * / % are computed; write `and`",
    "2 ** 9 > 0": "only + - * / % are computed",
    "reward > 1j": "no literal of a predicate",
    "text == b'x'": "no literal of a predicate",
    "text == f'{reward}'": "is not part of a predicate",
    "(lambda: reward)() > 0": "is not part of a predicate",
    "[x for x in flags] == []": "is not part of a predicate",
    "__import__('os').system('true')": "is not part of a predicate",
    "reward if length else reward": "is not part of a predicate",
    "flags[0] == 'x'": "is not part of a predicate",
    "(x := reward) > 0": "is not part of a predicate",
    " ": "an empty predicate",
    "(" * 3000 + "reward > 0" + ")" * 3000: "predicate",
    " and ".join(["reward > 0"] * 2000): "expected at most 10,000",
    "not " * 2000 + "True": "nested too deeply",
    "reward > 0\0": "predicate",
}  # fmt: skip


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_found_before_anything_is_read(text: str) -> None:
    with pytest.raises(UsageError) as fault:
        Predicate(text).check(TABLE.schema)
    assert FAULTS[text] in str(fault.value)


def test_lists_of_unequal_lengths_are_bad_data() -> None:
    table = pa.table({"group_id": ["a", "a"], "edge": [{"src": [1], "dst": [1]}, {"src": [1, 2], "dst": [1]}]})
    with pytest.raises(DataError, match=r"row 1, column 'edge.dst': 1 values, but 'edge.src' has 2"):
        Predicate("any(edge.src == edge.dst)")(Rollouts(table))

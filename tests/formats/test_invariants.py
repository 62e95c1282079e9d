"""One defect each; the checker names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from apportion.formats.errors import DataError
from apportion.formats.invariants import UsedNames, broken_invariants
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.schema import FIELDS, Field
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.structure.prefix_tree import add_prefix_tree


def good() -> Rollouts:
    tokens = [[1, 2, 3], [1, 2], [4]]
    tree = add_prefix_tree(rollouts_of([1.0, 0.0, 0.5], tokens=tokens, mask=[[True, False, True], [True] * 2, [True]]))
    return tree.with_columns(
        {
            "token.logprob": Ragged.from_lists([[-1.0, 0.0, -2.0], [-1.0, -1.0], [-0.5]], np.float32),
            "token.advantage": Ragged.from_lists([[0.5, 0.0, 0.5], [-1.0, -1.0], [0.0]], np.float32),
            "step.start": Ragged.from_lists([[0, 2], [0], []], np.int32),
            "step.end": Ragged.from_lists([[2, 3], [2], []], np.int32),
        }
    )


def test_a_sound_batch_breaks_nothing() -> None:
    assert list(broken_invariants(good())) == []


def lists(rows: list[list[Any]], dtype: Any) -> Ragged:
    return Ragged.from_lists(rows, dtype)


DEFECTS: dict[str, tuple[Callable[[], dict[str, Any]], str, int, str]] = {
    "unequal lengths": (lambda: {"token.logprob": lists([[-1.0] * 3, [-1.0], [-1.0]], np.float32)}, "lengths", 1, "token.logprob"),
    "overlapping steps": (lambda: {"step.start": lists([[0, 1], [0], []], np.int32)}, "step_spans", 0, "step.start"),
    "step past the end": (lambda: {"step.end": lists([[2, 9], [2], []], np.int32)}, "step_spans", 0, "step.start"),
    "path with a gap": (lambda: {"node.start": lists([[0, 2], [1], [0]], np.int32)}, "node_spans", 1, "node.start"),
    "path too short": (lambda: {"node.end": lists([[2, 2], [2], [1]], np.int32)}, "node_spans", 0, "node.end"),
    "siblings disagree": (lambda: {"token.id": lists([[1, 2, 3], [1, 9], [4]], np.int32)}, "siblings", 1, "node.id"),
    "positive logprob": (lambda: {"token.logprob": lists([[-1.0, 0, 0.1], [-1.0] * 2, [0]], np.float32)}, "logprob", 0, "token.logprob"),
    "credit not finite": (lambda: {"token.advantage": lists([[0] * 3, [np.nan, 0], [0]], np.float32)}, "finite", 1, "token.advantage"),
    "infinite reward": (lambda: {"reward": [1.0, np.inf, 0.0]}, "finite", 1, "reward"),
    "credit on a masked token": (lambda: {"token.advantage": lists([[0, 1, 0], [0] * 2, [0]], np.float32)}, "masked_credit", 0, "token.advantage"),
    "duplicated rollout_id": (lambda: {"rollout_id": ["a", "b", "a"]}, "duplicate_rollout", 2, "rollout_id"),
    "group in two places": (lambda: {"group_id": ["g", "h", "g"]}, "split_group", 2, "group_id"),
    "missing rollout_id": (lambda: {"rollout_id": pa.array(["a", None, "c"])}, "missing", 1, "rollout_id"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEFECTS)
def test_each_defect_is_named_with_its_row_and_column(name: str) -> None:
    columns, rule, row, column = DEFECTS[name]
    batch = good()
    if name == "group in two places":  # node ids belong to a group: without them only the group is wrong
        batch = Rollouts(batch.table.drop_columns(["node"]))
    found = list(broken_invariants(batch.with_columns(columns())))
    assert [(each.rule, each.row, each.column) for each in found] == [(rule, row, column)]


BOUNDED = [field for field in FIELDS.values() if field.least is not None or field.most is not None]


@pytest.mark.parametrize("field", BOUNDED, ids=lambda field: field.path)
def test_numbers_outside_of_their_range_are_named(field: Field) -> None:
    """And those at its ends are none of them; a missing number is none either."""
    kind = field.type.to_pandas_dtype()
    step = 1 if pa.types.is_integer(field.type) else 0.5
    inside = [value for value in (field.least, field.most) if value is not None]
    outside = [field.least - step] if field.least is not None else []
    outside += [field.most + step, 3e38] if field.most is not None else []

    def batch(value: Any) -> Rollouts:
        if field.ruler == "rollout":
            return good().with_columns({field.path: pa.array([None, value, None], field.type)})
        if field.ruler == "edge":
            axes: dict[str, Any] = {f"edge.{axis}": lists([[0], [0], []], np.int32) for axis in ("src", "dst")}
            return good().with_columns({**axes, field.path: lists([[0], [value], []], kind)})
        sizes = (
            good().ragged({"node": "node.id", "step": "step.start", "token": "token.id"}[field.ruler]).segments.sizes
        )
        return good().with_columns(
            {field.path: lists([[value if row == 1 else 0] * size for row, size in enumerate(sizes)], kind)}
        )

    for value in inside:
        assert list(broken_invariants(batch(value))) == []
    for value in outside:
        (found,) = broken_invariants(batch(value))
        assert (found.rule, found.row, found.column) == ("out_of_range", 1, field.path)
        assert ", expected " in found.message


def test_absurd_values_are_among_them() -> None:
    """As they were found to pass: temperature 3e38, top_k -5, -1 visits."""
    for column, value in (("temperature", 3e38), ("top_k", -5), ("weight", -1.0), ("fork", -1)):
        (found,) = broken_invariants(good().with_columns({column: [None, None, value]}))
        assert (found.rule, found.row, found.column) == ("out_of_range", 2, column)


def test_credit_that_is_not_assigned_is_not_zero_and_is_allowed() -> None:
    rows = pa.array([[0.5, 0.0, 0.5], None, [0.0]], pa.list_(pa.float32()))
    assert list(broken_invariants(good().with_columns({"token.advantage": rows}))) == []


def test_a_missing_token_list_is_refused() -> None:
    rows = pa.array([[1, 2, 3], None, [4]], pa.list_(pa.int32()))
    assert {each.rule for each in broken_invariants(good().with_columns({"token.id": rows}))} == {"missing"}


def test_a_column_of_another_kind_is_not_written(tmp_path: Path) -> None:
    table = good().table.set_column(0, "rollout_id", pa.array([1, 2, 3]))
    with pytest.raises(DataError, match="column 'rollout_id' is int64"):
        write_rollouts(tmp_path / "a.parquet", [Rollouts(table)], Provenance())


def test_node_ids_may_have_gaps() -> None:
    tree = good()
    ids = tree.ragged("node.id")
    wide = tree.with_columns({"node.id": ids.with_values(ids.values * 1_000_000_000)})
    assert list(broken_invariants(wide)) == []


def test_columns_that_are_not_asked_for_are_left_alone() -> None:
    nan = lists([[0] * 3, [np.nan, 0], [0]], np.float32)
    batch = good().with_columns({"token.advantage": nan})
    assert list(broken_invariants(batch, ("reward",))) == []
    assert [each.rule for each in broken_invariants(batch, ("token.advantage",))] == ["finite"]


def test_names_are_remembered_from_batch_to_batch() -> None:
    names = UsedNames()
    names.begin("a")
    assert list(broken_invariants(good(), names=names)) == []
    found = list(broken_invariants(good().with_columns({"group_id": ["h"] * 3}), names=names))
    assert [(each.rule, each.row) for each in found] == [("duplicate_rollout", row) for row in range(3)]
    assert found[1].message == "rollout_id 'r1' occurs in two places, first in row 1; expected a unique id"

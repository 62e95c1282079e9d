"""`diff` behind its signature: read, match, compare."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...formats.errors import DataError, UsageError, unknown
from ...formats.invariants import UsedNames, is_credit
from ...formats.parquet import STREAM, RolloutFile, files_of
from ...formats.rollouts import Rollouts
from ...formats.schema import paths_of
from ...formats.segments import Array
from ..inspect.statistics import on_tokens
from ..models.token_texts import TokenTexts
from ._draw import draw_comparison
from ._found import Difference, Disagreement
from .agreement import agreement, divide_by_magnitude

if TYPE_CHECKING:
    from rich.console import Console

IDENTITY = ("rollout_id", "group_id", "token.id", "token.mask")


@dataclass(frozen=True)
class Compared(Difference):
    """The same, as a result of the command."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> None:
        from ..core.console import WordsConsole
        from ..rows.printing import closed_pipe_is_no_error

        console = WordsConsole(soft_wrap=False)
        with console.capture() as captured:
            self.draw(console)
        with closed_pipe_is_no_error():
            print(captured.get(), end="", file=console.file)

    def draw(self, console: "Console") -> None:
        draw_comparison(console, self)


def compare_credits(
    first: Path, second: Path | None, *, columns: list[str] | None, limit: int, model: str | None
) -> Compared:
    """See `diff`. UsageError for columns that are not there; DataError where no rollout is in both, or one has other
    tokens there than here."""
    names = [name.strip() for item in columns or ["advantage"] for name in item.split(",") if name.strip()]
    if not 1 <= len(names) <= 2:
        raise UsageError(f"--columns {','.join(names)}: expected one or two columns")
    if second is None and len(names) == 1:
        raise UsageError(
            "one file and one column leave nothing to compare; name a second file, or two columns with --columns a,b"
        )
    if first == second == STREAM:
        raise UsageError("-: standard input can be read once; to compare two columns of it, leave the second - out")
    here = _files(first)
    there = here if second is None else _files(second)
    paths = (_column(here, names[0]), _column(there, names[-1]))
    if second is None:
        left = right = _read(here, paths)
        only = (0, 0)
    else:
        left, right = _read(here, paths[:1]), _read(there, paths[1:])
        mine, theirs = _match_rows(left, right)
        if not len(mine):
            raise DataError(
                f"{first} and {second} have no rollout_id in common; diff compares credit of the same rollouts"
            )
        only = (len(left) - len(mine), len(right) - len(theirs))
        left, right = (
            batch if len(rows) == len(batch) and (np.diff(rows) == 1).all() else batch.take(rows)
            for batch, rows in ((left, mine), (right, theirs))
        )
        _check_tokens(left, right, first, second)
    return _difference(
        first,
        second or first,
        paths,
        only,
        left,
        right,
        limit,
        TokenTexts.of(model, [file.provenance for file in (*here, *there)]),
    )


def _files(path: Path) -> list[RolloutFile]:
    files = [RolloutFile(each) for each in files_of(path)]
    for file in files:
        if file.num_rows == 0:
            raise DataError(f"{file.path}: no rollouts in it")
    return files


def _column(files: Sequence[RolloutFile], name: str) -> str:
    """`token.advantage_grpo` by any of its names: advantage_grpo, or grpo."""
    schema = files[0].schema
    token = schema.field("token").type
    signals = [
        f"token.{leaf.name}"
        for leaf in token
        if leaf.name not in ("id", "mask") and _is_number(getattr(leaf.type, "value_type", leaf.type))
    ]
    for path in (name, f"token.{name}", f"token.advantage_{name}"):
        if path in signals:
            break
    else:
        fault = unknown("credit column", name, sorted(signals, key=lambda path: not is_credit(path)))
        raise UsageError(f"{files[0].path}: {fault}")
    for file in files:
        if path not in paths_of(file.schema):
            raise DataError(f"{file.path}: no column {path!r}, which {files[0].path} has")
    return path


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _read(files: Sequence[RolloutFile], credit: Sequence[str]) -> Rollouts:
    names = UsedNames()
    batches: list[Rollouts] = []
    for file in files:
        columns = [path for path in paths_of(file.schema) if path in (*IDENTITY, *credit, "reward")]
        batches += file.batches(columns, check=(*credit, "reward"), names=names)
    return Rollouts.concat(batches)


def _match_rows(left: Rollouts, right: Rollouts) -> tuple[Array, Array]:
    """Rows of the rollouts that are in both [M], in the order of `left`."""
    mine, theirs = (batch.arrow("rollout_id").cast(pa.large_string()) for batch in (left, right))
    found = pc.call_function("index_in", [mine], pc.SetLookupOptions(value_set=theirs))
    there = found.is_valid().to_numpy(zero_copy_only=False)
    return np.flatnonzero(there), pc.fill_null(found, 0).to_numpy(zero_copy_only=False)[there].astype(np.int64)


def _check_tokens(left: Rollouts, right: Rollouts, first: Path, second: Path) -> None:
    """DataError for the first rollout that is not the same in both."""
    a, b = left.tokens.sizes, right.tokens.sizes
    wrong = a != b
    if not wrong.any():
        differs = (left.token_ids.values != right.token_ids.values) | (left.mask != right.mask)
        wrong = left.tokens.any(differs)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        name = left.arrow("rollout_id")[row].as_py()
        how = f"{a[row]} tokens and {b[row]}" if a[row] != b[row] else "other token ids or another mask"
        raise DataError(
            f"{first} and {second}: rollout {name!r} is not the same in both ({how}); expected credit of the same rollouts"
        )


def _difference(
    first: Path, second: Path, paths: tuple[str, str], only: tuple[int, int], left: Rollouts, right: Rollouts,
    limit: int, texts: TokenTexts,
) -> Compared:  # fmt: skip
    a, b = on_tokens(left, paths[0]), on_tokens(right, paths[1])
    mask, tokens = left.mask, left.tokens
    both = mask & ~np.isnan(a) & ~np.isnan(b)
    if not both.any():
        raise DataError(f"{first}, {paths[0]!r} and {second}, {paths[1]!r}: no token to which both assign credit")
    counts = np.maximum(tokens.sum(both), 1)
    there = tokens.any(both)
    means = [tokens.sum(np.where(both, each, 0.0)) / counts for each in (a, b)]
    scales = [float(np.abs(each[both]).mean()) for each in (a, b)]
    distance = np.zeros(len(a))
    distance[both] = np.abs(divide_by_magnitude(a[both]) - divide_by_magnitude(b[both]))
    per_rollout = tokens.sum(distance) / counts
    same = tokens.sum(both & (np.sign(a) == np.sign(b))) / counts
    order = np.argsort(-np.where(there, per_rollout, -1.0), kind="stable")
    chosen = [int(row) for row in order[:limit] if there[row] and per_rollout[row] > 0]
    reward = left.numbers("reward") if "reward" in left else np.full(len(left), np.nan)

    def shown(row: int) -> Disagreement:
        place = slice(int(tokens.offsets[row]), int(tokens.offsets[row + 1]))
        ids = left.token_ids.values[place].tolist()
        credit = [
            [value if own and not math.isnan(value) else None for value, own in zip(each[place].tolist(), mask[place].tolist(), strict=True)]
            for each in (a, b)
        ]  # fmt: skip
        value = float(reward[row])
        return Disagreement(
            left.arrow("rollout_id")[row].as_py(), left.arrow("group_id")[row].as_py(),
            None if math.isnan(value) else value, float(per_rollout[row]), float(same[row]),
            ids, texts(ids), *credit,
        )  # fmt: skip

    return Compared(
        str(first), str(second), paths, len(left), *only,
        int((mask & np.isnan(a)).sum()), int((mask & np.isnan(b)).sum()),
        agreement(a[both], b[both]), agreement(means[0][there], means[1][there]),
        [shown(row) for row in chosen], (scales[0], scales[1]),
    )  # fmt: skip

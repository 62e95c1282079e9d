"""`diff` behind its signature: what is compared with what."""

from pathlib import Path

import numpy as np

from ...formats.errors import DataError, UsageError
from ...formats.parquet import STREAM
from ..models.token_texts import TokenTexts
from ._matrix import ComparedColumns, compare_columns
from ._pair import Compared, compare_pair
from ._reading import check_tokens, credit_columns, find_column, match_rows, open_files, read_credits


def compare_credits(
    first: Path, second: Path | None, *, columns: list[str] | None, limit: int, model: str | None
) -> Compared | ComparedColumns:
    """See `diff`. UsageError for columns that are not there; DataError where no rollout is in both, or one has other
    tokens there than here."""
    names = [name.strip() for item in columns or [] for name in item.split(",") if name.strip()]
    if second is not None and len(names) > 2:
        raise UsageError(
            f"--columns {','.join(names):.200}: of two files expected one or two columns; "
            "leave the second file out to compare the columns of the first"
        )
    if first == second == STREAM:
        raise UsageError("-: standard input can be read once; to compare two columns of it, leave the second - out")
    here = open_files(first)
    if second is None and not names and len(found := credit_columns(here)) > 2:
        names = found
    names = names or ["advantage"]
    if second is None and len(names) == 1:
        raise UsageError(
            "one file and one column leave nothing to compare; name a second file, or two columns with --columns a,b"
        )
    if second is None:
        paths = [find_column(here, name) for name in names]
        texts = TokenTexts.of(model, [file.provenance for file in here])
        rollouts = read_credits(here, paths)
        if len(paths) > 2:
            return compare_columns(first, paths, rollouts, limit, texts)
        return compare_pair(first, first, (paths[0], paths[1]), (0, 0), rollouts, rollouts, limit, texts)
    there = open_files(second)
    pair = (find_column(here, names[0]), find_column(there, names[-1]))
    left, right = read_credits(here, pair[:1]), read_credits(there, pair[1:])
    mine, theirs = match_rows(left, right)
    if not len(mine):
        raise DataError(f"{first} and {second} have no rollout_id in common; diff compares credit of the same rollouts")
    only = (len(left) - len(mine), len(right) - len(theirs))
    left, right = (
        batch if len(rows) == len(batch) and (np.diff(rows) == 1).all() else batch.take(rows)
        for batch, rows in ((left, mine), (right, theirs))
    )
    check_tokens(left, right, first, second)
    texts = TokenTexts.of(model, [file.provenance for file in (*here, *there)])
    return compare_pair(first, second, pair, only, left, right, limit, texts)

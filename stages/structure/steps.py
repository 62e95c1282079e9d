"""Steps of rollouts as flat arrays, and values of steps on their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.segments import Array, Segments
from ..core.remedies import remedy


@dataclass(frozen=True, eq=False)
class Steps:
    """S steps of R rollouts. rows: steps [S] of each rollout; start, end: [S] response tokens, [start, end)."""

    rows: Segments
    start: Array
    end: Array

    @classmethod
    def of(cls, rollouts: Rollouts) -> "Steps":
        """The step ruler. DataError for a rollout without steps, since nothing could be said of its tokens."""
        starts, ends = rollouts.ragged("step.start"), rollouts.ragged("step.end")
        if starts.present is not None:
            row = int(np.flatnonzero(~starts.present)[0])
            raise DataError(f"row {row}, column 'step.start': missing, expected the rollout's steps; split it again")
        return cls(starts.segments, starts.values.astype(np.int64), ends.values.astype(np.int64))

    @classmethod
    def of_sizes(cls, sizes: Sequence[Sequence[int]]) -> "Steps":
        """Steps that follow each other without a gap, by hand. sizes: the tokens of each step, a list for each rollout.

        >>> Steps.of_sizes([[2, 1], [1]]).end.tolist()
        [2, 3, 1]
        """
        rows = Segments.of_sizes(np.array([len(row) for row in sizes], np.int64))
        lengths = np.array([size for row in sizes for size in row], np.int64)
        end = rows.cumsum(lengths).astype(np.int64)
        return cls(rows, end - lengths, end)

    def on_tokens(self, tokens: Segments, values: Array) -> Array:
        """[T] the value of each token's step; 0 for a token in none. values: [S]. tokens: [T] of each rollout."""
        total = int(tokens.offsets[-1])
        first = tokens.starts[self.rows.ids]
        begin, end = first + self.start, first + self.end
        # Between the steps, 0: one repeat over gap, step, gap, step … gap.
        sizes = np.empty(2 * len(begin) + 1, np.int64)
        sizes[0::2] = np.append(begin, total) - np.concatenate(([0], end))
        sizes[1::2] = end - begin
        if (sizes < 0).any():
            raise DataError("the steps are not in order, or overlap; `apportion validate` says where")
        spaced = np.zeros(len(sizes), values.dtype)
        spaced[1::2] = values
        return np.repeat(spaced, sizes)

    def column(self, rollouts: Rollouts, path: str) -> Array:
        """[S] float64, a column on the step ruler. DataError where it has another length than the steps."""
        values = rollouts.ragged(path)
        self.check_length(values.segments, path)
        return values.values.astype(np.float64)

    def check_length(self, found: Segments, path: str) -> None:
        """DataError for a row of a column that has not one value a step."""
        wrong = np.flatnonzero(found.sizes != self.rows.sizes)
        if len(wrong):
            row = int(wrong[0])
            values, steps = int(found.sizes[row]), int(self.rows.sizes[row])
            raise DataError(f"row {row}, column {path!r}: {values} values for {steps} steps; {remedy(path)}")


@dataclass(frozen=True, eq=False)
class StepTexts:
    """A text of each of S steps. codes: [S] int64, an index into `texts`, the distinct ones."""

    codes: Array
    texts: Sequence[str]

    @classmethod
    def by_hand(cls, texts: Sequence[str]) -> "StepTexts":
        """Of a text a step."""
        distinct = list(dict.fromkeys(texts))
        return cls(np.array([distinct.index(text) for text in texts], np.int64), distinct)

    def are(self, text: str) -> Array:
        """[S] bool, the step's text is this one."""
        return self.codes == self.texts.index(text) if text in self.texts else np.zeros(len(self.codes), bool)


def encode_texts(rollouts: Rollouts, path: str) -> tuple[Ragged, list[str]]:
    """A column of texts on the step ruler as codes, int64, and the texts they stand for. DataError for a step without a
    text."""
    lists = rollouts.arrow(path)
    present = ~np.asarray(lists.is_null())
    rows = Segments.of_sizes(np.where(present, np.asarray(lists.value_lengths().fill_null(0)), 0).astype(np.int64))
    flat = lists.flatten()
    if flat.null_count:
        row = int(rows.ids[np.flatnonzero(np.asarray(flat.is_null()))[0]])
        raise DataError(f"row {row}, column {path!r}: a step without a {path.removeprefix('step.')}; {remedy(path)}")
    encoded = flat.cast(pa.string()).dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return Ragged(codes, rows.offsets, None if present.all() else present), encoded.dictionary.to_pylist()

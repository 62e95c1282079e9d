"""What the exporters of records of texts share: the texts of rollouts, which rows take part, and JSON lines."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import numpy as np

from ....formats.errors import ApportionError, DataError, UsageError
from ....formats.flags import UNTRAINED
from ....formats.rollouts import Rollouts
from ....formats.schema import ruler_of
from ....formats.segments import Array
from ...core.harmless import harmless_json
from ...models.policy import check_recorded, load_tokenizer
from ...models.recorded import RECORDED
from ...models.token_texts import TokenOffsets
from ..kind import Batches, Tally

Form = Literal["chat", "text"]
UNTRAINABLE = "rows not to train on"
OF_OTHERS = "responses that others than the policy wrote a part of"
BEGUN = "responses whose beginning is not the policy's, which form=text puts into the prompt"
NO_PROMPT = "rows without a prompt"
NO_TEXT = "rows without a text"
_LINE_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029"})  # of a line to some readers, not to JSON


class Lines:
    """JSON lines on their way to a file, and what became none, by reason."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.records = 0
        self.left_out: Counter[str] = Counter()

    def write(self, record: Mapping[str, Any]) -> None:
        """One record."""
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        self._stream.write(harmless_json(text).translate(_LINE_ENDS) + "\n")
        self.records += 1

    def tally(self) -> Tally:
        """What was written, and what was not."""
        return Tally(self.records, {reason: count for reason, count in self.left_out.items() if count})


@contextmanager
def json_lines(out: Path) -> Iterator[Lines]:
    """A file of JSON lines."""
    with out.open("w", encoding="utf-8", newline="\n") as stream:
        yield Lines(stream)


class Texts:
    """Texts of a file's prompts, responses and steps; token ids are decoded only where no column says them."""

    def __init__(self, batches: Batches, tokenizer: str, who: str):
        self._batches = batches
        self._named = tokenizer
        self._who = who

    @cached_property
    def _tokenizer(self) -> Any:
        if self._named != RECORDED:
            return load_tokenizer(self._named)
        advice = f"exporter {self._who} decodes token ids; name their tokenizer with --set tokenizer=MODEL"
        history = [record for file in self._batches.files for record in file.provenance.history]
        named = {"sample": "model", "import": "tokenizer"}
        models = [
            record.parameters[named[record.stage]]
            for record in history
            if record.stage in named and record.parameters.get(named[record.stage])
        ]
        path = self._batches.files[0].path
        if not models:
            raise UsageError(f"{path}: its history names no tokenizer; {advice}")
        try:
            check_recorded(str(models[-1]))
            return load_tokenizer(str(models[-1]), look_up=False)
        except ApportionError as error:
            raise UsageError(f"{path}: {error}; {advice}") from error

    @cached_property
    def _beginning(self) -> str:
        """The special token that the tokenizer puts before a text; "" where it puts none."""
        beginning = getattr(self._tokenizer, "bos_token", None)
        if not beginning or self._tokenizer("")["input_ids"][:1] != [self._tokenizer.bos_token_id]:
            return ""
        return beginning

    @cached_property
    def _plain(self) -> TokenOffsets:
        return TokenOffsets(self._tokenizer)

    @cached_property
    def _special(self) -> TokenOffsets:
        return TokenOffsets(self._tokenizer, keep_special=True)

    def responses(self, batch: Rollouts) -> list[str]:
        """Every row's response: its `text`, or its ids decoded."""
        said: list[str | None] = batch.strings("text") if "text" in batch else [None] * len(batch)
        return [
            self._plain(batch.token_ids[row].tolist())[0] if text is None else text for row, text in enumerate(said)
        ]

    def read(self, batch: Rollouts, row: int) -> str:
        """What the model read before the response, special tokens included but the one that its tokenizer begins every text with."""
        return self._special(batch.ragged("prompt_ids")[row].tolist())[0].removeprefix(self._beginning)

    def cut(self, batch: Rollouts, row: int, place: int) -> tuple[str, str]:
        """(the response's text before a token, special tokens included; its text from there on)."""
        ids = batch.token_ids[row].tolist()
        return "".join(self._special.pieces(ids)[:place]), "".join(self._plain.pieces(ids)[place:])

    def steps(self, batch: Rollouts, row: int, starts: Sequence[int], ends: Sequence[int]) -> list[str]:
        """The text of each step."""
        pieces = self._plain.pieces(batch.token_ids[row].tolist())
        return ["".join(pieces[start:end]) for start, end in zip(starts, ends, strict=True)]

    def prompts(self, batch: Rollouts, form: Form) -> list[Any]:
        """Every row's prompt, its messages or what the model read; None where there is none."""
        if form == "chat":
            return [chat or None for chat in batch.strings("prompt")]
        return [self.read(batch, row) or None for row in range(len(batch))]

    def examples(self, batch: Rollouts, form: Form, out: "Lines") -> "Examples":
        """Every row as a prompt and a response of the policy; those that cannot be written are counted.

        A response in which others wrote would be trained on as if the policy had written all of it. Only a beginning that is not
        the policy's can be told apart: as text, it joins the prompt.
        """
        prompts, responses = self.prompts(batch, form), self.responses(batch)
        own = np.where(batch.mask, batch.tokens.positions, batch.tokens.spread(batch.tokens.sizes))
        lead = batch.tokens.min(own).astype(np.int64)  # tokens before the policy's first
        inside = batch.tokens.positions >= batch.tokens.spread(lead)
        if form == "text":
            for row in np.flatnonzero(lead > 0).tolist():
                shared, responses[row] = self.cut(batch, row, int(lead[row]))
                prompts[row] = (prompts[row] or "") + shared
        good = np.ones(len(batch), bool)
        for reason, wrong in (
            (UNTRAINABLE, ~trainable_rows(batch)),
            (OF_OTHERS, batch.tokens.any(inside & ~batch.mask)),
            (BEGUN, (lead > 0) & (form == "chat")),
            (NO_PROMPT, np.array([prompt is None for prompt in prompts], bool)),
            (NO_TEXT, np.array([not text for text in responses], bool)),
        ):
            out.left_out[reason] += int((good & wrong).sum())
            good &= ~wrong
        return Examples(prompts, [as_response(text, form) for text in responses], good)


class Examples(NamedTuple):
    """A batch's rows for a trainer. prompts, responses: [R], in one form. good: [R] bool, the row can be written."""

    prompts: list[Any]
    responses: list[Any]
    good: Array


def plain_prompts(batch: Rollouts) -> list[str | None]:
    """Every row's prompt as one text: its messages' contents, a blank line between them."""
    return ["\n\n".join(each["content"] or "" for each in chat) if chat else None for chat in batch.strings("prompt")]


def as_response(text: str, form: Form) -> Any:
    """A response in the form of its prompt."""
    return text if form == "text" else [{"role": "assistant", "content": text}]


def prompt_column(form: Form | None) -> str:
    """The column that prompts of this form are made of."""
    return "prompt_ids" if form == "text" else "prompt"


def trainable_rows(batch: Rollouts) -> Array:
    """[R] bool, `train` would take the row."""
    return batch.for_training & ~np.any([batch.flagged(flag) for flag in UNTRAINED], axis=0)


def worth(batch: Rollouts, column: str) -> Array:
    """[R] float64, what a column says of each row; credit is the mean over the tokens that the row's episode is trained on.

    NaN where it says nothing. UsageError for a column of another kind.
    """
    if ruler_of(column) == "token":
        credit = batch.ragged(column)
        known = batch.trainable.copy()
        values = np.zeros(batch.num_tokens)
        if credit.present is None:
            values[:] = credit.values
        else:
            inside = batch.tokens.spread(credit.present)
            values[inside] = credit.values
            known &= inside
        total = np.bincount(batch.episodes, weights=batch.tokens.sum(np.where(known, values, 0.0)))
        count = np.bincount(batch.episodes, weights=batch.tokens.sum(known))
        with np.errstate(invalid="ignore"):
            return (total / np.where(count > 0, count, np.nan))[batch.episodes]
    values = batch.numbers(column) if ruler_of(column) == "rollout" else np.empty(0, object)
    if values.dtype.kind not in "iufb":
        raise UsageError(f"by={column}: expected a column of numbers on the rollout, or of credit on the tokens")
    return values.astype(np.float64)


def first_parts(batch: Rollouts) -> Array:
    """[R] bool, the row is the first of its episode."""
    if "part" not in batch:
        first = np.unique(batch.episodes, return_index=True)[1]
    else:
        part = batch.arrow("part").fill_null(0).to_numpy(zero_copy_only=False)
        order = np.lexsort((np.arange(len(batch)), part, batch.episodes))
        first = order[np.unique(batch.episodes[order], return_index=True)[1]]
    found = np.zeros(len(batch), bool)
    found[first] = True
    return found


def lists_of(batch: Rollouts, path: str) -> list[list[float] | None]:
    """A column of a ruler as Python lists, None where it is missing. DataError for a null in a list."""
    found = batch.ragged(path)
    missing: Iterable[bool] = np.zeros(len(found), bool) if found.present is None else ~found.present
    return [None if none else found[row].tolist() for row, none in enumerate(missing)]


def check_steps(lists: Mapping[str, list[list[float] | None]], row: int, count: int) -> None:
    """DataError for a list that has not one value a step."""
    for path, values in lists.items():
        if (each := values[row]) is not None and len(each) != count:
            raise DataError(f"row {row}, column {path!r}: {len(each)} values for {count} steps")

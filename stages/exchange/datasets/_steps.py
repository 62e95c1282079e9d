"""Steps with a label each, as the exporters of process supervision need them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ....formats.rollouts import Rollouts
from ._writing import (
    NO_PROMPT,
    UNTRAINABLE,
    Lines,
    Texts,
    check_steps,
    lists_of,
    plain_prompts,
    trainable_rows,
)

By = Literal["step.value", "step.reward", "step.valid"]
NO_STEPS = "rows without steps"


@dataclass(frozen=True)
class Labelled:
    """A rollout's steps. probes: how many rollouts each label is the mean of; None where the file does not say."""

    row: int
    prompt: str
    texts: list[str]
    labels: list[float]
    probes: list[int] | None


def needed(by: By) -> tuple[str, ...]:
    """The columns that labels of this kind are made of."""
    return ("prompt", "step.start", "step.end", by, *(("reward",) if by == "step.value" else ()))


def labelled_steps(batch: Rollouts, by: By, separator: str, texts: Texts, lines: Lines) -> Iterator[Labelled]:
    """The steps of every row that can be trained on, each with its text and what `by` says of it; other rows are counted.

    A step's value in the file is that of the state before it, and its label is that of the state after it: the next step's value,
    and the rollout's reward after the last.
    """
    starts, ends, found = lists_of(batch, "step.start"), lists_of(batch, "step.end"), lists_of(batch, by)
    probes = lists_of(batch, "step.probes") if by == "step.value" and "step.probes" in batch else None
    rewards = batch.numbers("reward").tolist() if by == "step.value" else None
    prompts, trainable = plain_prompts(batch), trainable_rows(batch)
    for row, prompt in enumerate(prompts):
        start, end, label = starts[row], ends[row], found[row]
        if not trainable[row]:
            lines.left_out[UNTRAINABLE] += 1
        elif prompt is None:
            lines.left_out[NO_PROMPT] += 1
        elif not start or end is None:
            lines.left_out[NO_STEPS] += 1
        elif label is None:
            lines.left_out[f"rows without {by}"] += 1
        elif rewards is not None and rewards[row] != rewards[row]:
            lines.left_out["rows without a reward"] += 1
        else:
            check_steps({by: found, **({"step.probes": probes} if probes else {})}, row, len(start))
            counts = None if probes is None else probes[row]
            if rewards is not None:
                label = [*label[1:], rewards[row]]
                counts = None if counts is None else [*counts[1:], 1]
            parts = texts.steps(batch, row, [int(each) for each in start], [int(each) for each in end])
            counts = None if counts is None else [int(each) for each in counts]
            yield Labelled(row, prompt, _apart(parts, separator), [float(each) for each in label], counts)


def _apart(texts: list[str], separator: str) -> list[str]:
    """The steps without the separator between them, whether it stands before all but the first or behind all but the last."""
    if not separator:
        return texts
    if all(text.startswith(separator) for text in texts[1:]):
        return [texts[0], *(text.removeprefix(separator) for text in texts[1:])]
    return [*(text.removesuffix(separator) for text in texts[:-1]), texts[-1]]

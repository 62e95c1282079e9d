"""Preference pairs: a prompt, the response that is better, and the one that is worse."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ....formats.errors import DataError, UsageError
from ....formats.rollouts import Rollouts
from ....formats.schema import CHOSEN, REJECTED
from ...core.ranges import AtLeast
from ...models.recorded import RECORDED
from ..formats._messages import is_chat, pieces_of, prompt_of
from ..kind import Batches, Sample, Source, Tally, Unmapped, exporter, importer
from ._pairs import Cut, pairs_by_worth, pairs_in_file, pairs_of_siblings
from ._reading import TEXTS_ONLY, Record, first_fields, number, read_records
from ._writing import Form, Lines, Texts, json_lines, prompt_column, worth

SCORES = {CHOSEN: "score_chosen", REJECTED: "score_rejected"}


def _recognises(source: Source) -> bool:
    fields = first_fields(source)
    return all(isinstance(fields.get(role), str) or is_chat(fields.get(role)) for role in SCORES)


@importer(
    "preference",
    recognises=_recognises,
    exact=False,
    fills=("prompt", "text", "reward", "pair_id", "pair_role", "step.start", "step.end", "step.kind"),
    loses=(TEXTS_ONLY, "fields beside prompt, chosen, rejected and their two scores"),
    source="TRL 1.16.0, data_utils.py",
    evidence="code",
)
def read_pairs(source: Source) -> Iterator[Sample | Unmapped]:
    """Preference pairs as TRL reads them, two rows each: JSON lines, JSON or Parquet.

    A pair is a group of two, with `pair_id` and `pair_role`. `chosen` and `rejected` are texts or conversations. Without a
    `prompt`, or with a text as prompt of two conversations, the prompt is what both sides begin with. The reward is
    `score_chosen` or `score_rejected` where the record has both, else 1 or 0. --group-by prompt joins the pairs of a prompt.
    """

    def read(record: Record) -> Iterator[Sample | Unmapped]:
        sides = {role: record.said(role) for role in SCORES}
        if is_chat(sides[CHOSEN]) != is_chat(sides[REJECTED]):
            raise DataError(f"{REJECTED}: {_kind(sides[REJECTED])}, but {CHOSEN} is {_kind(sides[CHOSEN])}")
        prompt: Any = record.said("prompt") if record.fields.get("prompt") is not None else None
        if prompt is None or (isinstance(prompt, str) and is_chat(sides[CHOSEN])):
            if sides[CHOSEN] == sides[REJECTED]:
                yield Unmapped("pairs whose sides are equal, so that nothing tells where their prompt ends")
                return
            shared = _shared(sides[CHOSEN], sides[REJECTED])
            prompt = sides[CHOSEN][:shared]
            sides = {role: side[shared:] for role, side in sides.items()}
        if not prompt:
            yield Unmapped("pairs without a prompt")
            return
        pieces = {role: pieces_of(side) for role, side in sides.items()}
        if not all(any(own and text for text, own in each) for each in pieces.values()):
            yield Unmapped("pairs with a side that the policy wrote nothing of")
            return
        rewards = _rewards(record.fields)
        for role, each in pieces.items():
            yield Sample(
                where=record.where,
                rollout_id=f"{record.name}/{role}",
                group_id=record.name,
                pieces=each,
                columns={
                    "prompt": prompt_of(prompt),
                    "text": "".join(text for text, _ in each),
                    "reward": rewards[role],
                    "pair_id": record.name,
                    "pair_role": role,
                    "step.kind": ["turn"] * sum(own for _, own in each),
                },
                record=record.fields,
            )

    return read_records(source, read)


def _kind(side: Any) -> str:
    return "a conversation" if is_chat(side) else "a text"


def _shared(chosen: Any, rejected: Any) -> int:
    """How many characters or messages both begin with, of which each keeps one at least. A space belongs to the response."""
    shortest = min(len(chosen), len(rejected))
    for place in range(shortest):
        if chosen[place] != rejected[place]:
            return place - 1 if place and chosen[place - 1] == " " else place
    return shortest - 1


def _rewards(fields: Mapping[str, Any]) -> dict[str, float]:
    if any(fields.get(name) is None for name in SCORES.values()):
        return {CHOSEN: 1.0, REJECTED: 0.0}
    return {role: number(fields[name], name) for role, name in SCORES.items()}


@exporter(
    "preference",
    needs_with=lambda *, by, siblings, form, **_: (
        *(("pair_id", "pair_role") if by == "pair_role" else (by,)),
        *(("node.id", "node.start", "node.end") if siblings else ()),
        prompt_column("text" if siblings else form),
    ),
    suffix=".jsonl",
    source="TRL 1.16.0, data_utils.py",
    evidence="code",
)
def write_pairs(
    batches: Batches,
    out: Path,
    *,
    by: str = "reward",
    margin: Annotated[float, AtLeast(0)] = 0.0,
    most: Annotated[int, AtLeast(1)] = 1,
    siblings: bool = False,
    form: Form | None = None,
    tokenizer: str = RECORDED,
) -> Tally:
    """Preference pairs for TRL: prompt, chosen, rejected, score_chosen and score_rejected, JSON lines.

    The best and the worst rollout of each group are a pair, if `by` tells them apart and their texts differ. An episode of several
    rows counts once, with its first row. Rows not to train on, and responses that others wrote a part of, are left out and counted.

    With siblings, a pair are two rollouts that leave the same node of their group's tree: of all forks the one whose best and
    worst branch lie furthest apart. A branch is worth the mean reward of the rollouts through it, or the mean credit of its own
    tokens. What both rollouts share joins the prompt, so only what came after the fork is compared. The texts are then cut
    between tokens.

    Args:
        by: what tells better from worse: reward, rewards.NAME, another column of numbers, or credit such as token.advantage, whose
            mean over the rollout's tokens counts. pair_role writes the pairs that the file has.
        margin: the least difference of a pair.
        most: pairs of a group: with 2 also the second best with the second worst, or the second fork.
        siblings: compare branches of the group's tree; run `tree-build` first.
        form: "chat" writes messages, "text" what the model read and wrote, as token ids say it. None is text with siblings, and
            chat otherwise.
        tokenizer: of which model decodes token ids; "recorded" is the one that made the file's.

    Returns:
        The number of pairs, and how many groups and rows made none.

    Raises:
        UsageError: siblings as chat, in which a trainer would end the shared beginning as a message; siblings by pair_role; no
            tokenizer where token ids have to be decoded.
    """
    if siblings and form == "chat":
        raise UsageError("exporter preference: siblings share the beginning of a message; leave form out, or form=text")
    if siblings and by == "pair_role":
        raise UsageError("exporter preference: by=pair_role writes the pairs of the file; leave siblings out")
    form = form or ("text" if siblings else "chat")
    texts = Texts(batches, tokenizer, "preference")
    with json_lines(out) as lines:
        for batch in batches:
            if siblings:
                for cut in pairs_of_siblings(batch, by, margin=margin, most=most, left_out=lines.left_out):
                    _write_cut(batch, cut, texts, lines)
            else:
                _write_whole(batch, by, margin, most, form, texts, lines)
    return lines.tally()


def _write_whole(batch: Rollouts, by: str, margin: float, most: int, form: Form, texts: Texts, lines: Lines) -> None:
    prompts, responses, good = texts.examples(batch, form, lines)
    if by == "pair_role":
        values = batch.numbers("reward") if "reward" in batch else np.full(len(batch), np.nan)
        pairs = pairs_in_file(batch, good, lines.left_out)
    else:
        values = worth(batch, by)
        pairs = pairs_by_worth(batch, values, good, margin=margin, most=most, left_out=lines.left_out)
    for chosen, rejected in pairs:
        if prompts[chosen] != prompts[rejected]:
            lines.left_out["pairs of different prompts"] += 1
        elif responses[chosen] == responses[rejected]:
            lines.left_out["pairs of equal texts"] += 1
        else:
            record = {"prompt": prompts[chosen], CHOSEN: responses[chosen], REJECTED: responses[rejected]}
            both = [float(values[row]) for row in (chosen, rejected)]
            known = not np.isnan(both).any()
            lines.write(record | (dict(zip(SCORES.values(), both, strict=True)) if known else {}))


def _write_cut(batch: Rollouts, cut: Cut, texts: Texts, lines: Lines) -> None:
    shared, better = texts.cut(batch, cut.chosen, cut.place)
    _, worse = texts.cut(batch, cut.rejected, cut.place)
    prompt = texts.read(batch, cut.chosen) + shared
    if not better or not worse or better == worse or not prompt:
        lines.left_out["forks of equal or empty texts"] += 1
        return
    lines.write(
        {"prompt": prompt, CHOSEN: better, REJECTED: worse} | dict(zip(SCORES.values(), cut.worth, strict=True))
    )

"""RISE's sampling: right rollouts in which the policy hides a small error, as pairs for preference learning."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa

from ....formats.errors import UsageError
from ....formats.flags import EDITED, NOT_REVISED, PARTIAL
from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ....formats.schema import CHOSEN, REJECTED, Field, arrow_type
from ...core.ranges import AtLeast, Between
from ...core.wording import check_template, fill
from ...models.engine import Request
from ...models.policy import render_prompt
from ...models.token_texts import TokenOffsets
from ...tasks import Message, Problem
from .._questions import question_of, texts_of
from .._source import ADDED, fork_column, names_of, own_rows, with_known, with_rows
from .._steps import generate_steps
from ..dialogue import Dialogue, Lesson, Work
from ..kind import CONTINUES, SamplingContext, strategy
from ._edits import FENCE, HEDGES, edit_kinds, edit_of, edit_ratio, last_sentences, open_boxes, speaks_of_errors
from ._spelling import Spelling, spell

WHO = "inject_errors"
SPOKEN_OF = ("wrong", "correct")  # if the question uses these words, so may an answer
HEADER = r"\s*Step \d+:"

EDITOR = """\
Question:
{question}

The work so far:
{before}

The next step:
{step}

Write this step once more, with one change: {instruction}. Leave everything else as it is, and do not say or show in \
any way that something was changed or is not right. Answer with the step alone, between two lines of ```."""

EDITS = {
    "value": "put another number in the place of the one that it computes with",
    "multi_value": "change one number, and those that depend on it with it, so that they fit together",
    "substitution": "put a false value or expression in where one is inserted",
    "delete_term": "leave one term of a calculation out",
    "symbol": "put another sign of calculation in the place of one",
    "swap": "let two terms of a calculation change places where that matters",
    "words": "change the words that show how the question is understood, so that it is misunderstood",
}


@dataclass(frozen=True)
class RightStep:
    """A step of a right rollout, in tokens [fork, end), and the part of it to edit: text[begin:stop], in characters."""

    row: int
    number: int
    fork: int
    end: int
    begin: int
    stop: int
    kind: str

    def target(self, text: str) -> str:
        """The part of the row's text to edit."""
        return text[self.begin : self.stop]


@dataclass(frozen=True)
class Edits(Dialogue):
    """A step of a right rollout, and what precedes it: how does the step read with a small error in it?"""

    of: ClassVar[str] = "edit"

    editor: str = EDITOR
    header: str = HEADER
    max_edit_ratio: float = 0.5

    def __post_init__(self) -> None:
        check_template(self.who, "editor", self.editor, "step", "instruction")
        try:
            re.compile(self.header)
        except re.error as error:
            raise UsageError(
                f"strategy {self.who}: header must be a regular expression, got {self.header!r}: {error}"
            ) from error

    @cached_property
    def heads(self) -> re.Pattern[str]:
        """What a step may begin with that is not part of it."""
        return re.compile(self.header)

    def opening(self, tokenizer: Any) -> list[int]:
        """The first of two fences."""
        return tokenizer(f"{FENCE}\n", add_special_tokens=False)["input_ids"]

    def ask(
        self,
        batch: Rollouts,
        problems: Sequence[Problem],
        steps: Sequence[RightStep],
        spellings: Mapping[int, Spelling],
    ) -> list[list[Message]]:
        """The question about each of the steps, to be followed by `opening`."""
        groups = batch.groups.ids
        found: list[list[Message]] = []
        for step in steps:
            spelling = spellings[step.row]
            content = fill(
                self.editor,
                question=question_of(problems[int(groups[step.row])]),
                before=spelling.text[: int(spelling.bounds[step.fork])],
                step=step.target(spelling.text),
                instruction=EDITS[step.kind],
            )
            found.append([{"role": "user", "content": content}])
        return found

    def is_usable(self, step: str, edit: str) -> bool:
        """Whether an edit of the step is close enough to it and does not give itself away."""
        return not speaks_of_errors(edit) and edit_ratio(step, edit) <= self.max_edit_ratio

    def teach(self, work: Work) -> list[Lesson]:
        """For each step of a right rollout a wrong one, as the task itself would go wrong."""
        context, batch, problems = work.context, work.batch, work.problems
        coins = [context.coin_of(WHO, each) for each in problems]
        right, _ = draw_rows(context, batch, problems, coins, work.correct, need_wrong=False)
        steps = find_steps(context, batch, right, coins, self.heads)
        spellings = spellings_of(context, batch, steps)
        questions, found = self.ask(batch, problems, steps, spellings), list[Lesson]()
        slips = {
            group: work.reviewer.slips(
                problems[group], work.solutions[group], Random(context.seed_of(problems[group].problem_id, "slips"))
            )
            for group in right
        }
        for step, question in zip(steps, questions, strict=True):
            group, spelling = int(work.groups[step.row]), spellings[step.row]
            before, target = spelling.text[: int(spelling.bounds[step.fork])], step.target(spelling.text)
            lines = tuple(line.strip() for line in before.splitlines() if line.strip())
            slip = slips[group].get(lines)
            if slip is None or not work.reviewer.is_right(problems[group], before, target):
                continue
            if self.is_usable(target, slip):
                found.append(work.lesson(step.row, question, f"{slip}\n{FENCE}", f"edit/{step.number}"))
        return found


@dataclass(frozen=True)
class _Pair:
    """Row and step, with the tokens of the chosen and the rejected response."""

    step: RightStep
    chosen: list[int]
    rejected: list[int]


EDIT = Field("edit", pa.string(), "kind of error that was put into the step; null: none")


def _remark(counts: Mapping[str, int], **_: Any) -> str:
    prompts, whole, edits, sound, pairs = (
        counts.get(name, 0) for name in ("prompts", "whole_pairs", "edits", "sound", "step_pairs")
    )
    return f"{prompts:,} groups, {whole:,} whole pairs; {edits:,} edits, {sound:,} of them sound, {pairs:,} step pairs"


@strategy(
    source="arXiv:2410.06638 (RISE)",
    evidence="code",
    needs=(CONTINUES,),
    makes=("pair_id", "pair_role", EDIT),
    remark=_remark,
    dialogue=Edits,
    system=("RISE",),
)
def inject_errors(
    context: SamplingContext,
    *,
    edits: Annotated[int, AtLeast(1)] = 1,
    need_wrong: bool = True,
    correct: float = 1.0,
    header: str = HEADER,
    max_edit_ratio: Annotated[float, Between(0, 1)] = 0.5,
    unbox: bool = False,
    editor: str | None = None,
    editor_tokens: Annotated[int, AtLeast(1)] = 512,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Pairs of a right step of --from and the same step with a small error in it, for preference learning (RISE).

    From each group with right and wrong rollouts, one of each is drawn; together they are a pair of whole responses.
    The policy itself edits every step of the right one. It sees the question, what precedes the step, the step, and one
    of the kinds of error that the step allows, drawn with equal chances:

        value or multi_value (one number, or several)    substitution, delete_term, symbol, swap (an =)    words
        (neither)

    The edit is the first fenced block of the answer. It is dropped if there is none, if it mentions an error, if it
    changes nothing, or if it changes too much:

        Levenshtein(step, edit) / max(lengths) > max_edit_ratio

    Of the steps that remain, `edits` are drawn at random and become step pairs: two new rows of the group that end with
    the step, with `fork` where it begins, a mask that is true on the step alone, no end of sequence, and the flag
    `partial`. The chosen row has the tokens and the parent of the right rollout. The rejected row is flagged `edited`,
    its parent is the chosen row, and `edit` names its kind of error. Its tokens before the edit are the rollout's;
    those of the edit and of what follows are the tokenizer's.

    The two rows of a pair share a `pair_id`; one has the `pair_role` "chosen", the other "rejected". Preference
    learning compares the likelihoods of the tokens that their masks include. The rollouts only gain these columns; in a
    whole pair, the rows are the rollouts themselves. Step pairs are targets, not samples: they have no
    log-probabilities, temperature or reward. `apportion filter --drop --where "'partial' not in flags"` leaves what a
    verifier and a baseline can use. The step ruler (`score --with steps`) defines the steps. A line on standard error
    says how many edits got how far. -n and --max-tokens are not used.

    Args:
        edits: step pairs per prompt.
        need_wrong: skip groups without a wrong rollout, as in the paper; false makes step pairs of them.
        correct: a rollout is right if its reward is at least this. A right rollout that mentions mistakes of its own is
            not drawn, unless the question mentions them, too.
        header: a Python regular expression for what a step may begin with that is not part of it.
        max_edit_ratio: 0 to 1; 1 keeps all.
        unbox: replace \\boxed{…} in a rejected step by its content, as in the released code.
        editor: the question to the policy; {question}, {before}, {step} and {instruction} are replaced. None uses the
            built-in prompt, `EDITOR` in stages/sample/revise/inject_errors.py.
        editor_tokens: token budget of an edit. A question beyond the policy's context is refused.
        rows_at_once: rollouts to look at before a part of the file is written (at least a group); bounds the memory.

    Raises:
        UsageError: an option out of range; an invalid regular expression; a question beyond the model's context.
            DataError: rows without reward or steps; rows in which an environment wrote.

    Departures: 1. Boxes stay where they are in both rows, so that they do not tell the two apart; see `unbox`. 2. An
        edit replaces its step only in that one place. 3. The limit on the ratio is ours, and so are some of the words
        that give an edit away. 4. As in the released code, no edit is checked to be false.
    """
    dialogue = Edits(WHO, editor or EDITOR, header, max_edit_ratio)
    context.require("reward", "step.start", "step.end")
    for part, problems in context.parts(rows_at_once):
        coins = [context.coin_of(WHO, each) for each in problems]
        right, whole = draw_rows(context, part, problems, coins, correct, need_wrong)
        steps = find_steps(context, part, right, coins, dialogue.heads)
        found = _edit(context, part, problems, steps, dialogue, editor_tokens, unbox)
        pairs = _draw_pairs(found, part, coins, edits)
        made = _with_pairs(context, part, whole, pairs)
        context.count(
            prompts=len(problems), whole_pairs=len(whole), edits=len(steps), sound=len(found), step_pairs=len(pairs)
        )
        yield made


def draw_rows(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], coins: Sequence[Random], correct: float,
    need_wrong: bool,
) -> tuple[dict[int, int], dict[int, int]]:  # fmt: skip
    """({group: a right row}, {a right row: a wrong one})."""
    own = own_rows(batch, "inject_errors", without=NOT_REVISED, needs=("reward", "step.start"))
    reward, texts = batch.numbers("reward"), TokenOffsets(context.tokenizer)
    right: dict[int, int] = {}
    whole: dict[int, int] = {}
    borders = np.searchsorted(own, batch.groups.offsets).tolist()
    for group, (problem, coin) in enumerate(zip(problems, coins, strict=True)):
        rows = own[borders[group] : borders[group + 1]].tolist()
        may_speak = speaks_of_errors(question_of(problem), SPOKEN_OF)
        good = [row for row in rows if reward[row] >= correct]
        if not may_speak:
            good = [row for row in good if not speaks_of_errors(texts(batch.token_ids[row].tolist())[0], HEDGES)]
        bad = [row for row in rows if reward[row] < correct]
        if not good or (need_wrong and not bad):
            continue
        right[group] = coin.choice(good)
        if bad:
            whole[right[group]] = coin.choice(bad)
    return right, whole


def find_steps(
    context: SamplingContext, batch: Rollouts, right: dict[int, int], coins: Sequence[Random], header: re.Pattern[str]
) -> list[RightStep]:
    """Every step of the right rows that has something to edit."""
    starts, ends, offsets = batch.ragged("step.start"), batch.ragged("step.end"), TokenOffsets(context.tokenizer)
    found: list[RightStep] = []
    for group, row in right.items():
        spelling = Spelling(offsets, batch.token_ids[row].tolist())
        for number, (start, stop) in enumerate(zip(starts[row].tolist(), ends[row].tolist(), strict=True)):
            first, last = int(spelling.bounds[start]), int(spelling.bounds[stop])
            head = header.match(spelling.text, first, last)
            fork = max(start, spelling.tokens_before(head.end())) if head else start
            end = spelling.tokens_before(last)  # excluding the end-of-sequence token
            begin = int(spelling.bounds[fork])
            begin += last_sentences(spelling.text[begin:last])
            target = spelling.text[begin:last]
            if not target.strip():
                continue
            begin += len(target) - len(target.lstrip())
            close = last - (len(target) - len(target.rstrip()))
            kind = coins[group].choice(edit_kinds(target))
            found.append(RightStep(row, number, fork, end, begin, close, kind))
    return found


def _edit(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], steps: Sequence[RightStep], dialogue: Edits,
    max_tokens: int, unbox: bool,
) -> list[_Pair]:  # fmt: skip
    """The steps whose edits are usable, with their tokens."""
    names, spellings = batch.strings("rollout_id"), spellings_of(context, batch, steps)
    fence = dialogue.opening(context.tokenizer)
    requests = [
        Request(
            [*render_prompt(context.tokenizer, each), *fence], [context.seed_of(names[step.row], "editor", step.number)]
        )
        for each, step in zip(dialogue.ask(batch, problems, steps, spellings), steps, strict=True)
    ]
    sampling = replace(context.sampling, max_tokens=max_tokens, stop=(FENCE,))
    made = [each for (each,) in generate_steps(context, requests, sampling)]
    found: list[_Pair] = []
    for step, answer in zip(steps, texts_of(context, made), strict=True):
        spelling = spellings[step.row]
        edit = edit_of(f"{FENCE}\n{answer}")
        if edit is None or not dialogue.is_usable(step.target(spelling.text), edit):
            continue
        pair = _pair(context.tokenizer, spelling, step, edit, unbox)
        if pair is not None:
            found.append(pair)
    return found


def spellings_of(context: SamplingContext, batch: Rollouts, steps: Sequence[RightStep]) -> dict[int, Spelling]:
    """{row: its text} for the rows of the steps."""
    offsets = TokenOffsets(context.tokenizer)
    return {row: Spelling(offsets, batch.token_ids[row].tolist()) for row in {step.row: None for step in steps}}


def _pair(tokenizer: Any, spelling: Spelling, step: RightStep, edit: str, unbox: bool) -> _Pair | None:
    """The two responses; None if they are the same, or if the edit has no tokens."""
    text = spelling.text
    if edit == step.target(text):
        return None
    first, last = int(spelling.bounds[step.fork]), int(spelling.bounds[step.end])
    head, tail = text[first : step.begin], text[step.stop : last]
    if unbox:
        head, edit, tail = open_boxes(head), open_boxes(edit), open_boxes(tail)
    unchanged = head == text[first : step.begin]
    kept = spelling.tokens_before(step.begin) if unchanged else step.fork
    before = spelling.ids[:kept]
    rest = head[int(spelling.bounds[kept]) - first :] + edit + tail
    ids = spell(tokenizer, before, rest)
    return _Pair(step, spelling.ids[: step.end], [*before, *ids]) if ids else None


def _draw_pairs(found: Sequence[_Pair], batch: Rollouts, coins: Sequence[Random], edits: int) -> list[_Pair]:
    """At most `edits` pairs of each group."""
    groups = batch.groups.ids
    by_group: defaultdict[int, list[_Pair]] = defaultdict(list)
    for pair in found:
        by_group[int(groups[pair.step.row])].append(pair)
    chosen: list[_Pair] = []
    for group, coin in enumerate(coins):
        own = by_group[group]
        places = sorted(coin.sample(range(len(own)), min(edits, len(own))))
        chosen += [own[place] for place in places]
    return chosen


def _with_pairs(context: SamplingContext, batch: Rollouts, whole: dict[int, int], pairs: Sequence[_Pair]) -> Rollouts:
    """The batch with its rows' pairs recorded, and two new rows for each step pair."""
    names = batch.strings("rollout_id")
    of_pair = {row: f"{names[right]}/pair@{context.salt}" for right, wrong in whole.items() for row in (right, wrong)}
    roles = {row: role for right, wrong in whole.items() for row, role in ((right, CHOSEN), (wrong, REJECTED))}
    told = with_known(batch, "pair_id", pa.string(), of_pair)
    told = with_known(told, "pair_role", pa.string(), roles)
    told = with_known(told, EDIT.path, EDIT.type, {}).with_missing(*ADDED)
    pair_ids = [f"{names[pair.step.row]}/{pair.step.number}@{context.salt}" for pair in pairs for _ in range(2)]
    both = [tokens for pair in pairs for tokens in (pair.chosen, pair.rejected)]
    ids = Ragged.from_lists(both, np.int32)
    forks = [pair.step.fork for pair in pairs for _ in range(2)]
    columns: dict[str, Any] = {
        "rollout_id": names_of([f"{name}/{(CHOSEN, REJECTED)[place % 2]}" for place, name in enumerate(pair_ids)]),
        "parent_id": names_of(
            [
                parent
                for pair, name in zip(pairs, pair_ids[::2], strict=True)
                for parent in (names[pair.step.row], f"{name}/{CHOSEN}")
            ]
        ),
        "fork": fork_column(forks),
        "pair_id": names_of(pair_ids),
        "pair_role": names_of([CHOSEN, REJECTED] * len(pairs)),
        EDIT.path: names_of([kind for pair in pairs for kind in (None, pair.step.kind)]),
        "text": names_of(context.tokenizer.batch_decode(both, skip_special_tokens=True) if both else []),
        "purpose": names_of(["train"] * len(both)),
        "policy": names_of([context.policy] * len(both)),
        "flags": pa.array([[PARTIAL], [PARTIAL, EDITED]] * len(pairs), arrow_type("flags")),
        "token.id": ids.to_arrow(),
        "token.mask": ids.with_values(
            ids.segments.positions >= ids.segments.spread(np.array(forks, np.int64))
        ).to_arrow(),
    }
    return with_rows(told, np.array([pair.step.row for pair in pairs for _ in range(2)], np.int64), columns)

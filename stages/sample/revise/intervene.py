"""InT's sampling: the policy, shown a solution, puts one step in the place of the first that went wrong."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa

from ....formats.errors import UsageError
from ....formats.flags import INTERVENTION, NOT_REVISED
from ....formats.rollouts import Rollouts
from ....formats.schema import Field, arrow_type
from ....formats.segments import Array
from ...core.progress import progress
from ...core.ranges import AtLeast
from ...core.wording import check_template, filled
from ...models.engine import Completion, Request
from ...models.token_texts import TokenOffsets
from ...tasks import Message, Problem
from .._judge import answers_of, reference_of, replies, texts_of
from .._rows import derived_seed, sampled_columns
from .._solutions import column_of, demonstrator, require_texts, texts_in, worked_of
from .._source import ADDED, own_rows, with_rows
from .._steps import context_length
from ..kind import CONTINUES, SamplingContext, strategy
from ._interventions import BLANK_LINE, guided, intervention_of, leaks, verified
from ._revisions import Spelling, asking, forks_of, names_of, parts, spelled

OTHERWISE = "name a column with solution_from=column:NAME"

SOLVER = """\
{question}

Here is a solution that you can rely on. Work out your own with its help.

{solution}"""

CRITIC = """\
A student has worked on the same problem and came to a wrong answer. The work, cut into numbered substeps:

{attempt}

Check it substep by substep against what you know of the problem, and keep a short log: right, harmless slip, or \
error. Then name the first critical error: a false statement or conclusion that what follows rests on, and that is \
never put right. Write ONE step that takes the place of that substep. Write it as the student would, carry on from \
what stands before it, give the idea that was missing and say in a few words where it leads. Do not give the \
final answer.

Before you finish, answer with Yes or No: Does the step give the final answer away? Does it leave out the idea that \
was missing? Does it stand behind the first critical error? Write it again until you can say No three times.

End with a dictionary inside of tags, location being the number of the substep:
<intervention>{"content": "the step", "location": 1}</intervention>"""


@dataclass
class _Counts:
    """How far attempts and what was proposed for them got. leaks, tried, kept: of the proposals."""

    attempts: int = 0
    proposals: int = 0
    leaks: int = 0
    tried: int = 0
    kept: int = 0


@dataclass(frozen=True)
class _Target:
    """A row's intervention in tokens; `fork` of them are the row's own."""

    row: int
    ids: list[int]
    fork: int


INTERVENTION_RATE = Field(
    "intervention_rate", pa.float64(), "share of the tries behind the intervention that were right", least=0, most=1
)


@strategy(source="arXiv:2601.14209 (InT)", needs=(CONTINUES,), makes=("reward", INTERVENTION_RATE), system=("InT",))
def intervene(
    context: SamplingContext,
    *,
    solution_from: str = "column:solution",
    separator: str | None = None,
    proposals: Annotated[int, AtLeast(1)] = 4,
    k: Annotated[int, AtLeast(1)] = 32,
    needed: Annotated[int, AtLeast(1)] = 1,
    correct: float = 1.0,
    solver: str | None = None,
    critic: str | None = None,
    critic_tokens: Annotated[int, AtLeast(1)] = 16384,
    rows_at_once: Annotated[int, AtLeast(1)] = 64,
) -> Iterator[Rollouts]:
    """For wrong rollouts of --from: the part before the first error with one better step behind it, to train on (InT).

    The policy first solves the problem with a given solution in view. In a second turn it checks a wrong rollout, cut
    into blocks, and answers with <intervention>{"content": …, "location": L}</intervention>, the last of which counts.

        target = block 1 … block L-1, content        separator between them, and for every newline of the content

    An L behind the last block keeps the whole rollout. A proposal that cannot be read is dropped, and so is one whose
    content has the final answer in it. The first that is left is tried: k responses begin with the target, and if `needed`
    of them are verified, it becomes a row of the group, flagged `intervention`, with `parent_id`, `fork` and
    `intervention_rate`, the share that was right. The tries are probes beside it, with their rewards. Rollouts stay
    as they are. How many proposals got how far is said on standard error.

    An intervention is a target for `train --objective sft` and no sample: it has no log-probabilities and no reward,
    ends without an end of sequence, and its mask is true on all of it, the part it shares with its parent too. Tokens
    up to the fork are the parent's; what is behind is cut out of the policy's answer where its tokens allow, or else
    written by the tokenizer. `apportion filter --drop --where "'intervention' in flags"` leaves the targets, and
    `not in flags` what can be compared with a baseline.

    Everything is sampled with --temperature, --top-p and --top-k (in the paper 0.7, 0.8 and 20). --max-tokens bounds
    the whole response of a try; -n is not used.

    Args:
        solution_from: where solutions come from. "column:NAME" is a text column of the file, the same in all rows of a
            group, or of the file that the task is (groups where it is missing are passed over), "demonstration" the task's
            own worked solution, "reference" what the verifier compares with.
        separator: what stands between blocks; None is a blank line, two newlines.
        proposals: K, interventions asked for, of each wrong rollout. Of equal rollouts of a group the first is asked
            about.
        k: tries of an intervention.
        needed: tries that have to be right.
        correct: reward from which a rollout or a try is right.
        solver: the last message of the first turn; {question} and {solution} are replaced. None is our wording, in this
            file.
        critic: the second turn; {attempt} is replaced by the numbered blocks. None is our wording.
        critic_tokens: budget of each turn. A question beyond the policy's context is refused.
        rows_at_once: rollouts looked at before a part of the file is written (at least a group's); bounds the memory.

    Raises:
        UsageError: an option out of range; a task without worked solutions; a question beyond the model's context.
        DataError: rows without reward; rows an environment wrote in.

    Departures: 1. A location below 1 is dropped: our reading. 2. A critic that reads more than the model's context is
        refused, where the released code cuts the prompt. 3. Where a token has parts of the blocks before and behind L
        in it, it is written anew with the content.
    """
    file = context.rollouts
    assert file is not None, "sample opens it for a strategy that needs --from"
    separator = BLANK_LINE if separator is None else separator
    solver, critic = solver or SOLVER, critic or CRITIC
    if not separator:
        raise UsageError("strategy intervene: separator must not be empty, which cuts nothing")
    if needed > k:
        raise UsageError(f"strategy intervene: needed must be at most k ({k} tries), got {needed}")
    check_template("intervene", "solver", solver, "solution")
    check_template("intervene", "critic", critic, "attempt")
    column = column_of(solution_from)
    if column is None and solution_from not in ("demonstration", "reference"):
        raise UsageError(
            f"strategy intervene: solution_from {solution_from!r}, expected column:NAME, demonstration or reference"
        )
    if solution_from == "demonstration":
        demonstrator(context.task, OTHERWISE)
    require_texts(file, ("reward",), column, "strategy 'intervene'")
    remaining = iter(context.problems)
    with progress(file.num_rows, "intervene, rollouts") as advance:
        for batch in context.batches():
            all_problems = [next(remaining) for _ in range(len(batch.groups))]
            for part, groups in parts(batch, rows_at_once):
                problems, wrong = all_problems[groups], wrong_rows(part, correct)
                if column is not None:
                    solutions = dict(enumerate(texts_in(part, column)))
                elif solution_from == "reference":
                    solutions = dict(enumerate(map(reference_of, problems)))
                else:
                    solutions = worked_of(context, part, problems, wrong, OTHERWISE)
                wrong = wrong[[bool(solutions[group]) for group in part.groups.ids[wrong].tolist()]]
                counts = _Counts(attempts=len(wrong))
                answers = _criticised(
                    context, part, problems, wrong, solutions, separator, proposals, solver, critic, critic_tokens
                )
                targets = _targets(context, part, problems, wrong, answers, separator, counts)
                made = _with_kept(context, part, problems, targets, k, needed, correct, counts)
                context.count(**asdict(counts))
                yield made
                advance(len(part))
    counts = _Counts(**context.tally)
    print(
        f"intervene: {counts.attempts:,} wrong rollouts; {counts.proposals:,} proposals could be read, "
        f"{counts.leaks:,} of them gave the answer away; {counts.tried:,} were tried, {counts.kept:,} kept",
        file=sys.stderr,
    )


def wrong_rows(batch: Rollouts, correct: float) -> Array:
    """[M] the rows whose first error is looked for: wrong, and unlike those before them in the group."""
    rows = own_rows(batch, "intervene", without=NOT_REVISED, needs=("reward",))
    reward, groups = batch.numbers("reward"), batch.groups.ids
    seen: set[tuple[int, bytes]] = set()
    kept: list[int] = []
    for row in rows[reward[rows] < correct].tolist():
        key = int(groups[row]), batch.token_ids[row].tobytes()
        if key not in seen:
            kept.append(row)
            seen.add(key)
    return np.array(kept, np.int64)


def _criticised(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array,
    solutions: Mapping[int, Any], separator: str, proposals: int, solver: str, critic: str, max_tokens: int,
) -> list[list[Completion]]:  # fmt: skip
    """The critic's answers about each row."""
    sampling = replace(context.sampling, max_tokens=max_tokens)
    groups, names = batch.groups.ids, batch.strings("rollout_id")
    asked = sorted({int(groups[row]) for row in rows})
    first = {group: asking(problems[group], solver, solution=str(solutions[group])) for group in asked}
    seeds = [[derived_seed(context.seed, context.round, problems[group].problem_id, "solver")] for group in asked]
    solved = [each for (each,) in replies(context, list(first.values()), seeds, sampling)]
    said = dict(zip(asked, texts_of(context, solved), strict=True))
    offsets = TokenOffsets(context.tokenizer)
    conversations = [
        critic_question(first[group], said[group], blocks_of(offsets, batch, row, separator), critic)
        for row in rows.tolist()
        for group in (int(groups[row]),)
    ]
    seeds = [
        [derived_seed(context.seed, context.round, names[row], "critic", index) for index in range(proposals)]
        for row in rows.tolist()
    ]
    return replies(context, conversations, seeds, sampling)


def blocks_of(offsets: TokenOffsets, batch: Rollouts, row: int, separator: str) -> list[str]:
    """The blocks of a row's text."""
    return offsets(batch.token_ids[row].tolist())[0].split(separator)


def critic_question(first: Sequence[Message], said: str, blocks: Sequence[str], critic: str) -> list[Message]:
    """The second turn, behind what was asked and said in the first."""
    attempt = "\n\n".join(f"Substep {number}: {block}" for number, block in enumerate(blocks, 1))
    return [
        *first,
        {"role": "assistant", "content": said},
        {"role": "user", "content": filled(critic, attempt=attempt)},
    ]


def _targets(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array,
    answers: Sequence[Sequence[Completion]], separator: str, counts: _Counts,
) -> list[_Target]:  # fmt: skip
    """What is tried: for each row the first proposal that can be read and gives nothing away."""
    offsets, groups = TokenOffsets(context.tokenizer), batch.groups.ids
    room = context_length(context) - batch.ragged("prompt_ids").segments.sizes
    found: list[_Target] = []
    for row, made in zip(rows.tolist(), answers, strict=True):
        read = [(each, intervention_of(text)) for each, text in zip(made, texts_of(context, made), strict=True)]
        sound = [(each, proposal) for each, proposal in read if proposal is not None]
        right = answers_of(problems[int(groups[row])])
        silent = [
            (each, proposal) for each, proposal in sound if not any(leaks(proposal.content, one) for one in right)
        ]
        counts.proposals += len(sound)
        counts.leaks += len(sound) - len(silent)
        for completion, proposal in silent[:1]:
            spelling = Spelling(offsets, batch.token_ids[row].tolist())
            text, own = guided(spelling.text, proposal, separator)
            fork = spelling.tokens_before(own)
            before, rest = spelling.ids[:fork], text[int(spelling.bounds[fork]) :]
            ids = _cut_out(context, offsets, completion, before, rest) or spelled(context.tokenizer, before, rest)
            if ids and fork + len(ids) < min(context.sampling.max_tokens, room[row]):
                found.append(_Target(row, [*before, *ids], fork))
    counts.tried += len(found)
    return found


def _cut_out(
    context: SamplingContext, offsets: TokenOffsets, completion: Completion, before: Sequence[int], text: str
) -> list[int] | None:
    """The completion's own tokens that read `text` behind `before`, where it has them."""
    answer = Spelling(offsets, completion.ids.tolist())
    begin = answer.text.rfind(text)
    if begin < 0:
        return None
    first, last = answer.tokens_before(begin), answer.tokens_before(begin + len(text))
    ids = answer.ids[first:last]
    return ids if ids and offsets([*before, *ids])[0] == offsets(list(before))[0] + text else None


def _with_kept(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], targets: Sequence[_Target], k: int,
    needed: int, correct: float, counts: _Counts,
) -> Rollouts:  # fmt: skip
    """The batch with the interventions that were verified, and their tries."""
    batch = batch.with_missing(*ADDED)
    if INTERVENTION_RATE.path not in batch:
        batch = batch.with_columns({INTERVENTION_RATE.path: pa.nulls(len(batch), INTERVENTION_RATE.type)})
    names, prompts, groups = batch.strings("rollout_id"), batch.ragged("prompt_ids"), batch.groups.ids
    seeds = [
        [derived_seed(context.seed, context.round, names[each.row], INTERVENTION, index) for index in range(k)]
        for each in targets
    ]
    requests = [
        Request([*prompts[each.row].tolist(), *each.ids], chosen, context.sampling.max_tokens - len(each.ids))
        for each, chosen in zip(targets, seeds, strict=True)
    ]
    tries = context.engine.generate(requests, context.sampling) if requests else []
    rewards = [
        _rewards(context, each.ids, made, problems[int(groups[each.row])])
        for each, made in zip(targets, tries, strict=True)
    ]
    rates = verified([sum(reward >= correct for reward in each) for each in rewards], k, needed)
    counts.kept += len(rates)
    kept = [targets[index] for index in rates]
    made_names = [f"{names[each.row]}/{INTERVENTION}@{context.salt}" for each in kept]
    written = with_rows(
        batch,
        np.array([each.row for each in kept], np.int64),
        _target_columns(context, kept, made_names, [names[each.row] for each in kept], list(rates.values())),
    )
    place = {name: row for row, name in enumerate(written.strings("rollout_id"))}
    columns: Mapping[str, Any] = sampled_columns(
        context,
        [targets[index].ids for index in rates for _ in range(k)],
        [each for index in rates for each in tries[index]],
        [seed for index in rates for seed in seeds[index]],
        purpose="probe",
    )
    columns = dict(columns) | {
        "rollout_id": names_of([f"{name}/{index}" for name in made_names for index in range(k)]),
        "parent_id": names_of([name for name in made_names for _ in range(k)]),
        "fork": forks_of([len(each.ids) for each in kept for _ in range(k)]),
        "reward": pa.array([reward for index in rates for reward in rewards[index]], pa.float64()),
    }
    return with_rows(written, np.array([place[name] for name in made_names for _ in range(k)], np.int64), columns)


def _rewards(
    context: SamplingContext, begun: Sequence[int], made: Sequence[Completion], problem: Problem
) -> list[float]:
    """What the verifier gives the tries; 0 where the engine made none."""
    whole = [[*begun, *each.ids.tolist()] for each in made]
    texts = context.tokenizer.batch_decode(whole, skip_special_tokens=True)
    return [
        0.0 if each.finish_reason == "error" else context.task.verify(text, problem.reference)
        for each, text in zip(made, texts, strict=True)
    ]


def _target_columns(
    context: SamplingContext, kept: Sequence[_Target], names: Sequence[str], parents: Sequence[str],
    rates: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """{path: [M]} of the rows to train on. Nothing says how they were sampled: they were not."""
    ids = [each.ids for each in kept]
    return {
        "rollout_id": names_of(names),
        "parent_id": names_of(parents),
        "fork": forks_of([each.fork for each in kept]),
        "text": names_of(context.tokenizer.batch_decode(ids, skip_special_tokens=True) if ids else []),
        "purpose": names_of(["train"] * len(kept)),
        "policy": names_of([context.policy] * len(kept)),
        "flags": pa.array([[INTERVENTION]] * len(kept), arrow_type("flags")),
        "token.id": pa.array(ids, arrow_type("token.id")),
        "token.mask": pa.array([[True] * len(each) for each in ids], arrow_type("token.mask")),
        INTERVENTION_RATE.path: pa.array(rates, INTERVENTION_RATE.type),
    }

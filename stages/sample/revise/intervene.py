"""InT's sampling: the policy, shown a solution, replaces the first step that went wrong."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa

from ....formats.errors import UsageError
from ....formats.flags import INTERVENTION, NOT_REVISED
from ....formats.ragged import Ragged
from ....formats.rollouts import Rollouts
from ....formats.schema import Field, arrow_type
from ....formats.segments import Array
from ...core.ranges import AtLeast
from ...core.wording import check_template, fill
from ...models.engine import Completion, Request
from ...models.token_texts import TokenOffsets
from ...tasks import Message, Problem
from .._questions import answers_of, reference_of, reply_to, texts_of, with_template
from .._solutions import column_of, demonstrator, read_texts, require_texts, solutions_of
from .._source import ADDED, fork_column, names_of, own_rows, with_rows
from .._steps import context_length
from ..dialogue import Dialogue, Lesson, Work
from ..kind import CONTINUES, SamplingContext, strategy
from ..rows import sampled_columns
from ._interventions import BLANK_LINE, guide, intervention_of, keep_answer_back, leaks, select_verified
from ._spelling import Spelling, spell

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


@dataclass(frozen=True)
class Interventions(Dialogue):
    """The problem with a solution in view; then, after the policy's own solution, a wrong attempt in blocks: what belongs
    where it first goes wrong?"""

    of: ClassVar[str] = "intervention"
    needs: ClassVar[tuple[str, ...]] = ("reward",)

    solver: str = SOLVER
    critic: str = CRITIC
    separator: str = BLANK_LINE

    def __post_init__(self) -> None:
        if not self.separator:
            raise UsageError(f"strategy {self.who}: separator must not be empty, since it would cut nothing")
        check_template(self.who, "solver", self.solver, "solution")
        check_template(self.who, "critic", self.critic, "attempt")

    def ask(self, problem: Problem, solution: str) -> list[Message]:
        """The first turn."""
        return with_template(problem, self.solver, solution=solution)

    def ask_again(self, first: Sequence[Message], said: str, blocks: Sequence[str]) -> list[Message]:
        """The second turn, after the first question and its answer."""
        attempt = "\n\n".join(f"Substep {number}: {block}" for number, block in enumerate(blocks, 1))
        return [
            *first,
            {"role": "assistant", "content": said},
            {"role": "user", "content": fill(self.critic, attempt=attempt)},
        ]

    def blocks(self, offsets: TokenOffsets, batch: Rollouts, row: int) -> list[str]:
        """The blocks of a row's text."""
        return offsets(batch.token_ids[row].tolist())[0].split(self.separator)

    def teach(self, work: Work) -> list[Lesson]:
        """For a wrong row, the right line for its first wrong block, unless that reveals the answer."""
        offsets, found, solved = TokenOffsets(work.context.tokenizer), list[Lesson](), set[int]()
        for row in wrong_rows(work.batch, work.correct).tolist():
            group = int(work.groups[row])
            problem, solution = work.problems[group], work.solutions[group]
            blocks = self.blocks(offsets, work.batch, row)
            review = work.review(row, blocks, self.separator)
            content = review.right
            for answer in answers_of(problem):
                content = content and keep_answer_back(content, answer)
            if review.wrong is None or content is None:
                continue
            first = self.ask(problem, solution)
            if group not in solved:
                found.append(work.lesson(row, first, solution, "solution"))
                solved.add(group)
            given = json.dumps({"content": content, "location": review.wrong + 1}, ensure_ascii=False)
            answer = f"{review.log('Substep', 1)}\n<intervention>{given}</intervention>"
            found.append(work.lesson(row, self.ask_again(first, solution, blocks), answer, "intervention"))
        return found


@dataclass
class _Counts:
    """How far attempts and the proposals for them got. leaks, tried, kept: numbers of proposals."""

    attempts: int = 0
    proposals: int = 0
    leaks: int = 0
    tried: int = 0
    kept: int = 0


@dataclass(frozen=True)
class _Target:
    """A row's intervention in tokens; the first `fork` are the row's own."""

    row: int
    ids: list[int]
    fork: int


INTERVENTION_RATE = Field(
    "intervention_rate", pa.float64(), "share of the tries behind the intervention that were right", least=0, most=1
)


def _remark(counts: Mapping[str, int], **_: Any) -> str:
    found = _Counts(**counts)
    return (
        f"{found.attempts:,} wrong rollouts; {found.proposals:,} proposals could be read, "
        f"{found.leaks:,} of them gave the answer away; {found.tried:,} were tried, {found.kept:,} kept"
    )


@strategy(
    source="arXiv:2601.14209 (InT)",
    evidence="code",
    needs=(CONTINUES,),
    makes=("reward", INTERVENTION_RATE),
    verifies=True,
    remark=_remark,
    dialogue=Interventions,
    system=("InT",),
)
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
    """For wrong rollouts of --from: the part before the first error, followed by one better step, to train on (InT).

    The policy first solves the problem with a given solution in view. In a second turn it checks a wrong rollout, cut
    into blocks, and answers with <intervention>{"content": …, "location": L}</intervention>; the last one counts.

        target = block 1 … block L-1, content        separator between them, and for every newline of the content

    An L beyond the last block keeps the whole rollout. A proposal is dropped if it cannot be read or if its content has
    the final answer in it. The first that remains is tried: k responses begin with the target. If `needed` of them are
    verified, the target becomes a row of the group, flagged `intervention`, with `parent_id`, `fork` and
    `intervention_rate`, the share that was right. The tries are probes next to it, with their rewards. The rollouts
    stay as they are. A line on standard error says how many proposals got how far.

    An intervention is a target for `train --objective sft`, not a sample. It has no log-probabilities, no reward and no
    end of sequence, and its mask is true throughout, including the part shared with its parent. Tokens up to the fork
    are the parent's. The rest is cut out of the policy's answer if its tokens allow that, and otherwise encoded by the
    tokenizer. `apportion filter --drop --where "'intervention' in flags"` leaves the targets, and `not in flags` leaves
    what a baseline can compare.

    Everything is sampled with --temperature, --top-p and --top-k (in the paper 0.7, 0.8 and 20). --max-tokens limits
    the whole response of a try; -n is not used.

    Args:
        solution_from: where solutions come from. "column:NAME" is a text column of the file, equal in all rows of a
            group, or of the task's own file (groups without a value are skipped). "demonstration" is the task's own
            worked solution. "reference" is what the verifier compares with.
        separator: text between blocks; None is a blank line, two newlines.
        proposals: K, interventions to ask for per wrong rollout. Of equal rollouts in a group, only the first is used.
        k: tries of an intervention.
        needed: how many tries must be right.
        correct: a rollout or a try is right if its reward is at least this.
        solver: the last message of the first turn; {question} and {solution} are replaced. None uses the built-in
            prompt, `SOLVER` in stages/sample/revise/intervene.py.
        critic: the second turn; {attempt} is replaced by the numbered blocks. None uses the built-in prompt, `CRITIC`.
        critic_tokens: token budget of each turn. A question beyond the policy's context is refused.
        rows_at_once: rollouts to look at before a part of the file is written (at least a group); bounds the memory.

    Raises:
        UsageError: an option out of range; a task without worked solutions; a question beyond the model's context.
        DataError: rows without reward; rows in which an environment wrote.

    Departures: 1. A location below 1 is dropped; that is our reading. 2. A critic's question beyond the model's context
        is refused, where the released code cuts the prompt. 3. A token that spans the border before block L is encoded
        anew, together with the content.
    """
    dialogue = Interventions(
        "intervene", solver or SOLVER, critic or CRITIC, BLANK_LINE if separator is None else separator
    )
    if needed > k:
        raise UsageError(f"strategy intervene: needed must be at most k ({k} tries), got {needed}")
    column = column_of(solution_from)
    if column is None and solution_from not in ("demonstration", "reference"):
        raise UsageError(
            f"strategy intervene: solution_from must be column:NAME, demonstration or reference, got {solution_from!r}"
        )
    if solution_from == "demonstration":
        demonstrator(context.task, OTHERWISE)
    require_texts(context.file, ("reward",), column, "strategy 'intervene'")
    for part, problems in context.parts(rows_at_once):
        wrong = wrong_rows(part, correct)
        if column is not None:
            solutions = dict(enumerate(read_texts(part, column)))
        elif solution_from == "reference":
            solutions = dict(enumerate(map(reference_of, problems)))
        else:
            solutions = solutions_of(context, part, problems, wrong, OTHERWISE)
        wrong = wrong[[bool(solutions[group]) for group in part.groups.ids[wrong].tolist()]]
        counts = _Counts(attempts=len(wrong))
        answers = _criticise(context, part, problems, wrong, solutions, proposals, dialogue, critic_tokens)
        targets = _find_targets(context, part, problems, wrong, answers, dialogue.separator, counts)
        made = _with_kept(context, part, problems, targets, k, needed, correct, counts)
        context.count(**asdict(counts))
        yield made


def wrong_rows(batch: Rollouts, correct: float) -> Array:
    """[M] the rows whose first error to look for: wrong, and different from those before them in the group."""
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


def _criticise(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array,
    solutions: Mapping[int, Any], proposals: int, dialogue: Interventions, max_tokens: int,
) -> list[list[Completion]]:  # fmt: skip
    """The critic's answers about each row."""
    sampling = replace(context.sampling, max_tokens=max_tokens)
    groups, names = batch.groups.ids, batch.strings("rollout_id")
    asked = sorted({int(groups[row]) for row in rows})
    first = {group: dialogue.ask(problems[group], str(solutions[group])) for group in asked}
    seeds = [[context.seed_of(problems[group].problem_id, "solver")] for group in asked]
    solved = [each for (each,) in reply_to(context, list(first.values()), seeds, sampling)]
    said = dict(zip(asked, texts_of(context, solved), strict=True))
    offsets = TokenOffsets(context.tokenizer)
    conversations = [
        dialogue.ask_again(first[group], said[group], dialogue.blocks(offsets, batch, row))
        for row in rows.tolist()
        for group in (int(groups[row]),)
    ]
    seeds = [[context.seed_of(names[row], "critic", index) for index in range(proposals)] for row in rows.tolist()]
    return reply_to(context, conversations, seeds, sampling)


def _find_targets(
    context: SamplingContext, batch: Rollouts, problems: Sequence[Problem], rows: Array,
    answers: Sequence[Sequence[Completion]], separator: str, counts: _Counts,
) -> list[_Target]:  # fmt: skip
    """The targets to try: for each row, the first proposal that can be read and reveals nothing."""
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
            text, own = guide(spelling.text, proposal, separator)
            fork = spelling.tokens_before(own)
            before, rest = spelling.ids[:fork], text[int(spelling.bounds[fork]) :]
            ids = _cut(context, offsets, completion, before, rest) or spell(context.tokenizer, before, rest)
            if ids and fork + len(ids) < min(context.sampling.max_tokens, room[row]):
                found.append(_Target(row, [*before, *ids], fork))
    counts.tried += len(found)
    return found


def _cut(
    context: SamplingContext, offsets: TokenOffsets, completion: Completion, before: Sequence[int], text: str
) -> list[int] | None:
    """The completion's own tokens that spell `text` after `before`; None if it has none."""
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
    """The batch with the verified interventions and their tries."""
    batch = batch.with_missing(*ADDED)
    if INTERVENTION_RATE.path not in batch:
        batch = batch.with_columns({INTERVENTION_RATE.path: pa.nulls(len(batch), INTERVENTION_RATE.type)})
    names, prompts, groups = batch.strings("rollout_id"), batch.ragged("prompt_ids"), batch.groups.ids
    seeds = [[context.seed_of(names[each.row], INTERVENTION, index) for index in range(k)] for each in targets]
    requests = [
        Request([*prompts[each.row].tolist(), *each.ids], chosen, context.sampling.max_tokens - len(each.ids))
        for each, chosen in zip(targets, seeds, strict=True)
    ]
    tries = context.generate(requests)
    rewards = [
        _rewards(context, each.ids, made, problems[int(groups[each.row])])
        for each, made in zip(targets, tries, strict=True)
    ]
    rates = select_verified([sum(reward >= correct for reward in each) for each in rewards], k, needed)
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
        "fork": fork_column([len(each.ids) for each in kept for _ in range(k)]),
        "reward": pa.array([reward for index in rates for reward in rewards[index]], pa.float64()),
    }
    return with_rows(written, np.array([place[name] for name in made_names for _ in range(k)], np.int64), columns)


def _rewards(
    context: SamplingContext, begun: Sequence[int], made: Sequence[Completion], problem: Problem
) -> list[float]:
    """The verifier's reward of each try; 0 if the engine made none."""
    whole = [[*begun, *each.ids.tolist()] for each in made]
    texts = context.tokenizer.batch_decode(whole, skip_special_tokens=True)
    rewards = context.verify([problem] * len(texts), texts)
    return [0.0 if each.finish_reason == "error" else reward for each, reward in zip(made, rewards, strict=True)]


def _target_columns(
    context: SamplingContext, kept: Sequence[_Target], names: Sequence[str], parents: Sequence[str],
    rates: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    """{path: [M]} of the rows to train on. They were not sampled, so nothing says how."""
    ids = Ragged.from_lists([each.ids for each in kept], np.int32)
    texts = context.tokenizer.batch_decode([each.ids for each in kept], skip_special_tokens=True) if kept else []
    return {
        "rollout_id": names_of(names),
        "parent_id": names_of(parents),
        "fork": fork_column([each.fork for each in kept]),
        "text": names_of(texts),
        "purpose": names_of(["train"] * len(kept)),
        "policy": names_of([context.policy] * len(kept)),
        "flags": pa.array([[INTERVENTION]] * len(kept), arrow_type("flags")),
        "token.id": ids.to_arrow(),
        "token.mask": ids.with_values(np.ones(len(ids.values), bool)).to_arrow(),
        INTERVENTION_RATE.path: pa.array(rates, INTERVENTION_RATE.type),
    }

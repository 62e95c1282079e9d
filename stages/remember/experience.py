"""Experience: what the best and worst rollouts of every batch taught, in words, and where it helped."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa

from ...formats.errors import DataError, UsageError, unknown
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from ..core.ranges import AtLeast, Range
from ..core.remedies import remedy
from ..models.recorded import RECORDED
from ._lessons import TEMPLATES, Played, by_model, by_rules
from .kind import memory
from .library import SCHEMA, STRATEGY, WARNING, Advice, Library, Matching
from .problems import of_the_prompt

RULES = "rules"


@memory(
    needs=("reward", "step.start", "step.end", "step.state"),
    source="arXiv:2603.18079 (SLEA-RL); what it says of the library, and its released code",
    evidence="code",
    schema=SCHEMA,
    system=("SLEA-RL",),
)
def experience(
    batches: Iterator[Rollouts],
    earlier: pa.Table | None,
    *,
    extractor: str = RULES,
    templates: Mapping[str, str] | None = None,
    success: float | None = None,
    successes: Annotated[int, AtLeast(0)] = 5,
    failures: Annotated[int, AtLeast(0)] = 5,
    max_strategies: Annotated[int, AtLeast(0)] = 10,
    max_warnings: Annotated[int, AtLeast(0)] = 5,
    strategies_per_level: Annotated[int, AtLeast(1)] = 100,
    warnings_per_level: Annotated[int, AtLeast(1)] = 50,
    novelty: Annotated[float, Range(0, 1, above=True)] = 0.85,
    warning_score: Annotated[float, AtLeast(0)] = 0.5,
    similarity: Annotated[float, Range(0, 1, above=True)] = 0.85,
    compared: Annotated[int, AtLeast(0)] = 500,
    same_head: Annotated[int, AtLeast(0)] = 0,
    max_clusters: Annotated[int, AtLeast(1)] = 500,
    links: Literal["shown", "steps"] = "shown",
    characters: Annotated[int, AtLeast(0)] = 120,
    model: str = RECORDED,
    engine: str = "auto",
    max_tokens: Annotated[int, AtLeast(1)] = 400,
    device: str = "auto",
    dtype: str = "auto",
) -> pa.Table:
    """A library of strategies and warnings, and the clusters of observations for which they are shown.

    Strategies come from the best successes, warnings from the worst failures. A row whose `kind` is strategy or warning
    is an entry. It has a `level` (principle, method, example; mistake, pattern, diagnostic), `text`, `score`,
    `clusters` (ids of the clusters it is shown in), `retrieved` (how often it was shown), and the `iteration` and
    `rollout_id` it came from. A row of kind cluster has its first observation as `text`, `members` (the steps that
    began there) and `retrieved`. An observation is a `step.state`: what the environment reports as the state a step
    began in.

    `sample --strategy experience --set library=MEMORY` shows the entries to the policy. Sampling does not modify the
    library. The rollouts record what was shown in `step.advice`, and `remember --earlier` counts it here.

    Entries are made after all rollouts have been read, and are offered to the library one by one. An entry too similar
    to one of its zone only raises that one's score. If its level is full, an entry replaces the lowest-scoring one,
    provided its own score is higher.

    Args:
        extractor: "rules", or a language model that is asked about each selected rollout: builtin:tiny, a Hugging Face
            directory, or a Hub id.
        templates: what the rules write, by level, with the placeholders {turns}, {reward}, {actions}, {state},
            {action}, {paid} and {count}. An empty template makes no entry; a level left out uses the built-in template.
        success: a rollout is a success if its reward is at least this; None: if it is above the median of all (0.5 in
            the released code).
        successes: how many of the best successes to learn from.
        failures: how many of the worst failures to learn from.
        max_strategies: once this many strategies have been made, no further success is used.
        max_warnings: once this many warnings have been made, no further failure is used.
        strategies_per_level: how many strategies of each level are kept at most.
        warnings_per_level: how many warnings of each level are kept at most.
        novelty: two entries of a zone count as the same if the difflib ratio of their first 300 characters, in lower
            case, or the Jaccard index of their words is above this.
        warning_score: score of a failure whose reward is 0; any other failure scores the absolute value of its reward.
        similarity: an observation joins the first cluster whose text has at least this difflib ratio with it.
        compared: how many leading characters of two observations are compared.
        same_head: how many leading characters must be equal as well (300 in the released code).
        max_clusters: when there are more, the cluster that was shown something least often is dropped; of several, the
            smallest.
        links: which clusters an entry belongs to. "shown": those where it was shown because they had no entry of its
            zone. "steps": also those of the steps it was made from. An example, mistake, pattern or diagnostic of the
            rules comes from the step it is about; any other entry comes from all steps of its rollout.
        characters: length to which observations and answers are cut, in the rules' texts and in a model's prompt.
        model: the model whose tokenizer decodes the answers; "recorded" is the model that sampled the file.
        engine: engine that runs the extractor.
        max_tokens: token limit of the extractor's answer.
        device: auto, cpu, cuda, cuda:1 …
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16.

    Raises:
        UsageError: an option out of range; a template for an unknown level; a rollout beyond the extractor's context.
            DataError: a rollout without a reward or observations.

    Departures: 1. The templates and prompts are ours. 2. The score of 0.5 for a failure that earned 0 is a guess:
        scored by its reward, it would be the first to be replaced. 3. `links=steps` is ours, and so is merging the
        clusters of entries that count as the same. 4. A batch whose rewards are all equal has only failures, unless
        `success` is given.
    """
    for level in templates or {}:
        if level not in TEMPLATES:
            raise UsageError(f"memory experience: {unknown('level of templates', level, TEMPLATES)}")
    library = Library.of(
        earlier,
        matching=Matching(similarity, compared, same_head),
        max_clusters=max_clusters,
        capacity={STRATEGY: strategies_per_level, WARNING: warnings_per_level},
        novelty=novelty,
    )
    number = 0 if earlier is None or not earlier.num_rows else int(np.asarray(earlier["iteration"]).max()) + 1
    seen = _Seen(successes, failures)
    for batch in batches:
        rows = of_the_prompt(batch)
        seen.look_at(batch, rows)
        _meet(library, batch, rows, number)
    chosen = [(zone, played_row(batch, model)) for zone, batch in seen.chosen(success)]
    short = [(zone, played.shortened(characters)) for zone, played in chosen]
    if extractor == RULES:
        lessons = [by_rules(played, zone, {**TEMPLATES, **(templates or {})}) for zone, played in short]
    else:
        lessons = by_model(short, extractor, engine=engine, max_tokens=max_tokens, device=device, dtype=dtype)
    left, verdicts = {STRATEGY: max_strategies, WARNING: max_warnings}, Counter[str]()
    for (zone, played), found in zip(chosen, lessons, strict=True):
        if left[zone] <= 0:
            continue
        left[zone] -= len(found)
        score = played.reward if zone == STRATEGY else abs(played.reward) or warning_score
        for level, text, turn in found:
            about = [] if links == "shown" else played.states if turn is None else [played.states[turn]]
            clusters = [cluster.id for cluster in map(library.cluster_of, about) if cluster is not None]
            entry = Advice(zone, level, text, score, list(dict.fromkeys(clusters)), 0, number, played.rollout_id)
            verdicts[library.offer(entry)] += 1
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())) or "none"
    print(f"experience: entries from {len(chosen)} rollouts: {told}", file=sys.stderr)
    return library.table()


@dataclass
class _Seen:
    """The best and the worst rollouts so far, as batches of one row, and the rewards of all rollouts."""

    successes: int
    failures: int
    best: list[tuple[float, Rollouts]] = field(default_factory=list)
    worst: list[tuple[float, Rollouts]] = field(default_factory=list)
    rewards: list[Array] = field(default_factory=list)

    def look_at(self, batch: Rollouts, rows: Array) -> None:
        """Take in rows [M] of one more batch. DataError for a row without a reward."""
        reward = batch.numbers("reward").astype(np.float64)
        missing = rows[~np.isfinite(reward[rows])]
        if len(missing):
            raise DataError(f"row {int(missing[0])}, column 'reward': missing; run `apportion score IN -o OUT` first")
        unseen = rows[batch.arrow("step.state").is_null().to_numpy(zero_copy_only=False)[rows]]
        if len(unseen):
            raise DataError(f"row {int(unseen[0])}, column 'step.state': missing; {remedy('step.state')}")
        self.rewards.append(reward[rows])
        self.best = self._first(self.best, batch, rows, reward, self.successes, -1)
        self.worst = self._first(self.worst, batch, rows, reward, self.failures, 1)

    @staticmethod
    def _first(
        known: list[tuple[float, Rollouts]], batch: Rollouts, rows: Array, reward: Array, count: int, sign: int
    ) -> list[tuple[float, Rollouts]]:
        """The `count` rollouts with the lowest sign · reward; ties go to the earliest."""
        own = rows[np.argsort(sign * reward[rows], kind="stable")[:count]]
        found = known + [(float(reward[row]), batch.take(np.array([row]))) for row in own.tolist()]
        return sorted(found, key=lambda each: sign * each[0])[:count]

    def chosen(self, success: float | None) -> list[tuple[str, Rollouts]]:
        """The rollouts to learn from, each with its zone."""
        everything = np.concatenate(self.rewards) if self.rewards else np.zeros(0)
        if not len(everything):
            return []
        middle = float(np.median(everything))

        def succeeded(reward: float) -> bool:
            return reward > middle if success is None else reward >= success

        good = [(STRATEGY, row) for reward, row in self.best if succeeded(reward)]
        return good + [(WARNING, row) for reward, row in self.worst if not succeeded(reward)]


def _meet(library: Library, batch: Rollouts, rows: Array, number: int) -> None:
    """Put the steps of the rows into the clusters of their observations, and count what was shown there."""
    states = batch.arrow("step.state").to_pylist()
    advice = batch.arrow("step.advice").to_pylist() if "step.advice" in batch else None
    for row in rows.tolist():
        shown = (advice[row] if advice is not None else None) or []
        for state, names in zip_longest(states[row] or [], shown):
            if state is not None:
                cluster = library.meet(state, number)
                if names is not None:
                    library.show(cluster, names.split())


def played_row(batch: Rollouts, model: str) -> Played:
    """The only row of a batch, as text. model: the model whose tokenizer decodes the answers."""
    from ..models.policy import load_tokenizer

    starts, ends = (batch.ragged(path)[0].tolist() for path in ("step.start", "step.end"))
    ids = batch.token_ids[0]
    spans = [ids[start:end].tolist() for start, end in zip(starts, ends, strict=True)]
    actions = load_tokenizer(model).batch_decode(spans, skip_special_tokens=True) if spans else []
    states = batch.arrow("step.state").to_pylist()[0] or []

    def signal(path: str, otherwise: float) -> list[float]:
        found = batch.arrow(path).to_pylist()[0] if path in batch else None
        return [otherwise if value is None else value for value in found or [otherwise] * len(spans)]

    return Played(
        batch.strings("rollout_id")[0], float(batch.numbers("reward")[0]), [state or "" for state in states],
        [action.strip() for action in actions], signal("step.reward", 0.0),
        [bool(value) for value in signal("step.valid", 1.0)],
    )  # fmt: skip

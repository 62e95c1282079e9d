"""Experience: what the best and the worst rollouts of every batch taught, in words, and where it was of use."""

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
    """A library of strategies and warnings, and the clusters of observations they are shown in.

    Strategies come from the best successes, warnings from the worst failures. A row of `kind` strategy or warning is an
    entry: `level` (principle, method, example; mistake, pattern, diagnostic), `text`, `score`, `clusters` (ids of those it
    is shown in), `retrieved` (how often it was), `iteration` and `rollout_id` it came from. A row of kind cluster
    has the first observation in it as `text`, `members` (steps that began there) and `retrieved`. Observations are
    `step.state`, what the environment says the step began in.

    `sample --strategy experience --set library=MEMORY` shows the entries. It changes nothing: what was shown is in
    `step.advice` of its rollouts, and is counted here when these are remembered with --earlier.

    Entries are made when all rollouts were seen. A rollout's are offered one by one: one too much like an entry of its
    zone only raises that one's score; one of a full level takes the place of the lowest, if its own score is higher.

    Args:
        extractor: "rules", or a model that is asked about every such rollout: builtin:tiny, a Hugging Face directory, a
            Hub id.
        templates: what rules say, by level; {turns}, {reward}, {actions}, {state}, {action}, {paid} and {count} are
            replaced; empty for no entry. Levels left out have our wording.
        success: reward from which a rollout is a success; None: above the median of all (0.5 in the released code).
        successes: how many are learnt from, the best.
        failures: and of the rest, the worst.
        max_strategies: once so many were made, no further success is looked at.
        max_warnings: the same of failures.
        strategies_per_level: kept at most.
        warnings_per_level: kept at most.
        novelty: two entries of a zone are the same one if the difflib ratio of their first 300 characters, in lower case,
            or the Jaccard index of their words is above.
        warning_score: of failures with a reward of 0; of others it is the reward without its sign.
        similarity: an observation belongs to the first cluster whose own has at least this difflib ratio with it.
        compared: characters of observations that are.
        same_head: characters that have to be equal for that (300 in the released code).
        max_clusters: where there are more, the one that was least often shown something goes, the smallest of those.
        links: a cluster gets entries that were "shown" in it because it had none of their zone; by "steps", those that
            were taken from its steps, too: an example, mistake, pattern or diagnostic of the rules from the step it is about, others
            from all steps of the rollout.
        characters: of an observation and an answer, in what rules say and a model is asked.
        model: whose tokenizer decodes the answers; "recorded" is the model that sampled the file.
        engine: with which the extractor is asked.
        max_tokens: of its answer.
        device: auto, cpu, cuda, cuda:1 …
        dtype: auto (bfloat16 on CUDA, float32 on CPU), float32, bfloat16.

    Raises:
        UsageError: an option out of range; a template of no level; a rollout beyond the extractor's context. DataError: a
            rollout without a reward or observations.

    Departures: 1. The rules and the questions are in our words. 2. The 0.5 of a failure that earned 0 is a guess: by
        its reward it would be the first to go. 3. Ours are `links=steps`, and that entries which are the same share
        their clusters. 4. A batch whose rewards are all equal has failures only, unless `success` is given.
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
    """The best and the worst rollouts so far, as batches of one row, and the rewards of all."""

    successes: int
    failures: int
    best: list[tuple[float, Rollouts]] = field(default_factory=list)
    worst: list[tuple[float, Rollouts]] = field(default_factory=list)
    rewards: list[Array] = field(default_factory=list)

    def look_at(self, batch: Rollouts, rows: Array) -> None:
        """Rows [M] of one more batch. DataError for one without a reward."""
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
        """The `count` lowest of sign · reward; of equal ones those that came first."""
        own = rows[np.argsort(sign * reward[rows], kind="stable")[:count]]
        found = known + [(float(reward[row]), batch.take(np.array([row]))) for row in own.tolist()]
        return sorted(found, key=lambda each: sign * each[0])[:count]

    def chosen(self, success: float | None) -> list[tuple[str, Rollouts]]:
        """Those that are learnt from, with their zones."""
        everything = np.concatenate(self.rewards) if self.rewards else np.zeros(0)
        if not len(everything):
            return []
        middle = float(np.median(everything))

        def succeeded(reward: float) -> bool:
            return reward > middle if success is None else reward >= success

        good = [(STRATEGY, row) for reward, row in self.best if succeeded(reward)]
        return good + [(WARNING, row) for reward, row in self.worst if not succeeded(reward)]


def _meet(library: Library, batch: Rollouts, rows: Array, number: int) -> None:
    """The steps of the rows, in the clusters of their observations, with what was shown there."""
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
    """The only row of a batch, as it is told. model: whose tokenizer decodes the answers."""
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

"""What a refiner that accepts or cuts responses changed: how often, by how much, and how well it chose (Search-R2).

The paper (arXiv:2602.03647) splits what a refiner adds, dJ = A_prec + V_inter · S_trim, with covariances over all
responses of α, the chance to accept one, of π(k|y), the chance of each cut, and of V(y_1:k), what a fresh rest after k
steps is worth. A file that strategy `refine` wrote has no cut and no fresh rest of a response that was accepted, so A_prec
and S_trim cannot be had from it; their sum, what the refiner adds, and V_inter can. They are here.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...formats.errors import DataError
from ...formats.files import whole_file
from ...formats.flags import ERROR, REFINED
from ...formats.rollouts import Rollouts
from ...formats.segments import Array
from .accuracy import Estimate, bootstrap_ratio

VERDICT = "accept_probability"
SCORE_IT = "run `apportion score IN --with verify -o OUT`"


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """Rewards in reward units, shares from 0 to 1, intervals over problems. None: there was nothing to take a mean of.

    judged: responses with a verdict. accepted: of those. replaced: of those, by another; the rest was cut where nothing
    could follow, and stays. samples: rests by which a cut is valued, one for each replaced response and more where the
    file has more of the same place. lost: left out, because all the rests failed.

    volume: V_inter, the mean of 1 - α. share: replaced responses of those judged, which differs from volume where a
    threshold stands between α and the decision. gain: reward of what replaced a response minus its own, over those.
    before, after: mean reward without and with the refiner. improvement: after - before = share · gain, the paper's dJ.
    accepted_right, accepted_wrong: the share accepted of right responses and of wrong ones.
    """

    judged: int
    accepted: int
    replaced: int
    samples: int
    lost: int
    problems: int
    threshold: float
    volume: Estimate
    share: Estimate
    gain: Estimate | None
    before: Estimate
    after: Estimate
    improvement: Estimate
    accepted_right: Estimate | None
    accepted_wrong: Estimate | None
    about: Mapping[str, Any]
    out: str = ""

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        content.pop("out")
        return content

    def write(self, path: Path, *, force: bool) -> None:
        with whole_file(path, force=force) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n")

    def render(self) -> None:
        """A few lines on standard output."""
        print(
            f"mean reward {self.before} -> {self.after}: {_format_signed(self.improvement)}  "
            f"({self.problems} problems, {self.judged} responses, 95 % intervals over problems)"
        )
        print(f"replaced {self.share} of the responses; gain of those {_format_signed(self.gain)}")
        print(f"accepted of right ones {self.accepted_right or '–'}, of wrong ones {self.accepted_wrong or '–'}")
        if self.lost:
            print(f"{self.lost} responses left out: what was to replace them failed", file=sys.stderr)


def refinement_of(rollouts: Rollouts, threshold: float, about: Mapping[str, Any]) -> Refinement:
    """The report on rollouts of strategy `refine`, scored. One problem per group.

    A response is judged where it has an `accept_probability`, and accepted where it has no `cut_step` then; what replaced
    a response and was judged in its turn counts as one, too. It was replaced where a row flagged `refined` has it as parent.
    A rest is such a row, and any other that leaves the same parent at the same token (a probe of `vine`); with several,
    their mean reward is what the cut is worth.

    DataError: no verdicts; a response or a rest without a reward.
    """
    alpha = rollouts.numbers(VERDICT).astype(np.float64)
    judged = np.flatnonzero(np.isfinite(alpha))
    if not len(judged):
        raise DataError(
            f"column {VERDICT!r}: missing in every row, so there is nothing that a refiner judged; "
            "run `apportion sample --from IN --strategy refine -o OUT` first"
        )
    reward = rollouts.numbers("reward").astype(np.float64)
    rest, parent = _rests(rollouts)
    failed = rollouts.flagged(ERROR)
    needed = np.union1d(judged, rest[~failed[rest]])
    missing = needed[~np.isfinite(reward[needed])]
    if len(missing):
        row = int(missing[0])
        raise DataError(f"row {row}, column 'reward': {reward[row]}, expected a finite number; {SCORE_IT}")

    counted = ~failed[rest]
    made = np.bincount(parent, minlength=len(rollouts))
    samples = np.bincount(parent[counted], minlength=len(rollouts))
    total = np.bincount(parent[counted], weights=reward[rest[counted]], minlength=len(rollouts))
    lost = (made[judged] > 0) & (samples[judged] == 0)
    judged = judged[~lost]
    if not len(judged):
        raise DataError("all rows that were to replace others failed (flag 'error'); sample again")
    accepted = np.asarray(rollouts.arrow("cut_step").is_null())[judged]
    replaced = samples[judged] > 0
    before = reward[judged]
    after = np.where(replaced, total[judged] / np.maximum(samples[judged], 1), before)
    right = before >= threshold

    _, group = np.unique(rollouts.groups.ids[judged], return_inverse=True)

    def mean(values: Array, among: Array | None = None) -> Estimate | None:
        weights = np.ones(len(values)) if among is None else among.astype(np.float64)
        return bootstrap_ratio(np.bincount(group, values * weights), np.bincount(group, weights))

    def of_all(values: Array) -> Estimate:
        found = mean(values)
        assert found is not None, "there are responses"
        return found

    return Refinement(
        judged=len(judged), accepted=int(accepted.sum()), replaced=int(replaced.sum()), samples=int(samples[judged].sum()), lost=int(lost.sum()),
        problems=int(group.max()) + 1, threshold=threshold,
        volume=of_all(1 - alpha[judged]), share=of_all(replaced.astype(np.float64)), gain=mean(after - before, replaced),
        before=of_all(before), after=of_all(after), improvement=of_all(after - before),
        accepted_right=mean(accepted, right), accepted_wrong=mean(accepted, ~right), about=about,
    )  # fmt: skip


def _rests(rollouts: Rollouts) -> tuple[Array, Array]:
    """(row [N], its parent's row [N]) of rows that leave a row where a refined one left it."""
    names = rollouts.arrow("rollout_id")
    parents = rollouts.arrow("parent_id").cast(names.type)
    found = pc.call_function("index_in", [parents], pc.SetLookupOptions(value_set=names, skip_nulls=True))
    row = np.flatnonzero(np.asarray(found.is_valid()))
    parent = found.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    fork = rollouts.arrow("fork").cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)[row]
    place = parent * (int(fork.max(initial=0)) + 1) + fork
    there = np.isin(place, place[rollouts.flagged(REFINED)[row]])
    return row[there], parent[there]


def _format_signed(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"

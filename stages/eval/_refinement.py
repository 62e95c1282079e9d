"""What a refiner that accepts or cuts responses changed: how often, by how much, and how well it chose (Search-R2).

The paper (arXiv:2602.03647) splits what a refiner adds into dJ = A_prec + V_inter · S_trim. The terms are covariances
over all responses of α, the probability of accepting a response, of π(k|y), the probability of each cut, and of
V(y_1:k), the value of a fresh continuation after k steps. A file written by the strategy `refine` has no cut and no
fresh continuation for an accepted response, so it cannot give A_prec and S_trim. It can give dJ and V_inter, and these
are reported here.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
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
from ..core.remedies import remedy
from .accuracy import Estimate, bootstrap_ratio
from .gated import Gated

VERDICT = "accept_probability"
SCORE_IT = "run `apportion score IN --with verify -o OUT`"


@dataclass(frozen=True, kw_only=True)
class Refinement(Gated):
    """A refiner's report: rewards in reward units, shares from 0 to 1, intervals over problems. None: no cases.

    judged: responses with a verdict. accepted: those accepted. replaced: those replaced by another response; the rest
    were cut where nothing could follow, and stay. samples: continuations that value a cut, one for each replaced
    response, and more if the file has others from the same place. lost: responses left out because all their
    continuations failed.

    volume: V_inter, the mean of 1 - α. share: the share of judged responses that were replaced; it differs from volume
    if a threshold on α makes the decision. gain: reward of the replacement minus that of the replaced response, over
    replaced ones. before, after: mean reward without and with the refiner. improvement: after - before = share · gain,
    the paper's dJ. accepted_right, accepted_wrong: the share accepted among right and among wrong responses.
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
        content = asdict(replace(self, gates=()))
        del content["out"], content["gates"]
        return content

    def write(self, path: Path, *, force: bool) -> None:
        with whole_file(path, force=force) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n")

    def render(self) -> None:
        """Print a few lines on standard output."""
        print(
            f"mean reward {self.before} -> {self.after}: {_format_signed(self.improvement)}  "
            f"({self.problems} problems, {self.judged} responses, 95 % intervals over problems)"
        )
        print(f"replaced {self.share} of the responses; gain of those {_format_signed(self.gain)}")
        print(f"accepted of right ones {self.accepted_right or '–'}, of wrong ones {self.accepted_wrong or '–'}")
        if self.lost:
            print(f"left out {self.lost} responses: all their replacements failed", file=sys.stderr)


def refinement_of(rollouts: Rollouts, threshold: float, about: Mapping[str, Any]) -> Refinement:
    """The report on scored rollouts of the strategy `refine`; one problem per group.

    A response is judged if it has an `accept_probability`, and accepted if it then has no `cut_step`. A replacement
    that was judged in its turn also counts as a response. A response was replaced if it is the parent of a row flagged
    `refined`. Its continuations are such rows, and any other row that leaves the same parent at the same token (a probe
    of `vine`). Their mean reward is the value of the cut.

    DataError: no verdicts; a response or a continuation without a reward.
    """
    alpha = rollouts.numbers(VERDICT).astype(np.float64)
    judged = np.flatnonzero(np.isfinite(alpha))
    if not len(judged):
        raise DataError(
            f"column {VERDICT!r}: missing in every row, so no refiner has judged any response; {remedy(VERDICT)}"
        )
    reward = rollouts.numbers("reward").astype(np.float64)
    rest, parent = _rests(rollouts)
    failed = rollouts.flagged(ERROR)
    needed = np.union1d(judged, rest[~failed[rest]])
    missing = needed[~np.isfinite(reward[needed])]
    if len(missing):
        row = int(missing[0])
        raise DataError(f"row {row}, column 'reward': must be a finite number, got {reward[row]}; {SCORE_IT}")

    counted = ~failed[rest]
    made = np.bincount(parent, minlength=len(rollouts))
    samples = np.bincount(parent[counted], minlength=len(rollouts))
    total = np.bincount(parent[counted], weights=reward[rest[counted]], minlength=len(rollouts))
    lost = (made[judged] > 0) & (samples[judged] == 0)
    judged = judged[~lost]
    if not len(judged):
        raise DataError("every replacement failed (flag 'error'), so nothing is left to report; sample again")
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
        assert found is not None, "there is at least one response"
        return found

    return Refinement(
        judged=len(judged), accepted=int(accepted.sum()), replaced=int(replaced.sum()), samples=int(samples[judged].sum()), lost=int(lost.sum()),
        problems=int(group.max()) + 1, threshold=threshold,
        volume=of_all(1 - alpha[judged]), share=of_all(replaced.astype(np.float64)), gain=mean(after - before, replaced),
        before=of_all(before), after=of_all(after), improvement=of_all(after - before),
        accepted_right=mean(accepted, right), accepted_wrong=mean(accepted, ~right), about=about,
    )  # fmt: skip


def _rests(rollouts: Rollouts) -> tuple[Array, Array]:
    """(row [N], its parent's row [N]) of the rows that leave their parent where a refined row left it."""
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

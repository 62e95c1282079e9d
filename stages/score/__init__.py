"""Attach rewards to rollouts, steps and tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import ROLLOUTS_OUT, Chooses, Names, check_numbers
from ..core.ranges import AtLeast
from ..core.several import Several

if TYPE_CHECKING:
    from ..core.driver import Written


@check_numbers
def score(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    scorer: Annotated[
        Several,
        "Scorer, or several in order, a,b or repeated; see `apportion list scorers`.",
        Names(("--with",)),
        Chooses("scorers", several=True),
    ] = "verify",
    settings: Annotated[
        Mapping[str, Any] | None,
        "Option of the scorer, name=value, of several scorer.name=value; repeatable.",
        Names(("--set",)),
    ] = None,
    workers: Annotated[int, "Files of a directory processed at the same time.", AtLeast(1)] = 1,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", ROLLOUTS_OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Score rollouts: attach the rewards that scorers give.

    `--with verify` writes `reward`, what the task's own verifier says of the response's text. Several scorers work in one pass,
    in the order given, and a later one may read what an earlier one made.
    """
    from functools import partial

    from ...formats.provenance import digest_of_file
    from ..core.driver import map_rollouts
    from ..core.options import as_json
    from ..core.several import dotted, names_in, one_or_more, settle_each, who_needs
    from ..models.recorded import RECORDED, recorded_model
    from .kind import SCORERS, needs_in_order, score_in_order

    names = names_in(scorer, "--with")
    settled = settle_each(SCORERS, names, settings)
    for each in settled:
        if each.options.get("model") == RECORDED:
            each.options["model"] = recorded_model(rollouts, each.name)
    needs, who = who_needs(needs_in_order(settled))
    options = dotted(settled)
    files = {name: digest_of_file(path) for name, path in options.items() if isinstance(path, Path) and path.exists()}
    return map_rollouts(
        partial(score_in_order, scorers=[(each.name, each.options) for each in settled]), rollouts, out,
        stage="score", parameters={"with": one_or_more(names), "settings": as_json(options)}, needs=needs, who=who,
        force=force, workers=workers, inputs=files,
    )  # fmt: skip

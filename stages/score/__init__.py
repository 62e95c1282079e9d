"""Attach rewards to rollouts, steps and tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import ROLLOUTS_OUT, Chooses, Names, check_numbers
from ..core.ranges import AtLeast

if TYPE_CHECKING:
    from ..core.driver import Written


@check_numbers
def score(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    scorer: Annotated[str, "Scorer; see `apportion list scorers`.", Names(("--with",)), Chooses("scorers")] = "verify",
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the scorer, name=value; repeatable.", Names(("--set",))
    ] = None,
    workers: Annotated[int, "Files of a directory processed at the same time.", AtLeast(1)] = 1,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", ROLLOUTS_OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Score rollouts: attach the rewards one scorer gives.

    `--with verify` writes `reward`, what the task's own verifier says of the response's text.
    """
    from functools import partial

    from ...formats.provenance import digest_of_file
    from ..core.driver import map_rollouts
    from ..core.options import as_json
    from ..models.recorded import RECORDED, recorded_model
    from .kind import SCORERS, score_batch

    chosen = SCORERS[scorer]
    options = SCORERS.settle(scorer, settings)
    if options.get("model") == RECORDED:
        options["model"] = recorded_model(rollouts, scorer)
    files = {name: digest_of_file(path) for name, path in options.items() if isinstance(path, Path) and path.exists()}
    return map_rollouts(
        partial(score_batch, scorer=scorer, options=options), rollouts, out,
        stage="score", parameters={"with": scorer, "settings": as_json(options)}, needs=chosen.ways_around(options), who=scorer,
        force=force, workers=workers, inputs=files,
    )  # fmt: skip

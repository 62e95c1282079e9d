"""Say from the rollouts alone what is likely to go wrong in training on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import Chooses, Names, check_numbers
from ..core.several import Several
from ..eval.gated import FailIf

if TYPE_CHECKING:
    from ._diagnosis import Diagnosis


@check_numbers
def doctor(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    only: Annotated[
        Several | None,
        "Finding to look for, or several, a,b; see `apportion list findings`. The default is all.",
        Chooses("findings", several=True),
    ] = None,
    ignore: Annotated[list[str] | None, "Finding that is not looked for; repeatable."] = None,
    settings: Annotated[
        Mapping[str, Any] | None, "Threshold of a finding, finding.name=value; repeatable.", Names(("--set",))
    ] = None,
    model: Annotated[str | None, "Tokenizer that the ids are checked with; the default is the recorded one."] = None,
    fail_if: FailIf = None,
) -> "Diagnosis":
    """Look for what makes training on these rollouts fail or lie: dead groups, gamed rewards, wrong masks, drifting tokens.

    Each finding is a measure above its threshold, with what it means and what to do. `--set dead_groups.above=0.8` moves a
    threshold. What a file lacks the columns for is listed as not checked. `validate` says whether the file is sound; this says whether it
    is worth training on. The exit code is 0 unless a gate holds: `--fail-if 'errors > 0 or dead_groups > 0.8'`.
    """
    from ._diagnosis import diagnose

    return diagnose(rollouts, only=only, ignore=ignore, settings=settings, model=model, fail_if=fail_if)

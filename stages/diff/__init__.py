"""Where do two credit assignments disagree?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..core.options import Names, check_numbers
from ..core.ranges import AtLeast

if TYPE_CHECKING:
    from ._matrix import ComparedColumns
    from ._pair import Compared


@check_numbers
def diff(
    first: Annotated[Path, "Credited rollout file or directory, or - for standard input."],
    second: Annotated[
        Path | None, "One with the same rollouts; leave it out to compare two columns of the first."
    ] = None,
    *,
    columns: Annotated[
        list[str] | None,
        "Credit columns: one for both files, or two, a,b or repeated; three or more of one file; default advantage, or all where one file has three.",
        Names(("-c", "--columns")),
    ] = None,
    limit: Annotated[int, "Rollouts shown, those that disagree most.", Names(("-l", "--limit")), AtLeast(0)] = 3,
    model: Annotated[str | None, "Tokenizer for the tokens' text; default that of the model that sampled."] = None,
) -> "Compared | ComparedColumns":
    """Compare credit assignments, token by token and rollout by rollout, and show where two disagree most.

    Rollouts are matched by rollout_id. Compared are the policy's own tokens to which both assigned credit; the credit of a
    rollout is the mean over these. Before differences are taken, each side is divided by its mean magnitude, so that credit in
    another unit differs by 0; 2 is the most there can be on average.

    Three or more columns of one file are compared pair by pair; the rollouts shown are those of the pair that differs most.
    """
    from ._compare import compare_credits

    return compare_credits(first, second, columns=columns, limit=limit, model=model)

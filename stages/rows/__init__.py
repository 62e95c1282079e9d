"""Rows of rollout files: choose them, divide them among files, put files together, print them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ..core.options import OUT, ROLLOUTS_OUT, Names, check_numbers
from ..core.ranges import AtLeast, Between

if TYPE_CHECKING:
    from ..core.driver import Written
    from ._filter import Filtered
    from ._split import Parts
    from .printing import Head, Rows

COLUMNS = Names(("-c", "--columns"))
WHERE = "Predicate on columns, such as \"reward > 0 and 'truncated' not in flags\"; see `apportion filter --help`."


def filter_rollouts(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    where: Annotated[str, "Predicate on columns, such as \"reward > 0 and 'truncated' not in flags\"."],
    drop: Annotated[bool, "Leave the other rows out of the output instead of flagging them."] = False,
    flag: Annotated[str | None, "Names the other rows get; default `filtered`, which `train` leaves out."] = None,
    groups: Annotated[
        Literal["any", "all"] | None, "Keep whole groups: those in which any, or all, of the rollouts match."
    ] = None,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", ROLLOUTS_OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Filtered":
    """Flag the rollouts for which a predicate does not hold, or drop them.

    Nothing is dropped unless asked: the others get the flag `filtered`, which `train` leaves out; flags that are there stay.
    Credit that is computed later still compares with flagged rows; with --drop it does not. --drop counts node.visits and
    node.value anew over the rollouts that are left; nodes, credit and flags such as dead_group stay as they were.

    Predicates: columns by name (reward, rewards.format, token.advantage), length, prompt_length, group_size, row; == != < <= >
    >= in, and or not, + - * / %; sum mean std min max first last count any all of a list, as in any(token.advantage < 0);
    group_mean group_std group_min group_max group_sum group_any group_all, as in reward > group_mean(reward); abs, missing.
    A comparison with a missing value is false.
    """
    from ._filter import filter_rollouts

    return filter_rollouts(rollouts, where=where, drop=drop, flag=flag, groups=groups, out=out, force=force)


@check_numbers
def split(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    by: Annotated[str | None, "Column: one file per value; a group has one value."] = None,
    parts: Annotated[int | None, "Number of files of about one size.", Between(1, 256)] = None,
    shares: Annotated[str | None, "Shares of the groups: 0.9,0.1 or train=0.9,test=0.1."] = None,
    seed: Annotated[int, "Other groups per part, with --parts and --shares."] = 0,
    out: Annotated[Path, "Directory to write, one file per part.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Parts":
    """Divide rollouts among several files, by a column's values or by a hash; groups stay whole.

    With --parts and --shares, a group's part depends on its group_id and the seed alone: the same in every file and run.
    Give one of --by, --parts and --shares.
    """
    from ._split import split_groups

    return split_groups(rollouts, by=by, parts=parts, shares=shares, seed=seed, out=out, force=force)


def merge(
    rollouts: Annotated[list[Path], "Rollout files or directories of them, in order; one may be - for standard input."],
    *,
    out: Annotated[Path, "Rollout file to write, or - for standard output.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Written":
    """Put rollout files together into one; their groups must be different ones.

    The output has the columns of all inputs, missing (null) where an input lacks one. Its history holds every input's, records
    they share once; `apportion log --shell` prints the commands of each.
    """
    from ._merge import merge_files

    return merge_files(rollouts, out=out, force=force)


@check_numbers
def head(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    n: Annotated[int, "Rows.", Names(("-n", "--rows")), AtLeast(0)] = 5,
    columns: Annotated[list[str] | None, "Only these columns or rulers: a,b or repeated.", COLUMNS] = None,
) -> "Head":
    """Print the first rollouts, a block each, with long texts and lists shortened; --json prints them whole.

    Nothing is checked, so that a defective file can be looked at; `apportion validate` says what is wrong with it.
    """
    from .printing import first_rows

    return first_rows(rollouts, n=n, columns=columns)


@check_numbers
def show(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    to: Annotated[
        Literal["jsonl", "csv"],
        "One JSON object a line, or CSV with lists as JSON.",
    ] = "jsonl",
    columns: Annotated[list[str] | None, "Only these columns or rulers: a,b or repeated.", COLUMNS] = None,
    where: Annotated[str | None, WHERE] = None,
    limit: Annotated[int | None, "Rollouts printed at most.", Names(("-l", "--limit")), AtLeast(0)] = None,
) -> "Rows":
    """Print rollouts as text, one a line, for jq, less and the like.

    Rows are printed while the file is read, and memory does not grow with it. --json prints one array instead of lines.
    JSON lines hold every text as it is. In CSV, which spreadsheets read, a text that one would compute has ' before it, and a
    control character is a picture of it.
    Nothing is checked but what --where reads, so that a defective file can be looked at; `apportion validate` says what
    is wrong with it.
    """
    from .printing import all_rows

    return all_rows(rollouts, to=to, columns=columns, where=where, limit=limit)

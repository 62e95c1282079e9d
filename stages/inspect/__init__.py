"""Look at rollouts and their credit in the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ..core.options import Names, Output, check_numbers
from ..core.ranges import AtLeast

if TYPE_CHECKING:
    from .view import View


@check_numbers
def inspect(
    rollouts: Annotated[Path, "Rollout file, or - for standard input."],
    *,
    group: Annotated[str | None, "Only this group (group_id, or its number from 0)."] = None,
    rollout: Annotated[
        str | None,
        "Only this rollout (rollout_id, or its row from 0); with --group, one of that group, with the group's tree.",
    ] = None,
    where: Annotated[
        str | None, "Only groups with a rollout of which this is true, e.g. reward > 0 and length < 20."
    ] = None,
    signal: Annotated[str | None, "Token signal shown as colour; default the first credit column."] = None,
    relative: Annotated[bool, "Colour credit less the mean of its rollout."] = False,
    sort: Annotated[Literal["file", "reward", "advantage", "length"], "Order of the rollouts of a group."] = "file",
    limit: Annotated[
        int | None,
        "Groups shown; default 1, the first whose rewards differ; on the page as many as fit.",
        Names(("-l", "--limit")),
        AtLeast(0),
    ] = None,
    tree: Annotated[bool, "Draw the group's tree."] = True,
    stats: Annotated[bool, "Statistics of every signal of the whole file."] = True,
    model: Annotated[str | None, "Tokenizer for the tokens' text; default that of the model that sampled."] = None,
    svg: Annotated[Path | None, "Also save the view as an SVG picture.", Output()] = None,
    html: Annotated[
        Path | None,
        "Write the view as a page for a browser, with everything in it, instead of in the terminal.",
        Output(),
    ] = None,
    force: Annotated[bool, "Overwrite the picture and the page."] = False,
) -> "View":
    """Show rollouts with their credit as coloured tokens, the tree of their group, and statistics of every signal.

    Green earned credit, red lost it; the stronger the colour, the more. Where there is no colour, ‹+0.42› stands behind the tokens
    that have this credit, or ‹++› to ‹−−› where it changes often. The token whose credit is furthest from its rollout's mean
    is bold and underlined, without colour »so«. Tokens an environment wrote are dimmed; ┊ begins a step, and a dot is a token
    without a character of its own. Turns of a rollout stand beneath it, and several columns of credit side by side. The file streams by: memory does not grow with it, and --no-stats
    reads (and checks) no more than it takes to find what is shown.
    """
    from .view import view

    return view(
        rollouts, group=group, rollout=rollout, where=where, signal=signal, sort=sort, limit=limit, tree=tree, stats=stats,
        model=model, svg=svg, html=html, force=force, relative=relative,
    )  # fmt: skip

"""A group's tree: its nodes, and the forks at which the reward was decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.rollouts import Rollouts
from ..models.token_texts import join_marked

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Pieces = Sequence[Sequence[str]]  # the text of every token of every rollout of the group

ROOT = -1
FORKS_SHOWN = 8
CONTEXT, CONTINUATION = 24, 28  # characters before and behind a fork; less of both in a narrow terminal


@dataclass(frozen=True)
class TreeNode:
    """One node. rows: the group's rollouts through it, the first of which has its tokens at [start, end)."""

    node: int
    parent: int
    rows: Sequence[int]
    start: int
    end: int


@dataclass(frozen=True)
class Fork:
    """Where rollouts part. decided: this fork's share of the group's reward variance, 0 to 1.

        decided = Σ_c n_c (V_c - V)² / Σ_i (R_i - mean)²

    with n_c rollouts and mean reward V_c in each branch c, V before the fork. The shares of all forks sum to 1, less
    what rollouts with the same tokens differ in.
    """

    parent: int
    branches: Sequence[TreeNode]
    decided: float

    def best_first(self, group: Rollouts) -> list[TreeNode]:
        """By mean reward."""
        reward = group.numbers("reward")
        return sorted(self.branches, key=lambda branch: -reward[list(branch.rows)].mean())


def branches_of(group: Rollouts) -> dict[int, TreeNode]:
    """The nodes of one group's tree by id, parents before children. Needs the node ruler."""
    ids, starts, ends = (group.ragged(f"node.{leaf}") for leaf in ("id", "start", "end"))
    found: dict[int, tuple[int, list[int], int, int]] = {}
    for row in range(len(group)):
        before = ROOT
        for node, start, end in zip(ids[row].tolist(), starts[row].tolist(), ends[row].tolist(), strict=True):
            found.setdefault(node, (before, [], start, end))[1].append(row)
            before = node
    return {node: TreeNode(node, *rest) for node, rest in found.items()}


def forks_of(group: Rollouts) -> list[Fork]:
    """Every fork of one scored group, the most decisive first."""
    branches, reward = branches_of(group), group.numbers("reward").astype(np.float64)
    children: dict[int, list[TreeNode]] = {}
    for branch in branches.values():
        children.setdefault(branch.parent, []).append(branch)
    total = float(np.square(reward - reward.mean()).sum())
    forks = []
    for parent, parted in children.items():
        through = list(range(len(group))) if parent == ROOT else list(branches[parent].rows)
        ended = len(through) - sum(len(branch.rows) for branch in parted)
        if len(parted) + (ended > 0) < 2:
            continue
        before = reward[through].mean()
        between = sum(len(branch.rows) * (reward[list(branch.rows)].mean() - before) ** 2 for branch in parted)
        if ended:  # rollouts that end where the others go on
            going = {row for branch in parted for row in branch.rows}
            stopped = [row for row in through if row not in going]
            between += ended * (reward[stopped].mean() - before) ** 2
        forks.append(Fork(parent, parted, float(between / total) if total > 0 else 0.0))
    return sorted(forks, key=lambda fork: -fork.decided)


def deciding_forks(group: Rollouts) -> list[Fork]:
    """The forks that decided any of the group's reward."""
    return [fork for fork in forks_of(group) if fork.decided > 0]


def draw_tree(console: "Console", group: Rollouts, pieces: Pieces) -> None:
    """Nodes with their text, rollouts passing through, and mean reward."""
    from rich.tree import Tree

    reward = group.numbers("reward") if "reward" in group else None
    root = Tree(_label("root", range(len(group)), reward), guide_style="dim")
    drawn = {ROOT: root}
    for branch in branches_of(group).values():
        drawn[branch.node] = drawn[branch.parent].add(_label(text_of(branch, pieces), branch.rows, reward))
    console.print(root)


def draw_forks(console: "Console", group: Rollouts, pieces: Pieces, signal: str | None) -> None:
    """What differs between siblings: the forks that decided the reward, with what each branch said and earned."""
    from rich.table import Table

    forks = deciding_forks(group)
    if not forks:
        return
    reward = group.numbers("reward")
    numbers = ["decided", "rollouts", "mean reward", *([signal.removeprefix("token.")] if signal else ())]
    room = max(console.width - sum(len(heading) + 2 for heading in numbers) - 2, 16)
    behind = min(CONTINUATION, room * CONTINUATION // (CONTEXT + CONTINUATION))
    before = min(CONTEXT, room - behind)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (numbers[0], "after", "came", *numbers[1:]):
        table.add_column(heading, justify="right" if heading in numbers else "left", no_wrap=True)
    for fork in forks[:FORKS_SHOWN]:
        decided, after = f"{fork.decided:.0%}", _before(fork.branches[0], pieces, before)
        for branch in fork.best_first(group):
            came = text_of(branch, pieces)
            credit = [] if signal is None else [_mean_credit(group, branch, signal)]
            table.add_row(
                decided, _plain(after, "dim"), _plain(came if len(came) <= behind else f"{came[: behind - 1]}…"),
                f"{len(branch.rows)}", f"{reward[list(branch.rows)].mean():.2f}", *credit,
            )  # fmt: skip
            decided = after = ""
    console.print(table)
    if len(forks) > FORKS_SHOWN:
        console.print(f"and {len(forks) - FORKS_SHOWN} forks that decided less", style="dim")


def text_of(branch: TreeNode, pieces: Pieces) -> str:
    """The node's text on one line; a dot where its tokens complete no character."""
    return join_marked(pieces[branch.rows[0]][branch.start : branch.end]) or "·"


def _mean_credit(group: Rollouts, branch: TreeNode, signal: str) -> str:
    """Of the branch's first token, over its rollouts."""
    values = group.ragged(signal)
    own = [row for row in branch.rows if values.present is None or values.present[row]]
    if not own or branch.start == branch.end:
        return ""
    return f"{np.mean([values[row][branch.start] for row in own]):+.3f}"


def _label(content: str, rows: Sequence[int], reward: Any) -> "Text":
    label = _plain(content if len(content) <= 60 else f"{content[:40]} … {content[-16:]}")
    label.append(f"  ×{len(rows)}", style="dim")
    if reward is not None:
        label.append(f"  V {np.mean(reward[list(rows)]):.2f}", style="cyan")
    return label


def _plain(content: str, style: str = "") -> "Text":
    """Text that is not read as markup."""
    from rich.text import Text

    return Text(content, style)


def _before(branch: TreeNode, pieces: Pieces, most: int) -> str:
    """The last of the response before a branch."""
    content = join_marked(pieces[branch.rows[0]][: branch.start])
    if not content:
        return "(the prompt)"[:most]
    return content if len(content) <= most else f"…{content[1 - most :]}"

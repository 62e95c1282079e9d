"""One problem's tree in the search of `mcts`: its steps, their values, and the rows made from them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Literal

import numpy as np

from ...models.engine import Completion
from .._steps import Step

NOTHING = Completion(np.empty(0, np.int32), np.empty(0, np.float32), "stop_text", np.empty(0, np.float32))


@dataclass(eq=False)
class Node:
    """A step of the search; the root is the prompt. value: the sum of what the simulations below it gave. simulations: the
    number of simulations, including its own; `visits` excludes that one.

    response: all tokens up to its end. ends, checks: of the steps from the prompt to it. over: nothing can follow. row:
    the first row that goes through it.
    """

    response: Completion
    parent: "Node | None" = None
    ends: tuple[int, ...] = ()
    checks: tuple[float, ...] = ()
    over: bool = False
    value: float = 0.0
    visits: int = 0
    simulations: int = 0
    simulated: bool = False
    row: int | None = None
    children: list["Node"] = field(default_factory=list)

    @property
    def exhausted(self) -> bool:
        """Whether the step is complete and known: nothing below it is left to be simulated."""
        pending = [self]
        while pending:
            node = pending.pop()
            if not (node.simulated if node.over else node.children):
                return False
            if not node.over:
                pending += node.children
        return True

    @property
    def best(self) -> "Node | None":
        """The next step with the largest value among those not yet simulated; None if all are."""
        fresh = (child for child in self.children if not child.simulated)
        return max(fresh, key=lambda child: child.value, default=None)

    def backed_up(self, final: float, decay: float) -> None:
        """Back up the value of a simulation that began here: to this node and, with decay, to those before it.

        >>> grandparent = Node(NOTHING)
        >>> parent = Node(NOTHING, grandparent)
        >>> node = Node(NOTHING, parent)
        >>> node.backed_up(5 / 9, 0.9)
        >>> [(round(each.value, 6), each.visits) for each in (node, parent, grandparent)]
        [(0.555556, 0), (0.5, 1), (0.45, 1)]
        """
        self.value += final
        self.simulations += 1
        above, factor = self.parent, decay
        while above is not None:
            above.value += factor * final
            above.visits += 1
            above.simulations += 1
            above, factor = above.parent, factor * decay


@dataclass(eq=False)
class SearchTree:
    """One problem's search. begun, steps, rewards: one per row; begun is the step where its simulation started.

    right, wrong: numbers of complete responses. made: next steps sampled.
    """

    coin: Random
    root: Node = field(default_factory=lambda: Node(NOTHING))
    begun: list[Node] = field(default_factory=list)
    steps: list[list[Step]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    right: int = 0
    wrong: int = 0
    made: int = 0

    def values(self, pool: Literal["sum", "mean"] = "sum") -> Iterator[list[float]]:
        """The search's values of each row's steps."""
        for node, steps in zip(self.begun, self.steps, strict=True):
            found = [step.reward for step in steps]
            above: Node | None = node
            while above is not None and above.parent is not None:
                found[len(above.ends) - 1] = above.value / (max(1, above.simulations) if pool == "mean" else 1)
                above = above.parent
            yield found

    def row_through(self, node: Node) -> tuple[int | None, int]:
        """(parent, fork) of a new row that goes through the node, and that becomes the row of its steps that had none.

        The parent is the row of the last step that had one; the new row leaves it there.
        """
        shared: Node | None = node
        while shared is not None and shared.row is None:
            shared = shared.parent
        path: Node | None = node
        while path is not None and path.parent is not None and path.row is None:
            path.row = len(self.steps)
            path = path.parent
        return (None, 0) if shared is None else (shared.row, len(shared.response.ids))


def uct(value: float, visits: int, visits_above: int, exploration: float) -> float:
    """How promising a step is: its mean value, plus a bonus that shrinks with its visits.

    >>> round(uct(1.5, 3, 8, 1.414), 6), round(uct(0.0, 0, 8, 1.414), 6)
    (1.547989, 2.095978)
    """
    return value / max(1, visits) + exploration * math.sqrt(math.log(visits_above + 1) / (visits + 1))

"""Branch at fixed depths: every response splits again and again, however certain the policy was there."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Annotated

from ....formats.errors import UsageError
from ....formats.rollouts import Rollouts
from ...core.ranges import AtLeast
from ..kind import SamplingContext, strategy
from ._forest import Forest, Fork


@strategy(
    source="arXiv:2505.23564 (SPO-tree); arXiv:2509.06040 (BranchGRPO)",
    evidence="code",
    makes=("parent_id", "fork"),
    system=("BranchGRPO",),
)
def branch_schedule(
    context: SamplingContext,
    *,
    factors: Annotated[Sequence[int], AtLeast(1)] = (6, 6, 6),
    length: Annotated[int, AtLeast(1)] = 30,
    rows_at_once: Annotated[int, AtLeast(1)] = 2048,
) -> Iterator[Rollouts]:
    """Trees that fork after every `length` tokens, by fixed factors (SPO-tree, BranchGRPO).

    factors[0] responses begin at the prompt. A response that reaches length · d tokens and goes on splits into
    factors[d] continuations. After the last factor, responses are finished. One that ends early is a leaf. A prompt
    gets at most the product of the factors; -n is not used. A rollout has `parent_id` and `fork`; its tokens up to the
    fork, with their log-probabilities, are its parent's.

    Args:
        factors: continuations at each depth. BranchGRPO's tree of 16 leaves is [2, 2, 2, 2].
        length: tokens between two splits.
        rows_at_once: rollouts to generate before a part of the file is written; bounds the memory.
    """
    if not factors:
        raise UsageError("strategy branch_schedule: factors must name at least one number")
    for problems in context.portions(rows_at_once, prod(factors)):
        forest = Forest(context, problems)
        for depth, factor in enumerate(factors):
            last = depth + 1 == len(factors)
            if depth == 0:
                splits = [Fork(problem, samples=factor) for problem in range(len(problems))]
            else:
                splits = _split_unfinished(forest, depth * length, factor)
            forest.grow(splits, length=None if last else length)
        yield forest.rollouts()


def _split_unfinished(forest: Forest, reached: int, count: int) -> list[Fork]:
    """A split at the end of every response that has just reached `reached` tokens and may go on."""
    return [
        Fork(problem, row, reached, count, extends=True)
        for problem, rows in enumerate(forest.branches)
        for row, each in enumerate(rows)
        if len(each.response.ids) == reached < forest.budgets[problem] and each.response.finish_reason == "length"
    ]

"""The rules of the rollout file by name: what `apportion validate` names, `--help` and the documentation list.

An *error* is a broken invariant: no stage reads it, none writes it. A *warning* is a suspicion: the file is sound, and
what is in it is seldom meant. A *remark* is told and changes no exit code. This page imports nothing, so that a list of the rules costs nothing.
"""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "remark"]


@dataclass(frozen=True)
class Rule:
    """`meaning` says what holds in a file that keeps the rule."""

    name: str
    severity: Severity
    meaning: str


RULES = {
    rule.name: rule
    for rule in (
        Rule("missing", "error", "rollout_id, group_id, token.id and token.mask are there; no list of numbers has a null in it"),
        Rule("duplicate_rollout", "error", "a rollout_id occurs once in the data set"),
        Rule("split_group", "error", "a group's rows are neighbours in one file"),
        Rule("straddled_group", "error", "a group's rows are in one row group (stages join such a group and write it whole)"),
        Rule("lengths", "error", "a row's lists on one ruler have one length; a list that is no axis may be null"),
        Rule("token_ids", "error", "token ids are 0 to 2^31 - 1"),
        Rule("finite", "error", "rewards, weights, credit and signals are finite numbers"),
        Rule("out_of_range", "error", "temperature is 0 to 1000, top_p and probabilities 0 to 1, entropy 0 to 22; weights, counts, forks and top_k are 0 or more"),
        Rule("logprob", "error", "a log-probability is 0 or less"),
        Rule("masked_credit", "error", "credit is 0 where token.mask is false"),
        Rule("step_spans", "error", "steps are ordered, disjoint and inside the response"),
        Rule("node_spans", "error", "a node path covers the response without a gap"),
        Rule("siblings", "error", "rollouts of a group that share a node share its span and its tokens"),
        Rule("episode_parts", "error", "an episode's rows each have a place of their own in it"),
        Rule("zero_credit", "warning", "a group whose rewards differ has credit that is not all 0"),
        Rule("singleton", "warning", "a group to train on has two rollouts or more (demonstrations and reflections need none)"),
        Rule("split_episode", "warning", "an episode's rows are in one group"),
        Rule("unsealed", "remark", "the file carries a digest of its bytes; one of an earlier version or another tool has none"),
    )
}  # fmt: skip

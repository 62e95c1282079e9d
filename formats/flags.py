"""The flags of a row: what each means, and what follows from it. The one place that knows.

A file may have flags of its own beside these; nothing follows from them.
"""

from collections.abc import Callable
from dataclasses import dataclass

TRUNCATED = "truncated"
ERROR = "error"
FILTERED = "filtered"
DEMONSTRATION = "demonstration"
HINTED = "hinted"
PARTIAL = "partial"
ACCEPTED = "accepted"
REFINED = "refined"
RETRIED = "retried"
REFLECTION = "reflection"
GUIDED = "guided"
INTERVENTION = "intervention"
EDITED = "edited"
DEAD_GROUP = "dead_group"
SINGLETON = "singleton"
UNASSIGNED = "unassigned"


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag, and what holds of the rows that have it.

    set_by: the commands that set it. trained: `train` takes them. own: the policy answered the prompt, alone and from its beginning. revised: a strategy that
    goes on with responses takes them up. verified: their reward is a verifier's; else it says that what they led to was
    right. compared: they need siblings to be compared with.
    """

    name: str
    set_by: str
    meaning: str
    trained: bool = True
    own: bool = True
    revised: bool = True
    verified: bool = True
    compared: bool = True


FLAGS = {
    flag.name: flag
    for flag in (
        Flag(name=TRUNCATED, set_by="sample", meaning="the response hit the token budget instead of ending by itself"),
        Flag(
            name=ERROR, set_by="sample", meaning="its engine or environment failed; it is excluded from its group's credit",
            trained=False, own=False, revised=False,
        ),
        Flag(
            name=FILTERED, set_by="filter, import, sample --strategy hint", meaning="the predicate is false for it, or the strategy left it out",
            trained=False, revised=False,
        ),
        Flag(
            name=DEMONSTRATION, set_by="import, sample --strategy demonstrate, critique",
            meaning="written by the task's solver or a person, not by a policy; no log-probabilities",
            own=False, revised=False, compared=False,
        ),
        Flag(name=HINTED, set_by="sample --strategy hint", meaning="sampled with a hint in the prompt, see `behaviour_prompt_ids`", own=False),
        Flag(
            name=PARTIAL, set_by="import, sample --strategy truncate, inject_errors",
            meaning="stops before an answer, so a verifier's reward says nothing about it",
            own=False, revised=False,
        ),
        Flag(name=ACCEPTED, set_by="sample --strategy refine", meaning="the policy found no fault in it"),
        Flag(
            name=REFINED, set_by="sample --strategy refine",
            meaning="cut at the step that the policy named, and continued anew from there", own=False,
        ),
        Flag(
            name=RETRIED, set_by="sample --strategy retry",
            meaning="continued anew from the step that the policy's reflection named", own=False, revised=False,
        ),
        Flag(
            name=REFLECTION, set_by="sample --strategy retry",
            meaning="a reflection that led to a better try, as a separate row; its reward of 1 does not come from a verifier",
            own=False, revised=False, verified=False, compared=False,
        ),
        Flag(
            name=GUIDED, set_by="sample --strategy retry",
            meaning="the try that followed a reflection, as a separate row to learn it without; its reward does not come from a verifier",
            own=False, revised=False, verified=False, compared=False,
        ),
        Flag(
            name=INTERVENTION, set_by="sample --strategy intervene",
            meaning="ends with a corrected step: a target for supervised training, not a sample",
            own=False, revised=False,
        ),
        Flag(
            name=EDITED, set_by="sample --strategy inject_errors", meaning="the rejected side of a pair, with a subtle error inserted",
            own=False, revised=False,
        ),
        Flag(name=DEAD_GROUP, set_by="assign-credit", meaning="all rewards of the group are equal, so its credit is 0"),
        Flag(name=SINGLETON, set_by="assign-credit", meaning="the only rollout of its group"),
        Flag(name=UNASSIGNED, set_by="no stage yet", meaning="no method gave it credit"),
    )
}  # fmt: skip


def _names(chosen: Callable[[Flag], bool]) -> tuple[str, ...]:
    return tuple(name for name, flag in FLAGS.items() if chosen(flag))


UNTRAINED = _names(lambda flag: not flag.trained)
NOT_OWN = _names(lambda flag: not flag.own)
NOT_REVISED = _names(lambda flag: not flag.revised)
UNVERIFIED = _names(lambda flag: not flag.verified)
ALONE = _names(lambda flag: not flag.compared)

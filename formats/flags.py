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

    trained: `train` takes them. own: the policy answered the prompt, alone and from its beginning. revised: a strategy that
    goes on with responses takes them up. verified: their reward is a verifier's; else it says that what they led to was
    right. compared: they need siblings to be compared with.
    """

    name: str
    meaning: str
    trained: bool = True
    own: bool = True
    revised: bool = True
    verified: bool = True
    compared: bool = True


FLAGS = {
    flag.name: flag
    for flag in (
        Flag(name=TRUNCATED, meaning="the response ended at the token limit"),
        Flag(name=ERROR, meaning="the rollout failed; it has no part in anything", trained=False, own=False, revised=False),
        Flag(name=FILTERED, meaning="`filter` or a strategy left it out", trained=False, revised=False),
        Flag(name=DEMONSTRATION, meaning="a worked solution of the task's", own=False, revised=False, compared=False),
        Flag(name=HINTED, meaning="sampled with a hint in view", own=False),
        Flag(name=PARTIAL, meaning="a step of a response, trained by itself", own=False, revised=False),
        Flag(name=ACCEPTED, meaning="the refiner accepted it"),
        Flag(name=REFINED, meaning="it took the place of a response that was cut", own=False),
        Flag(name=RETRIED, meaning="done anew after a reflection", own=False, revised=False),
        Flag(
            name=REFLECTION, meaning="a reflection that led to a better try",
            own=False, revised=False, verified=False, compared=False,
        ),
        Flag(
            name=GUIDED, meaning="a try with the reflection in view, to be learnt without it",
            own=False, revised=False, verified=False, compared=False,
        ),
        Flag(name=INTERVENTION, meaning="an attempt up to its error, and one step that mends it", own=False, revised=False),
        Flag(name=EDITED, meaning="a step with an error put into it", own=False, revised=False),
        Flag(name=DEAD_GROUP, meaning="all rewards of its group are equal"),
        Flag(name=SINGLETON, meaning="it is alone in its group"),
        Flag(name=UNASSIGNED, meaning="no credit was assigned to it"),
    )
}  # fmt: skip


def _names(chosen: Callable[[Flag], bool]) -> tuple[str, ...]:
    return tuple(name for name, flag in FLAGS.items() if chosen(flag))


UNTRAINED = _names(lambda flag: not flag.trained)
NOT_OWN = _names(lambda flag: not flag.own)
NOT_REVISED = _names(lambda flag: not flag.revised)
UNVERIFIED = _names(lambda flag: not flag.verified)
ALONE = _names(lambda flag: not flag.compared)

"""What a rollout teaches, in words: from templates (rules), or written by a language model."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..core.wording import fill
from .library import LEVELS, STRATEGY, WARNING

TEMPLATES = {
    "principle": "{turns} turns are enough to earn {reward}.",
    "method": "Turn by turn, this earned {reward}: {actions}",
    "example": "After reading {state}, {action} earned {paid}.",
    "mistake": "After reading {state}, {action} ended it with {reward}.",
    "pattern": "{action} was tried {count} times on reading {state}, and led nowhere.",
    "diagnostic": "Reading the same thing again, here {count} times {state}, is going in circles.",
}
ASKED = {
    STRATEGY: "It went well, with a reward of {reward}. Write three lines that will help with other tasks of this kind:\n"
    "PRINCIPLE: a rule that holds for more than this task\n"
    "METHOD: what to do, in order\n"
    "EXAMPLE: one observation from above, and the answer that was right there",
    WARNING: "It went wrong, with a reward of {reward}. Write three lines that will help with other tasks of this kind:\n"
    "MISTAKE: the turn at which it went wrong, and why\n"
    "PATTERN: the habit behind it, which may show elsewhere\n"
    "DIAGNOSTIC: how to notice in time that this is happening",
}


class Draft(NamedTuple):
    """A candidate entry. turn: the turn it is about; None if it is about the whole rollout."""

    level: str
    text: str
    turn: int | None = None


@dataclass(frozen=True)
class Played:
    """A rollout as text. states, actions, paid, valid: one per turn; what the policy read, answered and earned."""

    rollout_id: str
    reward: float
    states: Sequence[str]
    actions: Sequence[str]
    paid: Sequence[float]
    valid: Sequence[bool]

    def shortened(self, characters: int) -> "Played":
        """The same rollout with every observation and answer cut to this many characters."""
        states, actions = ([text[:characters] for text in texts] for texts in (self.states, self.actions))
        return replace(self, states=states, actions=actions)

    def told(self) -> str:
        """The rollout as text, one turn after the other."""
        turns = zip(self.states, self.actions, self.valid, strict=True)
        return "\n".join(
            f"{number}. Observation: {state}\n   Answer: {action}{'' if valid else ' (not understood)'}"
            for number, (state, action, valid) in enumerate(turns, 1)
        )


def by_rules(played: Played, zone: str, templates: Mapping[str, str]) -> list[Draft]:
    """The rollout's lessons, filled into the templates; skips a level that has no template or nothing to report.

    A success is described by its best-paid turn (the last one if several tie). A failure is described by its last turn,
    by the answer it gave most often to the same observation, and by the observation it returned to most often.

    >>> lost = Played("r", 0.0, ["a", "b", "a"], ["go", "turn", "go"], [0, 0, 0], [True] * 3)
    >>> [each.text for each in by_rules(lost, "warning", {"mistake": "{state} {action}", "pattern": "{action} {count}"})]
    ['a go', 'go 2']
    """
    turns = list(zip(played.states, played.actions, strict=True))
    if not turns:
        return []
    best = max(range(len(turns)), key=lambda turn: (played.paid[turn], turn))
    pair, pairs = Counter(turns).most_common(1)[0]
    state, states = Counter(played.states).most_common(1)[0]
    about: dict[str, tuple[int, int]] = {  # the turn, and how many times it happened
        "example": (best, 1),
        "mistake": (len(turns) - 1, 1),
        "pattern": (turns.index(pair), pairs),
        "diagnostic": (list(played.states).index(state), states),
    }
    found: list[Draft] = []
    for level in LEVELS[zone]:
        turn, count = about.get(level, (best, 1))
        if templates.get(level) and (count > 1 or level not in ("pattern", "diagnostic")):
            state, action = turns[turn]
            values: dict[str, Any] = {
                "turns": len(turns), "reward": f"{played.reward:g}", "actions": ", ".join(played.actions),
                "state": state, "action": action, "paid": f"{played.paid[turn]:g}", "count": count,
            }  # fmt: skip
            found.append(Draft(level, fill(templates[level], **values), turn if level in about else None))
    return found


def by_model(
    rollouts: Sequence[tuple[str, Played]], model: str, *, engine: str, max_tokens: int, device: str, dtype: str
) -> list[list[Draft]]:
    """The lessons a language model writes, greedily, of each (zone, rollout). UsageError beyond its context."""
    from ..models import open_engine
    from ..models.engine import Request, Sampling
    from ..models.policy import ModelSource, render_prompt

    source = ModelSource(model, device, dtype)
    asked = [[{"role": "user", "content": question(zone, played)}] for zone, played in rollouts]
    requests = [Request(render_prompt(source.tokenizer, messages), [0]) for messages in asked]
    if not requests:
        return []
    made = open_engine(engine, source).generate(requests, Sampling(max_tokens=max_tokens, temperature=0))
    texts = source.tokenizer.batch_decode([each.ids.tolist() for (each,) in made], skip_special_tokens=True)
    return [lessons_in(text, zone) for text, (zone, _) in zip(texts, rollouts, strict=True)]


def question(zone: str, played: Played) -> str:
    """The prompt for the model that writes the lessons."""
    ask = fill(ASKED[zone], reward=f"{played.reward:g}")
    return f"An agent and its surroundings took turns:\n\n{played.told()}\n\n{ask}"


def lessons_in(text: str, zone: str) -> list[Draft]:
    """The first line of the answer for each level of the zone; skips a level that the answer lacks.

    >>> found = lessons_in("Sure!\\n**Principle:** look first\\nEXAMPLE: (none)\\nMethod : go left", "strategy")
    >>> [(each.level, each.text) for each in found]
    [('principle', 'look first'), ('method', 'go left'), ('example', '(none)')]
    """
    found: list[Draft] = []
    for level in LEVELS[zone]:
        line = re.search(rf"^\W*{level}\W*?:\W*?[ \t*]*(\S.*)$", text, re.IGNORECASE | re.MULTILINE)
        if line:
            found.append(Draft(level, line[1].strip()))
    return found

"""A Gymnasium environment with a few discrete actions, played in text."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from . import Action, Outcome


class Game(Protocol):
    """The part of `gymnasium.Env` that is used."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...


def choose_action(text: str, names: Sequence[str], *, modulo: bool = False) -> int | None:
    """The last action named in the text, by name or number; None if there is none.

    modulo: map any number to an action by its remainder, so that a policy that writes numbers acts from the beginning.

    >>> [choose_action(text, ["left", "down"]) for text in ("Down, no: LEFT!", "1", "jump", "go 7", "leftover")]
    [0, 1, None, None, None]
    >>> choose_action("go 7", ["left", "down"], modulo=True)
    1
    """
    words = {name.lower(): index for index, name in enumerate(names)}
    words |= {str(index): index for index in range(len(names))}
    named = re.findall(r"[a-z_]+|[0-9]{1,9}", text.lower())
    if modulo:
        words |= {word: int(word) % len(names) for word in named if word.isdecimal()}
    found = [words[word] for word in named if word in words]
    return found[-1] if found else None


class GymText:
    """Adapts a game to text: reads the action from a turn's text, and writes what the game shows as text.

    describe: the observation as the policy reads it. state: the observation's key; it identifies the state if the game
    shows everything. modulo: see `choose_action`. A turn without an action changes nothing, and the reminder answers
    it.
    """

    def __init__(
        self,
        game: Game,
        names: Sequence[str],
        describe: Callable[[Any], str],
        state: Callable[[Any], str],
        *,
        reminder: str = "",
        modulo: bool = False,
    ):
        self._game, self._names, self._modulo = game, names, modulo
        self._describe, self._state, self._reminder = describe, state, reminder
        self._shown: Any = None

    def reset(self, seed: int) -> str:
        self._shown = self._game.reset(seed=seed & 0x7FFFFFFF)[0]
        return self._state(self._shown)

    def step(self, action: Action) -> Outcome:
        chosen = choose_action(action.text, self._names, modulo=self._modulo)
        if chosen is None:
            return Outcome(
                observation=f"{self._reminder}{self._describe(self._shown)}",
                state=self._state(self._shown),
                valid=False,
            )
        self._shown, reward, terminated, truncated, _ = self._game.step(chosen)
        return Outcome(
            observation=self._describe(self._shown),
            reward=float(reward),
            done=bool(terminated or truncated),
            state=self._state(self._shown),
        )

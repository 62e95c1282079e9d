"""What the tasks on small maps share, FrozenLake and key and door."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, Literal

from ....formats.errors import UsageError
from .._splits import check_split, hash_split, is_in
from ..kind import Problem
from . import Environment, Role, Tool

PATIENCE = 2_000  # consecutive draws without a new map after which hardly any can be left
Render = Literal["text", "compact"]
Actions = Literal["names", "modulo"]


@dataclass(frozen=True)
class GridTask:
    """A task whose problems are maps; `reference` is {"map": [row, …]}. `draw` makes a map, `play` makes its world."""

    spec: str
    options: Mapping[str, Any]
    rules: str
    draw: Callable[[Random, Mapping[str, Any]], list[str]]
    first: Callable[[Sequence[str], Mapping[str, Any]], str]
    play: Callable[[Sequence[str], Mapping[str, Any]], Environment]
    role: Role = "user"
    tools: Sequence[Tool] = ()

    @property
    def max_turns(self) -> int:
        return self.options["max_turns"]

    @property
    def turn_tokens(self) -> int | None:
        return self.options["turn_tokens"]

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        """`count` distinct maps of `split`; one map in five is a test map."""
        check_split(split)
        # A str seed is hashed with SHA-512, so it gives the same maps in every process and on every machine.
        rng = Random(f"{self.spec} {split} {seed}")
        seen: set[str] = set()
        for _ in range(count):
            problem = self._draw_new(split, rng, seen)
            seen.add(problem.problem_id)
            yield problem

    def verify(self, text: str, reference: Any) -> float:
        """Raise UsageError: there is nothing to verify."""
        raise UsageError(
            f"task {self.spec!r} is played: its rewards were given while sampling, and are in the column 'reward'"
        )

    def environment(self, problem: Problem) -> Environment:
        return self.play(problem.reference["map"], self.options)

    def _draw_new(self, split: str, rng: Random, seen: set[str]) -> Problem:
        for _ in range(PATIENCE):
            rows = self.draw(rng, self.options)
            text = "\n".join(rows)
            name = f"{self.spec.rpartition('/')[2]}-{blake2b(text.encode(), digest_size=8).hexdigest()}"
            if name not in seen and is_in(split, hash_split(text)):
                shown = self.first(rows, self.options)
                content = shown if self.options["render"] == "compact" else f"{self.rules}\n\n{shown}"
                return Problem(name, [{"role": "user", "content": content}], {"map": rows})
        raise UsageError(
            f"task {self.spec!r}: no more {split} maps after {len(seen)} distinct ones ({PATIENCE:,} draws in a row "
            "gave none); ask for fewer, or for larger maps"
        )

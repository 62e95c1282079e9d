"""A function of the user's own as a scorer: `--with reward.py:exact`. What it is given follows from its parameters' names."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter, Signature, signature
from numbers import Real
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa

from ...formats.errors import PluginError, UsageError
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.schema import FIELDS, ruler_of
from ..core.plugin_files import function_in_file
from ..core.progress import progress
from ..models.recorded import RECORDED
from ..models.token_texts import TokenOffsets
from ..tasks import Problem
from .kind import SCORERS, Scorer, reward_column

INPUTS = {
    "text": ("text", "response", "completion", "solution_str"),
    "prompt": ("prompt", "question"),
    "messages": ("messages",),
    "reference": ("reference", "answer", "ground_truth", "solution"),
    "task": ("task", "data_source"),
    "row": ("row", "extra_info"),
    "step": ("step",),
    "steps": ("steps",),
    "before": ("before",),
}
"""What a function can be given, with the names of parameters that ask for it: ours, TRL's and verl's among them."""

BATCHES = {"texts", "prompts", "references", "responses", "completions", "answers", "ground_truths", "solutions"}
"""Plurals: a function with one of them is called once for a batch, and each of its inputs is a list."""

OF_AN_ANSWER = {"text", "prompt", "messages", "reference", "task", "row"}
"""What is known of an answer before it is a rollout."""

NEEDS = {"text": "text", "prompt": "prompt", "messages": "prompt", "reference": "reference", "task": "task"}
TOTALS = ("score", "reward")  # in a mapping of rewards, the one that counts
_MEANT = {name: meaning for meaning, names in INPUTS.items() for name in names}


def scorer_of(name: str, function: Callable[..., Any]) -> Scorer:
    """The scorer that a function is. UsageError for a parameter that stands for nothing and has no default."""
    found = RewardFunction(name, function)
    return Scorer(
        name=name,
        function=found.as_function(),
        needs=found.needs,
        makes=("step.reward",) if found.of_steps else ("reward",),
        granularity="step" if found.of_steps else "rollout",
        source="theirs",
    )


@dataclass(frozen=True)
class RewardFunction:
    """A function that gives rewards. name: FILE.py:NAME, for messages."""

    name: str
    function: Callable[..., Any]

    @classmethod
    def named(cls, name: str) -> "RewardFunction":
        """The function that FILE.py:NAME names. UsageError where it is not there, or the text has another form."""
        found = function_in_file(name)
        if found is None:
            raise UsageError(f"--verifier takes FILE.py:NAME, a function of yours, got {name!r:.200}")
        return cls(name, found[1])

    @cached_property
    def inputs(self) -> dict[str, str]:
        """What each parameter is given: {parameter: one of INPUTS, or a column}."""
        found: dict[str, str] = {}
        for each in signature(self.function).parameters.values():
            if each.kind in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
                continue
            meaning = _MEANT.get(each.name) or (_MEANT.get(each.name[:-1]) if each.name in BATCHES else None)
            if meaning is None and each.default is Parameter.empty and each.kind is not Parameter.KEYWORD_ONLY:
                meaning = each.name if each.name in FIELDS and ruler_of(each.name) == "rollout" else None
                if meaning is None:
                    known = ", ".join(names[0] for names in INPUTS.values())
                    raise UsageError(
                        f"{self.name}: the parameter {each.name!r} is none of {known}, and no column of a rollout; give it "
                        "a default to make it an option"
                    )
            if meaning is not None:
                found[each.name] = meaning
        if not found:
            raise UsageError(f"{self.name}: takes nothing of a rollout; give it a parameter such as text")
        return found

    @cached_property
    def takes_batches(self) -> bool:
        return any(name in BATCHES for name in self.inputs)

    @cached_property
    def of_steps(self) -> bool:
        """Its rewards are of steps."""
        return not {"step", "steps"}.isdisjoint(self.inputs.values())

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """The columns that it reads."""
        columns = [NEEDS.get(meaning, meaning) for meaning in self.inputs.values()]
        columns += ["token.id", "step.start", "step.end"] if self.of_steps else []
        return tuple(dict.fromkeys(each for each in columns if each in FIELDS and each != "task_row"))

    @cached_property
    def options(self) -> list[Parameter]:
        """Its other parameters, as options."""
        hints = _hints(self.function)
        return [
            each.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints.get(each.name, Any))
            for each in signature(self.function).parameters.values()
            if each.name not in self.inputs and each.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)
        ]

    def as_function(self) -> Callable[..., Mapping[str, Any]]:
        """The function of a scorer: Rollouts and the options, to columns."""
        added = {"column": "step.reward", "model": RECORDED} if self.of_steps else {"column": "reward"}

        def score(rollouts: Rollouts, **options: Any) -> Mapping[str, Any]:
            own = {name: options.pop(name) for name in added}
            return self.score(rollouts, options, **own)

        first = Parameter("rollouts", Parameter.POSITIONAL_OR_KEYWORD, annotation=Rollouts)
        own = [Parameter(name, Parameter.KEYWORD_ONLY, default=value, annotation=str) for name, value in added.items()]
        parameters = [first, *own, *(each for each in self.options if each.name not in added)]
        score.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        score.__annotations__ = {each.name: each.annotation for each in parameters}
        score.__doc__ = self.function.__doc__
        score.__wrapped__ = self.function  # type: ignore[attr-defined]  # by which a fault finds the entry
        return score

    def score(
        self, rollouts: Rollouts, options: Mapping[str, Any], *, column: str, model: str = RECORDED
    ) -> dict[str, Any]:
        """{column: rewards}, of the rollouts [R] or of their steps; with a mapping of rewards, `rewards.NAME` for each other.

        model: whose tokenizer gives the texts of steps. PluginError for what is no finite number, or of another length.
        """
        if self.of_steps:
            if not column.startswith("step."):
                raise UsageError(f"scorer {self.name}: column must be step.NAME, got {column!r}")
            return {column: self._of_steps(rollouts, model, options)}
        rows = _Rows(rollouts)
        if self.takes_batches:
            every = range(len(rows))
            given = {name: [rows.value(meaning, row) for row in every] for name, meaning in self.inputs.items()}
            rewards = self._listed(self.function(**given, **options), len(rows), "rollouts")
        else:
            rewards = list(self._one_by_one(rows, options))
        return _columns(self, rewards, reward_column(column, self.name))

    def _one_by_one(self, rows: "_Rows", options: Mapping[str, Any]) -> Iterator[Any]:
        with progress(len(rows), self.name) as advance:
            for row in range(len(rows)):
                yield self.function(**{name: rows.value(each, row) for name, each in self.inputs.items()}, **options)
                advance(1)

    def _of_steps(self, rollouts: Rollouts, model: str, options: Mapping[str, Any]) -> Ragged:
        from ..models.policy import load_tokenizer

        offsets, rows, rewards = TokenOffsets(load_tokenizer(model)), _Rows(rollouts), list[list[float]]()
        starts, ends = rollouts.ragged("step.start"), rollouts.ragged("step.end")
        with progress(len(rollouts), self.name) as advance:
            for row in range(len(rollouts)):
                text, begins = offsets(rollouts.token_ids[row].tolist())
                places = [*begins.tolist(), len(text)]
                spans = [(places[start], places[end]) for start, end in zip(starts[row], ends[row], strict=True)]
                rewards.append(self._of_row(rows, row, text, spans, options))
                advance(1)
        return Ragged.from_lists(rewards, np.float64)

    def _of_row(
        self, rows: "_Rows", row: int, text: str, spans: Sequence[tuple[int, int]], options: Mapping[str, Any]
    ) -> list[float]:
        def call(**own: Any) -> Any:
            given = {name: own[each] if each in own else rows.value(each, row) for name, each in self.inputs.items()}
            return self.function(**given, **options)

        if "steps" in self.inputs.values():
            texts = [text[start:end] for start, end in spans]
            found = self._listed(call(steps=texts, before=""), len(spans), f"steps of row {row}")
        else:
            found = [call(step=text[start:end], before=text[:start]) for start, end in spans]
        return [_number(self, value, f"step {number} of row {row}") for number, value in enumerate(found)]

    def _listed(self, given: Any, wanted: int, of: str) -> list[Any]:
        """What a function of a batch gave, as a list."""
        listed = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(listed, list | tuple) or len(listed) != wanted:
            got = (
                f"{len(listed)} values" if isinstance(listed, list | tuple) else f"{type(given).__name__} {given!r:.60}"
            )
            raise PluginError(
                f"scorer {self.name}: must give a list of {wanted} numbers, one for each of the {of}; got {got}"
            )
        return list(listed)

    def check_verifies(self) -> None:
        """UsageError unless it can tell what an answer is worth by answer and problem alone."""
        if self.of_steps or not set(self.inputs.values()) <= OF_AN_ANSWER:
            given = ", ".join(self.inputs)
            raise UsageError(f"{self.name}: cannot verify an answer by {given}; use it with `apportion score`")

    def rewards_of(self, problems: Sequence[Problem], texts: Sequence[str], task: str) -> list[float]:
        """The reward of each answer [N] to a problem [N], where there are no rollouts yet."""
        values = [_of_answer(problem, text, task) for problem, text in zip(problems, texts, strict=True)]
        if self.takes_batches:
            given = {name: [each[meaning] for each in values] for name, meaning in self.inputs.items()}
            found = self._listed(self.function(**given), len(texts), "answers")
        else:
            found = [self.function(**{name: each[meaning] for name, meaning in self.inputs.items()}) for each in values]
        return [_number(self, _total(value), f"answer {number}") for number, value in enumerate(found)]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # a name that only its type checker knows
        return {}


def _of_answer(problem: Problem, text: str, task: str) -> dict[str, Any]:
    return {
        "text": text, "prompt": _as_text(problem.prompt), "messages": problem.prompt, "reference": problem.reference,
        "task": task, "row": problem.row,
    }  # fmt: skip


def _as_text(messages: Sequence[Mapping[str, Any]] | None) -> str:
    return "\n".join(str(each.get("content") or "") for each in messages or ())


class _Rows:
    """The inputs of a function, row by row; each column is read once, when it is asked for."""

    def __init__(self, rollouts: Rollouts):
        self._rollouts = rollouts
        self._columns: dict[str, list[Any]] = {}

    def __len__(self) -> int:
        return len(self._rollouts)

    def value(self, meaning: str, row: int) -> Any:
        if meaning not in self._columns:
            self._columns[meaning] = self._read(meaning)
        return self._columns[meaning][row]

    def _read(self, meaning: str) -> list[Any]:
        column = {"messages": "prompt", "row": "task_row"}.get(meaning, meaning)
        if column not in self._rollouts:  # all but these are needed
            return [None] * len(self)
        values = self._rollouts.strings(column)
        if meaning == "text":
            return [each or "" for each in values]
        if meaning == "prompt":
            return [_as_text(each) for each in values]
        if meaning in ("reference", "row"):
            return [_from_json(each) for each in values]
        return values


def _from_json(text: str | None) -> Any:
    """What a reference says; the text itself where another tool wrote one that is no JSON."""
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return text


def _total(value: Any) -> Any:
    """The reward that counts, of a mapping of several."""
    return next((value[name] for name in TOTALS if name in value), value) if isinstance(value, Mapping) else value


def _columns(whose: RewardFunction, values: Sequence[Any], column: str) -> dict[str, Any]:
    """{column: [R]} of rewards, each a number or a mapping of several."""
    if not any(isinstance(value, Mapping) for value in values):
        return {column: _rewards(whose, values, "row")}
    found: dict[str, list[Any]] = {}
    for row, value in enumerate(values):
        if not isinstance(value, Mapping):
            raise PluginError(
                f"scorer {whose.name}: gave {value!r:.60} for row {row}, and a mapping of rewards for others"
            )
        for name, each in value.items():
            if isinstance(each, str) or (each is None and name not in TOTALS):
                continue  # verl's functions tell more than rewards
            path = column if name in TOTALS else f"rewards.{name}"
            found.setdefault(reward_column(path, whose.name), [None] * len(values))[row] = each
    return {path: _rewards(whose, each, "row") for path, each in found.items()}


def _rewards(whose: RewardFunction, values: Sequence[Any], of: str) -> pa.Array:
    """[R] float64, null where the function gave None."""
    if len(values) and all(value is None for value in values):
        raise PluginError(f"scorer {whose.name}: gave None for every rollout; must give a number")
    numbers = [None if value is None else _number(whose, value, f"{of} {row}") for row, value in enumerate(values)]
    return pa.array(numbers, pa.float64())


def _number(whose: RewardFunction, value: Any, where: str) -> float:
    given = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    if not isinstance(given, Real) or not math.isfinite(given):
        raise PluginError(f"scorer {whose.name}: gave {value!r:.60} for {where}; must give a finite number")
    return float(given)


SCORERS.of_function = scorer_of

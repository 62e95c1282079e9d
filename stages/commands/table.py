"""Every stage as its users name it: the table from which the command line, recipes and docs are made.

A stage is a function. Its signature is the single source of truth: positional parameters are arguments, keyword-only
ones are options; `Annotated[type, "help", Flag("--name")]` gives the help and, where Python's name will not do, the flag.
An option that names what the stage writes has an `Output` there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, signature
from typing import Annotated, Any, get_args, get_origin

from ..core.options import Flag, Output, parameter_hints


@dataclass(frozen=True)
class Option:
    """One parameter of a stage. `name` is Python's, `key` is what recipes write, `flags` what the command line reads."""

    name: str
    key: str
    flags: tuple[str, ...]
    type: Any
    help: str
    default: Any
    positional: bool
    output: Output | None = None

    @property
    def required(self) -> bool:
        return self.default is Parameter.empty


@dataclass(frozen=True)
class Command:
    """A command: `assign-credit`, or `eval policy` for one in a group."""

    name: str
    function: Callable[..., Any]

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def outputs(self) -> dict[str, Option]:
        """The options that name what it writes, by recipe key."""
        return {key: option for key, option in self.options().items() if option.output is not None}

    def options(self) -> dict[str, Option]:
        """Its parameters by recipe key, in order."""
        return {option.key: option for option in _options(self.function)}


@cache
def _options(function: Callable[..., Any]) -> tuple[Option, ...]:
    hints = parameter_hints(function)
    found: list[Option] = []
    for name, parameter in signature(function).parameters.items():
        hint, help_text, flag = _opened(hints[name])
        positional = parameter.kind is not Parameter.KEYWORD_ONLY
        flags = flag.names or (() if positional else (f"--{name.replace('_', '-')}",))
        key = next((each[2:].replace("-", "_") for each in flags if each.startswith("--")), name)
        output = flag if isinstance(flag, Output) else None
        found.append(Option(name, key, flags, hint, help_text, parameter.default, positional, output))
    return tuple(found)


def _opened(hint: Any) -> tuple[Any, str, Flag]:
    if get_origin(hint) is not Annotated:
        return hint, "", Flag()
    kind, *extras = get_args(hint)
    text = next((extra for extra in extras if isinstance(extra, str)), "")
    return kind, text, next((extra for extra in extras if isinstance(extra, Flag)), Flag())


def commands() -> dict[str, Command]:
    """All commands by name, in the order of the pipeline. Imports no stage's heavy parts."""
    from ..assign_credit import assign_credit
    from ..diff import diff
    from ..eval import curve, policy, refinement
    from ..eval import rollouts as eval_rollouts
    from ..inspect import inspect
    from ..remember import remember
    from ..rows import filter_rollouts, head, merge, show, split
    from ..rows.digest import digest
    from ..rows.upgrade import upgrade
    from ..rows.validation import validate
    from ..run import run
    from ..sample import sample
    from ..score import score
    from ..train import train
    from ..tree_build import tree_build
    from .catalogue import catalogue
    from .history import log
    from .schema import schema

    return {
        command.name: command
        for command in (
            Command("sample", sample),
            Command("tree-build", tree_build),
            Command("score", score),
            Command("assign-credit", assign_credit),
            Command("remember", remember),
            Command("train", train),
            Command("eval policy", policy),
            Command("eval rollouts", eval_rollouts),
            Command("eval curve", curve),
            Command("eval refinement", refinement),
            Command("run", run),
            Command("inspect", inspect),
            Command("diff", diff),
            Command("head", head),
            Command("show", show),
            Command("filter", filter_rollouts),
            Command("split", split),
            Command("merge", merge),
            Command("validate", validate),
            Command("log", log),
            Command("digest", digest),
            Command("schema", schema),
            Command("upgrade", upgrade),
            Command("list", catalogue),
        )
    }

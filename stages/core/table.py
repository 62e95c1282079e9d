"""Every stage as its users name it: the table from which the command line, recipes and docs are made.

A stage is a function. Its signature is the single source of truth: positional parameters are arguments, keyword-only
ones are options; `Annotated[type, "help", Names("--name")]` gives the help and, where Python's name will not do, the flag.
An option that names what the stage writes has an `Output` there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from inspect import Parameter, signature
from typing import Annotated, Any, TypeVar, get_args, get_origin

from .kinds import STAGES, Kind, kinds
from .options import Chooses, Names, Output, parameter_hints
from .ranges import Range

T = TypeVar("T")


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
    chooses: Chooses | None = None
    range: Range | None = None

    @property
    def hint(self) -> Any:
        """Type and range, as `typed_values` reads them."""
        return self.type if self.range is None else Annotated[self.type, self.range]

    @property
    def required(self) -> bool:
        return self.default is Parameter.empty


@dataclass(frozen=True)
class Command:
    """A command: `assign-credit`, or `eval policy` for one in a group. Its module is imported when it is asked for.

    place: "room:function". makes: columns it may write, whatever entry is chosen. writes: what its output is called where a
    name has to be made up, "" for one whose output is no rollout file, memory or checkpoint. continues: the option that names
    what the stage before it wrote. repeats: a run prints its report again where nothing has changed.
    """

    name: str
    place: str
    makes: tuple[str, ...] = ()
    writes: str = ""
    continues: str = "rollouts"
    repeats: bool = False

    @cached_property
    def function(self) -> Callable[..., Any]:
        module, _, name = self.place.partition(":")
        return getattr(import_module(f"{STAGES}.{module}"), name)

    @property
    def summary(self) -> str:
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def options(self) -> dict[str, Option]:
        """Its parameters by recipe key, in order."""
        return _options(self.function)

    def outputs(self) -> dict[str, Option]:
        """The options that name what it writes, by recipe key."""
        return _outputs(self.function)

    def choices(self) -> list[tuple[Kind[Any], Option]]:
        """The options that name an entry, with the kind that it is of."""
        return [(kinds()[each.chooses.kind], each) for each in self.options().values() if each.chooses is not None]


@cache
def _outputs(function: Callable[..., Any]) -> dict[str, Option]:
    return {key: option for key, option in _options(function).items() if option.output is not None}


@cache
def _options(function: Callable[..., Any]) -> dict[str, Option]:
    found: dict[str, Option] = {}
    for name, parameter in signature(function).parameters.items():
        kind, *extras = _parts(parameter_hints(function)[name])

        def extra(wanted: type[T], extras: list[Any] = extras) -> T | None:
            return next((each for each in extras if isinstance(each, wanted)), None)

        names, positional = extra(Names) or Names(), parameter.kind is not Parameter.KEYWORD_ONLY
        flags = names.names or (() if positional else (f"--{name.replace('_', '-')}",))
        key = next((each[2:].replace("-", "_") for each in flags if each.startswith("--")), name)
        found[key] = Option(
            name=name, key=key, flags=flags, type=kind, help=extra(str) or "", default=parameter.default,
            positional=positional, output=extra(Output), chooses=extra(Chooses), range=extra(Range),
        )  # fmt: skip
    return found


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


_SAMPLED = (
    "rollout_id", "group_id", "task", "task_options", "task_row", "problem_id", "prompt", "reference", "prompt_ids", "text",
    "finish_reason", "purpose", "flags", "error", "seed", "policy", "engine", "temperature", "top_p", "top_k",
    "logprob_kind", "token.id", "token.mask", "token.logprob", "token.raw_logprob",
)  # fmt: skip
_TREE = ("node.id", "node.start", "node.end", "node.visits", "node.value", "step.state_id", "step.state_visits")
_COMMANDS = (
    Command("sample", "sample:sample", makes=_SAMPLED, writes="rollouts"),
    Command("tree-build", "tree_build:tree_build", makes=_TREE, writes="tree"),
    Command("score", "score:score", writes="scored"),
    Command("assign-credit", "assign_credit:assign_credit", writes="credit"),
    Command("remember", "remember:remember", writes="memory", continues="earlier"),
    Command("train", "train:train", writes="policy"),
    Command("eval policy", "eval:policy"),
    Command("eval rollouts", "eval:rollouts"),
    Command("eval curve", "eval:curve", repeats=True),
    Command("eval refinement", "eval:refinement"),
    Command("run", "run:run"),
    Command("inspect", "inspect:inspect"),
    Command("diff", "diff:diff"),
    Command("head", "rows:head"),
    Command("show", "rows:show"),
    Command("import", "exchange:import_rollouts", writes="imported", continues="paths"),
    Command("export", "exchange:export_credit"),
    Command("filter", "rows:filter_rollouts", writes="filtered"),
    Command("split", "rows:split", writes="parts"),
    Command("merge", "rows:merge", writes="merged"),
    Command("validate", "rows.validation:validate"),
    Command("doctor", "doctor:doctor"),
    Command("log", "commands.history:log"),
    Command("digest", "rows.digest:digest"),
    Command("schema", "commands.schema:schema"),
    Command("upgrade", "rows.upgrade:upgrade", writes="upgraded"),
    Command("list", "commands.catalogue:catalogue"),
    Command("new", "commands.new:new"),
)


def commands() -> dict[str, Command]:
    """All commands by name, in the order of the pipeline."""
    return {command.name: command for command in _COMMANDS}

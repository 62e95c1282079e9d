"""A recipe as a flat list of commands with resolved options, checked before anything runs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...formats.errors import UsageError, unknown
from ...formats.recipes import Loop, Recipe, Step, expand, load_recipe, with_settings
from ..commands.places import check_places, read_place
from ..commands.shell import command_line
from ..core.kinds import Entry, Kind
from ..core.options import typed_values
from ..core.plugin_files import load_plugins
from ..core.plugins import plugin_files
from ..core.several import names_in, one_or_more, settle_each
from ..core.table import Command, commands
from ..eval.gated import FAIL_IF, gates_of
from .members import members_of
from .targets import Targets

MAX_STEPS = 100_000
NO_DEFAULT = object()


class Chosen(NamedTuple):
    """An entry that a step names, with its options, all of them."""

    kind: Kind[Any]
    entry: Entry
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Planned:
    """One command to run. options: by recipe key, resolved, paths under the run's folder made explicit. chosen: the entries
    that these name, as far as that can be told."""

    command: Command
    options: Mapping[str, Any]
    out: str | None
    where: str
    chosen: tuple[Chosen, ...] = ()

    @property
    def outputs(self) -> dict[str, str]:
        """Everything it writes, by recipe key."""
        return {key: self.options[key] for key in self.command.outputs() if self.options.get(key) is not None}

    def shell(self) -> str:
        """The same as a command line. UsageError for a value that no such line can hold."""
        try:
            return command_line(self.command, self.options, plugins=plugin_files(self.command.name, self.options))
        except UsageError as error:
            raise UsageError(f"{self.where}: {error}") from error


def plan_of(
    recipe: Recipe, variables: Mapping[str, Any], folder: Path, given: Mapping[str, Any] | None = None, *,
    within: Sequence[Path] = (), length: "Length | None" = None,
) -> list[Planned]:  # fmt: skip
    """Every step in order, loops unrolled. UsageError with the step's place for anything wrong: an unknown command,
    method or option, a value of another type, a missing option, an output written twice or outside of the folder, more
    than MAX_STEPS steps or turns of loops, a recipe that runs itself.

    given: variables that the user set; an output may lie outside where such a one says. within: the files of the recipes
    that have this one as a step; length: what is planned of them already.
    """
    load_plugins(map(Path, recipe.plugins), f"{recipe.path.name}: plugins: {{}}")
    _check_length(recipe, variables)
    length = length or Length(recipe)
    known = commands()
    made: dict[str, list[str]] = {name: [] for name in known}  # outputs of each command, in order
    seen_from: Mapping[str, int] = {}  # from which of them `latest` and `every` see
    targets = Targets(folder)
    outputs: dict[str, str] = {}  # as recipes name them -> where the run has them

    def every(command: str, *, where: str) -> list[str]:
        if command not in known:
            raise UsageError(f"{where}: {unknown('command', str(command), known)}")
        return made[command][seen_from.get(command, 0) :]

    def latest(command: str, default: Any = NO_DEFAULT, *, where: str) -> Any:
        if command in known and len(made[command]) > seen_from.get(command, 0):
            return made[command][-1]
        every(command, where=where)
        if default is NO_DEFAULT:
            raise UsageError(f"{where}: latest({command!r}): no such step before this one; give a default")
        return default

    functions = {"latest": latest, "every": every}

    def walk(steps: Sequence[Step | Loop], scope: Mapping[str, Any]) -> Iterator[Planned]:
        nonlocal seen_from
        for step in steps:
            length.add()
            if isinstance(step, Loop):
                before = seen_from
                for value in _values(step, expand(step.values, scope, functions, step.where)):
                    length.add()
                    seen_from = {name: len(each) for name, each in made.items()} if step.independent else before
                    yield from walk(step.steps, {**scope, step.var: value})
                seen_from = before
                continue
            options = expand(step.options, scope, functions, step.where)
            planned = _plan_step(step, options, known, outputs, targets, given or {})
            outputs.update({targets.name(out): out for out in planned.outputs.values()})
            if planned.out is not None:
                made[step.command].append(planned.out)
            if step.command == "run":
                _check_inner(planned, (*within, recipe.path.resolve()), length)
            yield planned

    return list(walk(recipe.steps, variables))


class Length:
    """How many steps and turns of loops a recipe has, those of the recipes in it included."""

    def __init__(self, recipe: Recipe):
        self._name = recipe.path.name
        self._counted = 0

    def add(self) -> None:
        """UsageError for more than MAX_STEPS."""
        self._counted += 1
        if self._counted > MAX_STEPS:
            raise UsageError(f"{self._name}: more than {MAX_STEPS} steps; shorten its loops")


def _check_length(recipe: Recipe, variables: Mapping[str, Any]) -> None:
    """UsageError for more than MAX_STEPS steps or turns of loops: counting them takes far less time than checking them."""
    length = Length(recipe)

    def unknown_yet(*_: Any, **__: Any) -> Any:
        raise LookupError

    def count(steps: Sequence[Step | Loop], scope: Mapping[str, Any]) -> None:
        for step in steps:
            length.add()
            if isinstance(step, Loop):
                try:
                    values = expand(step.values, scope, {"latest": unknown_yet, "every": unknown_yet}, step.where)
                except LookupError:  # a loop over outputs, which are no more than the steps before
                    continue
                for value in _values(step, values):
                    length.add()
                    count(step.steps, {**scope, step.var: value})

    count(recipe.steps, variables)


def _check_inner(planned: Planned, within: Sequence[Path], length: Length) -> None:
    """UsageError where the recipe that is a step cannot be planned, or is one of those it is a step of."""
    inner = load_recipe(planned.options["recipe"])
    if inner.path.resolve() in within:
        raise UsageError(f"{planned.where}: {inner.path} runs itself")
    folder = Path(planned.options["dir"] or Path("runs") / inner.name)
    for member in members_of(inner, planned.options["set"] or {}):
        plan_of(inner, with_settings(inner, member.settings), folder / member.name, within=within, length=length)


def _values(loop: Loop, given: Any) -> Sequence[Any]:
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return range(given)
    if isinstance(given, list):
        return given
    raise UsageError(f"{loop.where}: a loop runs over a count or a list, got {given!r:.200}")


def _plan_step(
    step: Step, options: dict[str, Any], known: Mapping[str, Command], outputs: Mapping[str, str], targets: Targets,
    given: Mapping[str, Any],
) -> Planned:  # fmt: skip
    if step.command not in known:
        raise UsageError(f"{step.where}: {unknown('command', step.command, known)}")
    command = known[step.command]
    parameters, writes = command.options(), command.outputs()
    if "force" in options:
        raise UsageError(f"{step.where}: a recipe's outputs are its own; leave `force` out")
    options |= {key: _place(value, outputs) for key, value in options.items() if key not in writes}
    for key in writes:
        if options.get(key) is not None:
            try:
                options[key] = targets.place(str(options[key]), step.options[key], given)
            except UsageError as error:
                raise UsageError(f"{step.where}: {key} {options[key]!r} {error}") from error
    try:
        resolved = typed_values(
            {key: (option.hint, option.default) for key, option in parameters.items()}, options, whose=""
        )
        resolved = {key: read_place(parameters[key], value) for key, value in resolved.items()}
        for _, option in command.choices():
            if option.chooses is not None and option.chooses.several and resolved[option.key] is not None:
                resolved[option.key] = one_or_more(names_in(resolved[option.key], option.flags[-1]))
        check_places(command, resolved)
        gates_of(resolved.get(FAIL_IF))
        chosen = tuple(_choose(command, resolved))
    except UsageError as error:
        raise UsageError(f"{step.where}: {error}") from error
    plain = {key: _plain(value) for key, value in resolved.items() if key != "force"}
    return Planned(command, plain, options.get("out"), step.where, chosen)


def _choose(command: Command, options: Mapping[str, Any]) -> Iterator[Chosen]:
    """The entries that the options name. UsageError, as the command itself would give, for an unknown one, and for an option
    that it does not have, of another type or out of range.

    options: by recipe key, typed.
    """
    for kind, option in command.choices():
        chosen, given = option.chooses, options[option.key]
        if chosen is None or given is None:
            continue
        settings, preset = options.get(chosen.settings), options.get(chosen.preset or "")
        if chosen.several:
            for each in settle_each(kind, names_in(given, option.flags[-1]), settings, preset):
                yield Chosen(kind, each.entry, each.options)
        elif (name := kind.named_by(given)) is not None:
            yield Chosen(kind, kind[name], kind.settle(name, settings, preset))


def _place(value: Any, outputs: Mapping[str, str]) -> Any:
    """The value with outputs of earlier steps where the run has them."""
    if isinstance(value, Mapping):
        return {name: _place(each, outputs) for name, each in value.items()}
    if isinstance(value, list):
        return [_place(each, outputs) for each in value]
    return outputs.get(value, value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(each) for each in value] if isinstance(value, list) else value

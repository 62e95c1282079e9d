"""Recipes on disk: YAML with a name, variables and steps. Strict keys, `${…}` expressions, `--set a.b=value`.

    name: quickstart
    about: one line
    system: TEMPO
    plugins: [my_method.py]
    vars: {rounds: 20}
    steps:
      - sample: {round: 0, out: rollouts.parquet}
      - loop: {var: round, range: "${rounds}", steps: [...]}
      - loop: {var: seed, in: [1, 2, 3], independent: true, steps: [...]}

A step is `command: {its options}`. `${…}` holds names of variables, numbers, strings, None, `+ - * / // %`, and
`latest('command')`: the output of the most recent step of that command; `latest('command', default)` before any ran;
`every('command')`: the outputs of all steps of that command so far, a list. In a loop that is `independent`, both see
only what was made in this turn of the loop.
"""

import ast
import operator
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import UsageError, unknown
from .plain_yaml import LARGEST, NotPlain, Spelled, is_text, plain_value, read_yaml

RECIPES = Path(__file__).parent.parent / "recipes"
_KEYS = ("name", "about", "system", "plugins", "vars", "steps")
_LOOP_KEYS = ("var", "range", "in", "independent", "steps")
_EXPRESSION = re.compile(r"\$\{([^}]*)\}")
_LONGEST = 1000  # characters of one expression
_LARGEST = 1 << 16  # characters of a text, and items of a list, that an expression makes
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Step:
    """One command with its options, as written. `where` names the place for messages: `quickstart.yaml, step 3`."""

    command: str
    options: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Loop:
    """Steps repeated with `var` bound to each value of `values` (an expression, a count or a list).

    independent: a turn of the loop does not see the outputs of those before it.
    """

    var: str
    values: Any
    independent: bool
    steps: tuple["Step | Loop", ...]
    where: str


@dataclass(frozen=True)
class Recipe:
    """A recipe as it is written. system: the published systems that it runs, by their names in docs/systems.md. plugins: files
    that it takes entries from, by paths from where it is run."""

    name: str
    about: str
    vars: Mapping[str, Any]
    steps: tuple[Step | Loop, ...]
    path: Path
    system: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_file: str) -> Recipe:
    """A shipped recipe by name, or a YAML file. UsageError for an unknown name, wrong YAML, or an unknown key."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_file}.yaml"
        if not os.path.isfile(path):
            raise unknown("recipe", name_or_file, recipe_names())
    try:
        with path.open() as stream:
            content = read_yaml(stream.read(LARGEST + 1))
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (NotPlain, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not YAML ({error})") from error
    where = path.name
    if not isinstance(content, dict):
        raise UsageError(f"{where}: a recipe is a mapping with {', '.join(_KEYS)}")
    _check_keys(content, _KEYS, where)
    if not isinstance(content.get("steps"), list) or not content["steps"]:
        raise UsageError(f"{where}: expected `steps`, a list of `command: {{options}}`")
    if not isinstance(content.get("vars") or {}, dict):
        raise UsageError(f"{where}: `vars` is a mapping")
    system = _names(content, "system", "the name of a published system", where)
    plugins = _names(content, "plugins", "the path of a Python file", where)
    name = str(content.get("name") or path.stem)
    if name.startswith(".") or not name.isprintable() or any(mark in name for mark in "/\\"):
        raise UsageError(f"{where}: name {name!r}: it names the run's folder; choose letters, digits, - and _")
    return Recipe(
        name=name,
        about=str(content.get("about", "")),
        vars=content.get("vars") or {},
        steps=_steps(content["steps"], where),
        path=path,
        system=system,
        plugins=plugins,
    )


def _names(content: Mapping[str, Any], key: str, what: str, where: str) -> tuple[str, ...]:
    """The text, or the texts, under a key. UsageError for anything else."""
    given = content.get(key) or []
    names = given if isinstance(given, list) else [given]
    if not all(isinstance(each, str) for each in names):
        raise UsageError(f"{where}: `{key}` is {what}, or a list of them")
    return tuple(names)


def _steps(content: list[Any], where: str) -> tuple[Step | Loop, ...]:
    steps: list[Step | Loop] = []
    for number, item in enumerate(content, 1):
        place = f"{where}, step {number}"
        if not isinstance(item, dict) or len(item) != 1:
            raise UsageError(f"{place}: expected one `command: {{options}}`, got {item!r:.200}")
        ((command, options),) = item.items()
        if not isinstance(options or {}, dict):
            raise UsageError(f"{place} ({command}): its options are a mapping, got {options!r:.200}")
        options = options or {}
        if command != "loop":
            steps.append(Step(str(command), options, f"{place} ({command})"))
            continue
        _check_keys(options, _LOOP_KEYS, f"{place} (loop)")
        if (
            ("range" in options) == ("in" in options)
            or not isinstance(options.get("steps"), list)
            or "var" not in options
        ):
            raise UsageError(f"{place}: a loop has `var`, `steps`, and one of `range` (a count) and `in` (a list)")
        values = options["range"] if "range" in options else options["in"]
        independent = options.get("independent", False)
        if not isinstance(independent, bool):
            raise UsageError(f"{place}: `independent` is true or false, got {independent!r:.200}")
        steps.append(Loop(str(options["var"]), values, independent, _steps(options["steps"], place), place))
    return tuple(steps)


def _check_keys(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in content:
        if key not in known:
            raise UsageError(f"{where}: {unknown('key', str(key), known)}")


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's variables with `--set` applied; `a.b` reaches into a mapping. UsageError for a name it lacks.

    None can be given for any of them: the options that use it know whether it means something.
    """
    variables = _copy(recipe.vars)
    for dotted, given in settings.items():
        place, parts = variables, dotted.split(".")
        for depth, part in enumerate(parts):
            if not isinstance(place, dict) or part not in place:
                known = place if isinstance(place, dict) else {}
                raise UsageError(
                    f"--set {dotted}: {unknown(f'variable of {recipe.name}', '.'.join(parts[: depth + 1]), known)}"
                )
            if depth < len(parts) - 1:
                place = place[part]
        value = str(given) if isinstance(place[parts[-1]], str) and isinstance(given, Spelled) else plain_value(given)
        if isinstance(place[parts[-1]], int | float) and not isinstance(value, int | float | None):
            raise UsageError(f"--set {dotted}={value}: expected a number like {place[parts[-1]]}")
        place[parts[-1]] = value
    return variables


def _copy(content: Any) -> Any:
    return {key: _copy(value) for key, value in content.items()} if isinstance(content, Mapping) else content


def expand(value: Any, variables: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]], where: str) -> Any:
    """The value with every `${…}` evaluated. A string that is one expression keeps the type of its result."""
    if isinstance(value, Mapping):
        return {key: expand(each, variables, functions, where) for key, each in value.items()}
    if isinstance(value, list):
        return [expand(each, variables, functions, where) for each in value]
    if not isinstance(value, str):
        return value
    whole = _EXPRESSION.fullmatch(value)
    if whole:
        return _evaluate(whole[1], variables, functions, where)
    made, end = "", 0
    for match in _EXPRESSION.finditer(value):
        made += value[end : match.start()] + str(_evaluate(match[1], variables, functions, where))
        end = match.end()
        if len(made) > _LARGEST:
            raise UsageError(f"{where}: {value!r:.40}: expected a text of at most {_LARGEST:,} characters")
    return made + value[end:]


def _evaluate(text: str, variables: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]], where: str) -> Any:
    place = f"{where}: ${{{text}}}"

    def walk(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return walk(body)
            case ast.Constant(value=int() | float() | str() | None as value):
                return _bound(value)
            case ast.Name(id=name):
                if name not in variables:
                    raise UsageError(f"{place}: {unknown('variable', name, map(str, variables))}")
                return variables[name]
            case ast.Attribute(value=inner, attr=name):
                held = walk(inner)
                if not isinstance(held, Mapping) or name not in held:
                    raise UsageError(f"{place}: no {name!r} in it")
                return held[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                one, two = walk(left), walk(right)
                if isinstance(op, ast.Mult | ast.Mod):
                    _check_growth(op, one, two)
                return _bound(_OPERATORS[type(op)](one, two))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _bound(-walk(operand))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in functions:
                return functions[name](*(walk(arg) for arg in args), where=where)
            case _:
                raise UsageError(f"{place}: not an expression recipes know")

    if len(text) > _LONGEST:
        raise UsageError(f"{place:.80}…: {len(text):,} characters, expected at most {_LONGEST:,}")
    try:
        return walk(_parse(text))
    except SyntaxError as error:
        raise UsageError(f"{place}: not an expression ({error.msg})") from error
    except (RecursionError, MemoryError) as error:
        raise UsageError(f"{place:.80}…: nested too deep") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UsageError(f"{place}: {error}") from error


@lru_cache(1024)
def _parse(text: str) -> ast.Expression:
    """A loop evaluates the same few expressions again and again."""
    with warnings.catch_warnings():  # of a backslash that escapes nothing
        warnings.simplefilter("ignore")
        return ast.parse(text.strip(), mode="eval")


def _check_growth(op: ast.operator, one: Any, two: Any) -> None:
    """ValueError for a result that would be too large to be made first and measured then."""
    if isinstance(op, ast.Mult):
        for several, times in ((one, two), (two, one)):
            if isinstance(several, str | list) and isinstance(times, int):
                _check_size(len(several) * max(times, 0))
    elif isinstance(one, str):  # '%099999999d' % 1
        _check_size(max(map(int, re.findall("[0-9]+", one)), default=0))


def _bound(value: Any) -> Any:
    """The value; ValueError for one that is larger than a recipe needs."""
    if isinstance(value, str | list):
        _check_size(len(value))
        if isinstance(value, str) and not is_text(value):
            raise ValueError(f"{value!r:.40}: a character that is no text")
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"a number of {value.bit_length()} bits; expected one from -2^63 to 2^63 - 1")
    return value


def _check_size(size: int) -> None:
    if size > _LARGEST:
        raise ValueError(f"{size:,} characters or items, expected at most {_LARGEST:,}")

"""Recipes on disk: YAML with a name, variables and steps. Strict keys, `${…}` expressions, `--set a.b=value`.

    name: quickstart
    about: one line
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
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import UsageError, unknown

RECIPES = Path(__file__).parent.parent / "recipes"
_KEYS = ("name", "about", "vars", "steps")
_LOOP_KEYS = ("var", "range", "in", "independent", "steps")
_EXPRESSION = re.compile(r"\$\{([^}]*)\}")
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
    name: str
    about: str
    vars: Mapping[str, Any]
    steps: tuple[Step | Loop, ...]
    path: Path


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once; PyYAML takes the last of several and is silent about the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_file: str) -> Recipe:
    """A shipped recipe by name, or a YAML file. UsageError for an unknown name, wrong YAML, or an unknown key."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPES / f"{name_or_file}.yaml"
        if not path.is_file():
            raise unknown("recipe", name_or_file, recipe_names())
    try:
        content = yaml.load(path.read_text(), _Loader)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    where = path.name
    if not isinstance(content, dict):
        raise UsageError(f"{where}: a recipe is a mapping with {', '.join(_KEYS)}")
    _check_keys(content, _KEYS, where)
    if not isinstance(content.get("steps"), list) or not content["steps"]:
        raise UsageError(f"{where}: needed is `steps`, a list of `command: {{options}}`")
    if not isinstance(content.get("vars") or {}, dict):
        raise UsageError(f"{where}: `vars` is a mapping")
    return Recipe(
        name=str(content.get("name") or path.stem),
        about=str(content.get("about", "")),
        vars=content.get("vars") or {},
        steps=_steps(content["steps"], where),
        path=path,
    )


def _steps(content: list[Any], where: str) -> tuple[Step | Loop, ...]:
    steps: list[Step | Loop] = []
    for number, item in enumerate(content, 1):
        place = f"{where}, step {number}"
        if not isinstance(item, dict) or len(item) != 1:
            raise UsageError(f"{place}: needed is one `command: {{options}}`, seen is {item!r}")
        ((command, options),) = item.items()
        if not isinstance(options or {}, dict):
            raise UsageError(f"{place} ({command}): its options are a mapping, seen is {options!r}")
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
            raise UsageError(f"{place}: `independent` is true or false, seen is {independent!r}")
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
    variables = _copied(recipe.vars)
    for dotted, value in settings.items():
        place, parts = variables, dotted.split(".")
        for depth, part in enumerate(parts):
            if not isinstance(place, dict) or part not in place:
                known = place if isinstance(place, dict) else {}
                raise UsageError(
                    f"--set {dotted}: {unknown(f'variable of {recipe.name}', '.'.join(parts[: depth + 1]), known)}"
                )
            if depth < len(parts) - 1:
                place = place[part]
        if isinstance(place[parts[-1]], int | float) and not isinstance(value, int | float | None):
            raise UsageError(f"--set {dotted}={value}: needed is a number like {place[parts[-1]]}")
        place[parts[-1]] = value
    return variables


def _copied(content: Any) -> Any:
    return {key: _copied(value) for key, value in content.items()} if isinstance(content, Mapping) else content


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
    return _EXPRESSION.sub(lambda match: str(_evaluate(match[1], variables, functions, where)), value)


def _evaluate(text: str, variables: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]], where: str) -> Any:
    def walk(node: ast.AST) -> Any:
        match node:
            case ast.Expression(body=body):
                return walk(body)
            case ast.Constant(value=int() | float() | str() | None as value):
                return value
            case ast.Name(id=name):
                if name not in variables:
                    raise UsageError(f"{where}: ${{{text}}}: {unknown('variable', name, variables)}")
                return variables[name]
            case ast.Attribute(value=inner, attr=name):
                held = walk(inner)
                if not isinstance(held, Mapping) or name not in held:
                    raise UsageError(f"{where}: ${{{text}}}: no {name!r} in it")
                return held[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                try:
                    return _OPERATORS[type(op)](walk(left), walk(right))
                except (TypeError, ZeroDivisionError) as error:
                    raise UsageError(f"{where}: ${{{text}}}: {error}") from error
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -walk(operand)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in functions:
                try:
                    return functions[name](*(walk(arg) for arg in args), where=where)
                except TypeError as error:
                    raise UsageError(f"{where}: ${{{text}}}: {error}") from error
            case _:
                raise UsageError(f"{where}: ${{{text}}}: not an expression recipes know")

    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise UsageError(f"{where}: ${{{text}}}: not an expression ({error.msg})") from error
    return walk(tree)

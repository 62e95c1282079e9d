"""A JSON Schema of recipe files, made from the table of commands: editors complete and check with it."""

from collections.abc import Iterator, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from ..core.kinds import Entry, Kind, kinds
from ..core.options import bare, parameter_hints, takes_others
from ..core.ranges import Range, range_of
from ..core.table import Command, Option, commands

EXPRESSION = {"$ref": "#/$defs/expression"}
STEPS = {"$ref": "#/$defs/steps"}
_NUMBERS = {
    int: ("integer", r"^[-+]?[0-9]+$"),
    float: ("number", r"^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$"),
}


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12): keys of a recipe, of its loops, and of every command, with types, defaults and help.

    Unknown keys are refused. `${…}` stands wherever a number, a truth value or a choice does.
    """
    known = commands()
    steps = {name: {"$ref": f"#/$defs/{_slug(name)}"} for name in known}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "apportion recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["steps"],
        "properties": {
            "name": {"type": "string", "description": "The recipe's name; default the file's."},
            "about": {"type": "string", "description": "What it does, in one line."},
            "system": {
                "type": ["string", "array"],
                "items": {"type": "string"},
                "description": "The published systems that it runs, by their names in docs/systems.md.",
            },
            "plugins": {
                "type": ["string", "array"],
                "items": {"type": "string"},
                "description": "Python files that register methods, scorers …, by paths from where the recipe is run.",
            },
            "vars": {"type": ["object", "null"], "description": "Variables for ${…}; --set changes them."},
            "steps": STEPS,
        },
        "$defs": {
            "expression": {
                "type": "string",
                "pattern": r"^\$\{[^}]*\}$",
                "description": "Variables, numbers, strings, + - * / // %, latest('command'), every('command').",
            },
            "steps": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "description": "One command with its options, or a loop.",
                    "additionalProperties": False,
                    "minProperties": 1,
                    "maxProperties": 1,
                    "properties": {"loop": {"$ref": "#/$defs/loop"}, **steps},
                },
            },
            "loop": _loop(),
            **{_slug(name): _command(command) for name, command in known.items()},
            **{_settings_slug(kind, entry): _settings(kind, entry) for kind in kinds().values() for entry in kind},
            **{f"options-of-several-{kind.plural}": _settings_of_several(kind) for kind in _kinds_of_several()},
        },
    }


def _slug(name: str) -> str:
    return f"command-{name.replace(' ', '-')}"


def _settings_slug(kind: Kind[Any], entry: Entry) -> str:
    return f"options-{kind.plural}-{entry.name.replace('/', '-')}"


def _loop() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Steps repeated with a variable bound to each value.",
        "additionalProperties": False,
        "required": ["var", "steps"],
        "oneOf": [{"required": ["range"]}, {"required": ["in"]}],
        "properties": {
            "var": {"type": "string", "description": "The variable's name."},
            "range": {"anyOf": [{"type": "integer", "minimum": 0}, EXPRESSION], "description": "How often, from 0."},
            "in": {"anyOf": [{"type": "array"}, EXPRESSION], "description": "The values, a list."},
            "independent": {
                "type": "boolean",
                "default": False,
                "description": "A turn does not see the outputs of those before it.",
            },
            "steps": STEPS,
        },
    }


def _command(command: Command) -> dict[str, Any]:
    options = {key: option for key, option in command.options().items() if key != "force"}
    required = [key for key, option in options.items() if option.required]
    return {
        "type": "object" if required else ["object", "null"],
        "description": command.summary,
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": {key: _option(option) for key, option in options.items()},
        **({"allOf": chosen} if (chosen := list(_chosen_settings(command))) else {}),
    }


def _kinds_of_several() -> list[Kind[Any]]:
    """The kinds of which an option of some command may name several entries."""
    found = {
        kind.plural: kind
        for command in commands().values()
        for kind, option in command.choices()
        if option.chooses is not None and option.chooses.several
    }
    return list(found.values())


def _chosen_settings(command: Command) -> Iterator[dict[str, Any]]:
    """What the options of an entry may be, for each entry that the command can be told to use; and of several, by NAME.option."""
    for kind, option in command.choices():
        settings = None if option.chooses is None else option.chooses.settings
        if option.chooses is not None and option.chooses.several:
            meant = {"anyOf": [{"$ref": f"#/$defs/options-of-several-{kind.plural}"}, EXPRESSION, {"type": "null"}]}
            yield {"properties": {option.chooses.settings: meant}}
        for entry in kind if settings is not None else ():
            named: dict[str, Any] = {"properties": {option.key: {"const": entry.name}}}
            if option.default != entry.name:  # without the key it is the default's
                named["required"] = [option.key]
            meant = {"anyOf": [{"$ref": f"#/$defs/{_settings_slug(kind, entry)}"}, EXPRESSION, {"type": "null"}]}
            yield {"if": named, "then": {"properties": {settings: meant}}}


def _dotted(kind: Kind[Any], entry: Entry) -> dict[str, Any]:
    """NAME.option, the same as the option."""
    slug = _settings_slug(kind, entry)
    return {f"{entry.name}.{name}": {"$ref": f"#/$defs/{slug}/properties/{name}"} for name in entry.options}


def _settings_of_several(kind: Kind[Any]) -> dict[str, Any]:
    properties = {name: option for entry in kind for name, option in _dotted(kind, entry).items()}
    return {"type": "object", "properties": properties}


def _settings(kind: Kind[Any], entry: Entry) -> dict[str, Any]:
    """The options of an entry. Unknown ones are refused, but for entries that take others than their signature names."""
    from .docstrings import meanings_of

    hints, says = parameter_hints(entry.function), meanings_of(entry)
    found: dict[str, Any] = {}
    for name, option in entry.options.items():
        meant = _of_type(bare(hints[name]), range_of(hints[name]))
        found[name] = {"anyOf": [*_choices(meant), {"type": "null"}], "description": says.get(name, "")}
        if option.default is not Parameter.empty and option.default is not None:
            found[name]["default"] = _plain(option.default)
    closed = not takes_others(entry.function) and getattr(entry, "checks_options", True)
    if kind in _kinds_of_several():
        found |= _dotted(kind, entry)
    return {"type": "object", "properties": found, "additionalProperties": not closed}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _option(option: Option) -> dict[str, Any]:
    found = _of_type(option.type, option.range)
    if option.chooses is not None:  # any text will do, since plugins bring names of their own; these are for completion
        found = {"anyOf": [{"enum": [entry.name for entry in kinds()[option.chooses.kind]]}, found]}
    found = {**found, "description": option.help}
    default = option.default
    if default is not Parameter.empty and default is not None:
        found["default"] = str(default) if isinstance(default, Path) else default
    return found


def _of_type(kind: Any, allowed: Range | None = None) -> dict[str, Any]:
    """What a recipe may write for a parameter of this Python type, and in this range."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return {"anyOf": [each for part in parts for each in _choices(_of_type(part, allowed))]}
    if kind is NoneType:
        return {"type": "null"}
    if kind is bool:
        return {"anyOf": [{"type": "boolean"}, EXPRESSION]}
    if kind in _NUMBERS:
        name, text = _NUMBERS[kind]  # YAML 1.1 reads 3e-4 as text, which is converted later
        limits = {} if allowed is None else allowed.to_schema()
        return {"anyOf": [{"type": name, **limits}, {"type": "string", "pattern": text}, EXPRESSION]}
    if origin is Literal:
        return {"anyOf": [{"enum": list(parts)}, EXPRESSION]}
    if kind is Any:
        return {"anyOf": [{}]}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return {"anyOf": [{"type": "array", "items": _of_type(parts[0], allowed)}, EXPRESSION]}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {"anyOf": [{"type": "object"}, EXPRESSION]}
    return {"type": "string"}


def _choices(found: dict[str, Any]) -> list[dict[str, Any]]:
    return found["anyOf"] if set(found) == {"anyOf"} else [found]

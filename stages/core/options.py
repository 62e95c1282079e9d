"""Options given as text or YAML, typed by the signature of the function they go to."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from inspect import Parameter, signature, unwrap
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ...formats.errors import UsageError, unknown
from ...formats.plain_yaml import Spelled as Spelled
from ...formats.plain_yaml import plain_value as plain_value
from .ranges import Finite, check_range, range_of

Stage = TypeVar("Stage", bound=Callable[..., Any])


@dataclass(frozen=True)
class Names:
    """In an `Annotated` hint: the option's names on the command line, where they are not made from Python's name.

    The first long one, without its dashes, is the key in a recipe.
    """

    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chooses:
    """In an `Annotated` hint: the option names an entry of a kind (its plural).

    settings: the recipe key of the option with the entry's own options. preset: that of the option with a preset's name.
    several: it may name more than one (see several.py).
    """

    kind: str
    settings: str = "set"
    preset: str | None = None
    several: bool = False


@dataclass(frozen=True)
class Output(Names):
    """A Names of an option that names what the command writes. Such a place is neither an input nor another output, and a
    recipe's lie in the folder of its run.

    in_place: it may be the input file, which --force then replaces by the same rollouts with more in them.
    is_filled: a folder that outputs are put into; what is in it stays.
    """

    in_place: bool = False
    is_filled: bool = False


OUT = Output(("-o", "--out"))
ROLLOUTS_OUT = Output(("-o", "--out"), in_place=True)
QUOTES = "; text that begins with a bracket needs quotes of its own: --set 'name=\"{text}\"'"
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


@cache
def parameter_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters' type hints, `Annotated` kept. `return` is left alone: it may be a name for the type checker only."""
    parameters = {name: hint for name, hint in function.__annotations__.items() if name != "return"}
    bare = type("bare", (), {"__annotations__": parameters})
    return get_type_hints(bare, globalns=unwrap(function).__globals__, include_extras=True)


def options_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword-only parameters of a function: its options, in order."""
    return dict(_options_of(function))


@cache
def _options_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    return {
        name: parameter
        for name, parameter in signature(function).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The options with their defaults; None for one that must be given."""
    return {
        name: None if option.default is Parameter.empty else option.default
        for name, option in options_of(function).items()
    }


def values_to_try(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Each option with values that may make a difference in kind: its default, what it names, and 0 of a number.

    >>> def f(*, key: Literal["a", "b"] = "a", weight: float = 0.5) -> None: ...
    >>> list(values_to_try(f))
    [('key', 'a'), ('key', 'b'), ('weight', 0.5), ('weight', 0)]
    """
    hints = parameter_hints(function)
    for name, default in defaults_of(function).items():
        kind = bare(hints[name])
        named = get_args(kind) if get_origin(kind) is Literal else ()
        zero = (0,) if kind in (int, float) and 0 in (range_of(hints[name]) or Finite) else ()
        yield from ((name, value) for value in dict.fromkeys((default, *named, *zero)))


def as_setting(value: Any) -> str:
    """A value as `--set name=value` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@cache
def _adapter(kind: Any) -> Any:
    """Made once a type: a plan has many steps with the same options."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def typed_options(function: Callable[..., Any], given: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Every keyword-only option of `function`: its default, or the given value converted to its annotated type.

    UsageError for an unknown name (with a did-you-mean), a missing option, a value of another type or out of its range, and NaN.
    """
    wanted = _declared(function)
    others = (
        {name: plain_value(value) for name, value in given.items() if name not in wanted}
        if takes_others(function)
        else {}
    )
    return typed_values(wanted, {name: value for name, value in given.items() if name not in others}, whose) | others


@cache
def takes_others(function: Callable[..., Any]) -> bool:
    """It takes options that are not in its signature, and checks them itself."""
    return any(each.kind is Parameter.VAR_KEYWORD for each in signature(function).parameters.values())


@cache
def _declared(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    hints = parameter_hints(function)
    return {name: (hints[name], parameter.default) for name, parameter in options_of(function).items()}


def typed_values(wanted: Mapping[str, tuple[Any, Any]], given: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The same for {name: (type, default)}; a default of Parameter.empty makes the option required.

    whose: what messages begin with, such as "strategy rose"; "" where the caller says that.

    None is a value where the type has it, and elsewhere leaves the option at its default.
    """
    begin = f"{whose}: " if whose else ""
    for name in given:
        if name not in wanted:
            raise UsageError(f"{begin}{unknown('option', str(name), wanted)}")
    resolved: dict[str, Any] = {}
    for name, (hint, default) in wanted.items():
        kind = bare(hint)
        if given.get(name) is None and not (name in given and _takes_none(kind)):
            if default is Parameter.empty:
                raise UsageError(f"{begin}the option {name!r} is required")
            resolved[name] = default
            continue
        where = f"{begin}{name}"
        value = with_home(_to_type(kind, given[name], where))
        if isinstance(value, float) and math.isnan(value):
            raise UsageError(f"{where} must be a number, got nan")
        check_width(value, where)
        check_range(hint, value, where)
        resolved[name] = value
    return resolved


def bare(hint: Any) -> Any:
    """A type hint without what `Annotated` adds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _to_type(kind: Any, value: Any, where: str) -> Any:
    """The value as this type. UsageError, saying what the type is, for one that cannot be."""
    from pydantic import ValidationError

    if isinstance(value, Spelled):
        value = str(value) if _wants_text(kind, value.value) else value.value
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # pydantic has other words for 1e25 than for its digits
    try:
        return _adapter(kind).validate_python(value)
    except OverflowError:  # a whole number of 400 digits where a float is needed
        raise UsageError(f"{where} is a number too large for a float") from None
    except ValidationError as error:
        quotes = QUOTES if isinstance(value, dict | list) and str in (kind, *get_args(kind)) else ""
        raise UsageError(f"{where} must be {in_words(kind)}, got {value!r:.200}{quotes}") from error


def _wants_text(kind: Any, value: Any) -> bool:
    """Whether a type is of texts, and not of values such as this one, too."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    texts = any(each in (str, Path) or (get_origin(each) is Literal and str(value) in get_args(each)) for each in kinds)
    own = (type(value), float) if isinstance(value, int) and not isinstance(value, bool) else (type(value),)
    return texts and not any(each in own for each in kinds)


def in_words(kind: Any) -> str:
    """What a value of this type is, as messages say it.

    >>> in_words(int), in_words(Literal["a", "b"] | None), in_words(list[str])
    ('a whole number', "'a', 'b' or null", 'a list of text')
    """
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
        NoneType: "null",
    }
    origin, parts = get_origin(kind), get_args(kind)
    if kind in names:
        return names[kind]
    if origin in (Union, UnionType):
        return _alternatives([word for part in parts for word in _words_of(part)])
    if origin is Literal:
        return _alternatives(_words_of(kind))
    if origin in (list, tuple, Sequence):
        return f"a list of {in_words(parts[0]).removeprefix('a ')}" if parts else "a list"
    if origin in (dict, Mapping):
        return "a mapping"
    return getattr(kind, "__name__", str(kind))


def _words_of(kind: Any) -> list[str]:
    return [repr(each) for each in get_args(kind)] if get_origin(kind) is Literal else [in_words(kind)]


def _alternatives(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def with_home(value: Any) -> Any:
    """A path, or each of several, with `~` opened as the shell does it where the path is a word of its own."""
    if isinstance(value, list):
        return [with_home(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) and str(value).startswith("~") else value


def check_width(value: Any, where: str) -> None:
    """UsageError for a whole number that has no place in 64 bits, where seeds and sizes are kept."""
    for each in value if isinstance(value, list) else [value]:
        if isinstance(each, int) and not -(1 << 63) <= each < 1 << 63:
            raise UsageError(f"{where} must be between -2^63 and 2^63 - 1, got a number of {each.bit_length()} bits")


def _takes_none(kind: Any) -> bool:
    return kind is Any or NoneType in get_args(kind)


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """["name=value", …] with YAML values, and None as Python writes it; numbers and truth values are `Spelled`. UsageError
    for one without `=`."""
    from ...formats.plain_yaml import NotPlain, NotYaml, read_yaml

    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes name=value, got {setting!r:.200}")
        try:
            value = None if text == "None" else read_yaml(text) if text else ""
            if _EXPONENT.fullmatch(text):  # 2e-4 is text to YAML 1.1, which wants 2.0e-4
                value = float(text)
            parsed[name.strip()] = Spelled(text, value) if isinstance(value, bool | int | float) else value
        except NotYaml as error:
            raise UsageError(f"--set {setting:.200}: the value is not YAML{QUOTES}") from error
        except NotPlain as error:
            raise UsageError(f"--set {setting:.200}: {error}") from error
    return parsed


def texts_in(value: Any) -> Iterator[str]:
    """Every text in an option's value, lists and settings opened: the values that may name a file or an entry. An empty one
    names none."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


def check_numbers(function: Stage) -> Stage:
    """The stage, which checks the width and the range of every number it is given, wherever it is called from.

    UsageError names the option as the command line does: "--prompts must be at least 1, got 0".
    """
    names = list(signature(function).parameters)

    @wraps(function)
    def check(*args: Any, **kwargs: Any) -> Any:
        hints = parameter_hints(function)
        for name, value in (dict(zip(names, args, strict=False)) | kwargs).items():
            if name in hints:
                where = flag_of(name, hints[name])
                check_width(value, where)
                check_range(hints[name], value, where)
        return function(*args, **kwargs)

    return check  # type: ignore[return-value]


def flag_of(name: str, hint: Any) -> str:
    """How the command line names a parameter.

    >>> flag_of("n", Annotated[int, "Rows.", Names(("-n", "--rows"))]), flag_of("max_tokens", int)
    ('--rows', '--max-tokens')
    """
    given = next((each.names for each in get_args(hint)[1:] if isinstance(each, Names) and each.names), ())
    return given[-1] if given else f"--{name.replace('_', '-')}"


def as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are recorded."""

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        return [plain(each) for each in value] if isinstance(value, list | tuple) else value

    return {name: plain(value) for name, value in options.items()}

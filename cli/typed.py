"""A Typer command from a stage's signature."""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from ..formats.errors import ApportionError
from ..stages.commands.places import check_places, read_place
from ..stages.core.options import parse_settings
from ..stages.core.plugin_files import load_plugins
from ..stages.core.table import Command, Option


def _load(paths: list[Path] | None) -> list[Path] | None:
    """Load the plugins as soon as they are read, so that what they register can be named by the options after them."""
    if paths:
        load_plugins(paths)
    return paths


PLUGIN = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", callback=_load, is_eager=True, help="Python file that registers methods, scorers …; repeatable."
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def as_typer(command: Command, show: Callable[[Any, bool], None]) -> Callable[..., None]:
    """A function Typer can read: same options; calls the stage, hands its result and --json to `show`."""
    options = list(command.options().values())
    settings = {option.name for option in options if _is_mapping(option.type)}

    def run(**given: Any) -> None:
        as_json = given.pop("json")
        given.pop("plugin")
        for name in settings:
            given[name] = parse_settings(given[name] or [])
        for option in options:
            given[option.name] = read_place(option, given[option.name])
        check_places(command, {option.key: given[option.name] for option in options})
        try:
            result = command.function(**given)
        except ApportionError as error:
            show(error.result, as_json)
            raise
        show(result, as_json)

    parameters = [_parameter(option) for option in options]
    parameters.append(Parameter("plugin", Parameter.KEYWORD_ONLY, default=None, annotation=PLUGIN))
    parameters.append(Parameter("json", Parameter.KEYWORD_ONLY, default=False, annotation=JSON))
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__ = command.function.__doc__
    run.__name__ = command.name
    return run


def _parameter(option: Option) -> Parameter:
    kind, default, about = option.type, option.default, _about(option)
    if option.chooses is not None and option.chooses.several:
        kind, default = list[str], [default] if isinstance(default, str) else default
    if _is_mapping(kind):
        kind, default = list[str] | None, None
        info: Any = typer.Option(*option.flags, help=about, metavar="NAME=VALUE")
    elif option.positional:
        info = typer.Argument(help=about, show_default=not option.required)
    else:
        flags = option.flags
        if kind is bool:
            flags = tuple(f"{flag}/--no-{flag[2:]}" if default is True else flag for flag in flags)
        info = typer.Option(*flags, help=about)
    return Parameter(
        option.name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if option.required else default,
        annotation=Annotated[kind, info],
    )


def _about(option: Option) -> str:
    """The option's help, with the range of its numbers."""
    if option.range is None:
        return option.help
    return f"{option.help.removesuffix('.')}; {option.range}."


def _is_mapping(kind: Any) -> bool:
    return any(get_origin(part) is Mapping or part is Mapping for part in (kind, *get_args(kind))) or (
        isinstance(get_origin(kind), type) and not issubclass(get_origin(kind), Path) and get_origin(kind) is dict
    )

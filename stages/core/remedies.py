"""What to do about a column that is missing: derived from what commands and entries say that they make."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...formats.errors import DataError
from ...formats.invariants import lacking
from .kinds import Entry, kinds
from .table import Command, commands

MOST = 3  # entries that a remedy names


class Maker(NamedTuple):
    """An entry that makes a column: how it is used, and how many columns it makes."""

    plural: str
    name: str
    usage: str
    columns: int


def makers_of(path: str) -> tuple[list[Command], list[Maker]]:
    """The commands that make a column whatever they are told, and the entries that do."""
    always = [command for command in commands().values() if path in command.makes]
    entries = [
        Maker(kind.plural, entry.name, entry.usage_of(kind), len(entry.columns))
        for kind in kinds().values()
        for entry in kind
        if not lacking(entry.columns, [path])
    ]
    return always, entries


def remedy(path: str) -> str:
    """What to run for a column, or what it has to say where nothing here makes it.

    Of several ways, one that goes on with the file at hand comes first, and of those the one that makes least besides.

    >>> remedy("step.state")
    'run `apportion score IN --with states -o OUT` first'
    >>> remedy("node.id")
    'run `apportion tree-build IN -o OUT` first'
    >>> remedy("token.value")
    'add it: what a critic expects from the state before the token'
    """
    if path.startswith("token.advantage_"):
        return f"run `apportion assign-credit IN --method NAME --as {path.removeprefix('token.')} -o OUT` first"
    from ...formats.schema import FIELDS

    always, entries = makers_of(path)
    if entries and not any(command.name != "sample" for command in always):
        ranked = sorted(entries, key=_rank)
        best = [each for each in ranked if _rank(each) == _rank(ranked[0])]
        if len(best) == 1:
            one = f"run `{best[0].usage.format(name=best[0].name)}` first"
            is_new = " IN" not in best[0].usage
            return f"{one}, or add it: {FIELDS[path].meaning}" if is_new and path in FIELDS else one
        names = [each.name for each in best]
        which = (
            f"NAME is {' or '.join(names)}"
            if len(names) <= MOST
            else f"`apportion list {best[0].plural}` has the names"
        )
        return f"run `{best[0].usage.format(name='NAME')}` first; {which}"
    if always:
        command = always[0]
        return f"run `apportion {command.name}{'' if command.name == 'sample' else ' IN'} -o OUT` first"
    return f"add it: {FIELDS[path].meaning}" if path in FIELDS else "add it; no command of apportion makes it"


def missing_column(path: str, who: str, way_around: str = "") -> str:
    """What to say of a column that `who` needs and that is not there. way_around: a setting that does without, name=value."""
    otherwise = f", or --set {way_around}" if way_around else ""
    return f"no column {path!r}, which {who} needs; {remedy(path)}{otherwise}"


def check_needs(entry: Entry, paths: Iterable[str], options: Mapping[str, Any]) -> None:
    """DataError for the first column that the entry needs with these options and that is not among `paths`."""
    for path in lacking(paths, entry.needs_for(options)):
        raise DataError(missing_column(path, entry.name, entry.ways_around(options)[path]))


def _rank(maker: Maker) -> tuple[bool, int]:
    return " IN" not in maker.usage, maker.columns

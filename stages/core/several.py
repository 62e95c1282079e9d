"""One option that names several entries, and which settings go to which of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ...formats.errors import UsageError, unknown
from .kinds import Entry, Kind
from .options import takes_others

E = TypeVar("E", bound=Entry)
Several = str | list[str]
"""The type of an option that names one entry or several: `a,b`, or a list of names."""


@dataclass(frozen=True)
class Settled(Generic[E]):
    """An entry that was named, with its options, all of them."""

    name: str
    entry: E
    options: dict[str, Any]


def names_in(given: Several, flag: str) -> list[str]:
    """The names of `a,b`, of ["a", "b"], or of both. UsageError for an empty name, and for one given twice.

    >>> names_in("grpo, rloo", "--method"), names_in(["verify"], "--with")
    (['grpo', 'rloo'], ['verify'])
    """
    texts = [given] if isinstance(given, str) else given
    names = [name.strip() for text in texts for name in text.split(",")]
    if not all(names) or not names:
        raise UsageError(f"{flag} {','.join(texts)!r:.200}: a name in it is empty; separate names by single commas")
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"{flag} names {name!r:.200} twice; name each once")
    return names


def one_or_more(names: Sequence[str]) -> Several:
    """As it is recorded and planned: a text where there is one, as in the files of earlier versions.

    >>> one_or_more(["grpo"]), one_or_more(["grpo", "rloo"])
    ('grpo', ['grpo', 'rloo'])
    """
    return names[0] if len(names) == 1 else list(names)


def short_name(name: str) -> str:
    """What a setting is addressed by: the entry's name, of FILE.py:NAME the function's.

    >>> short_name("tempo"), short_name("rewards.py:brevity")
    ('tempo', 'brevity')
    """
    return name.rpartition(":")[2]


def settle_each(
    kind: Kind[E], names: Sequence[str], given: Mapping[str, Any] | None, preset: str | None = None
) -> list[Settled[E]]:
    """Each entry with its options. `NAME.option` is the setting of one entry; `option` is that of every entry, which all have to
    have. A preset is taken by the entries that have it.

    UsageError as of `Kind.settle`; for a setting that cannot be told to belong to one; for a preset that none has.
    """
    entries = {name: kind[name] for name in names}
    own = _shares(kind, entries, given or {})
    if len(names) > 1 and preset is not None and not any(preset in entry.presets for entry in entries.values()):
        known = sorted({each for entry in entries.values() for each in entry.presets})
        if not known:
            raise UsageError(f"--preset {preset}: {', '.join(names)} have no presets")
        raise unknown(f"preset of {', '.join(names)}", preset, known)
    return [
        Settled(
            name, entry, kind.settle(name, own[name], preset if len(names) == 1 or preset in entry.presets else None)
        )
        for name, entry in entries.items()
    ]


def _shares(kind: Kind[E], entries: Mapping[str, E], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{name: the settings that are its own}; those that name an entry count before those for all."""
    shares: dict[str, dict[str, Any]] = {name: {} for name in entries}
    for setting, value in given.items():
        if _addressed(entries, setting):
            continue
        if len(entries) > 1:
            _check_common(kind, entries, setting)
        for share in shares.values():
            share[setting] = value
    for setting, value in given.items():
        addressed = _addressed(entries, setting)
        if len(addressed) > 1:
            names = " and ".join(name for name, _ in addressed)
            raise UsageError(
                f"--set {setting}: {names} are addressed alike; score with one of them in a command of its own"
            )
        for name, option in addressed:
            shares[name][option] = value
    return shares


def _addressed(entries: Mapping[str, E], setting: str) -> list[tuple[str, str]]:
    """(name, option) of the entries that the setting names."""
    return [
        (name, setting.removeprefix(f"{address}."))
        for name in entries
        for address in dict.fromkeys((name, short_name(name)))
        if setting.startswith(f"{address}.")
    ]


def _check_common(kind: Kind[E], entries: Mapping[str, E], setting: str) -> None:
    """UsageError unless every entry has the option."""
    having = [name for name, entry in entries.items() if setting in entry.options or takes_others(entry.function)]
    if len(having) == len(entries):
        return
    address, dot, _ = setting.partition(".")
    if dot:
        raise UsageError(f"--set {setting}: {unknown(kind.noun, address, map(short_name, entries))}")
    if not having:
        known = {option for entry in entries.values() for option in entry.options}
        together = ", ".join(entries)
        raise UsageError(f"--set {setting}: {unknown(f'option of {together}', setting, known)}")
    lacking = [name for name in entries if name not in having]
    raise UsageError(
        f"--set {setting}: {', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} no such option; "
        f"address one: --set {short_name(having[0])}.{setting}=…"
    )


def dotted(settled: Sequence[Settled[Any]]) -> dict[str, Any]:
    """The options as they are recorded: by name, and of several entries as NAME.option."""
    if len(settled) == 1:
        return dict(settled[0].options)
    return {f"{short_name(each.name)}.{option}": value for each in settled for option, value in each.options.items()}


def who_needs(needs: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Of {name: {column: way around}}: ({column: way around}, {column: who needs it, as a message says}).

    >>> who_needs({"a": {"reward": ""}, "b": {"reward": "", "node.id": ""}})[1]
    {'reward': 'each of a and b', 'node.id': 'b'}
    """
    ways: dict[str, str] = {}
    names: dict[str, list[str]] = {}
    for name, paths in needs.items():
        for path, way in paths.items():
            ways.setdefault(path, f"{short_name(name)}.{way}" if way and len(needs) > 1 else way)
            names.setdefault(path, []).append(name)
    who = {path: each[0] if len(each) == 1 else f"each of {' and '.join(each)}" for path, each in names.items()}
    return ways, who

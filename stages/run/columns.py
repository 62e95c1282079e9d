"""Whether each step of a plan will find the columns it needs, as far as that can be known before anything runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ...formats.errors import ApportionError, UsageError
from ...formats.invariants import lacking
from ...formats.schema import credit_name
from ..core.kinds import Entry
from ..core.remedies import missing_column
from ..core.several import short_name
from ..sample.kind import PLAYED, Strategy
from ..tasks import family_of
from .plan import Planned

OF_COLUMNS = (
    "methods",
    "scorers",
    "strategies",
    "memories",
    "objectives",
)  # kinds whose needs are columns, or that make some
KEPT = ("filter", "upgrade", "merge")  # commands whose output has the columns of their inputs


def check_columns(plan: Sequence[Planned]) -> None:
    """UsageError for the first step that needs a column which neither its input nor any step before it has or makes.

    It stays silent where that cannot be known: about a file that is not there yet and that no step writes, and about what
    comes from an entry that does not say what it makes.
    """
    made: dict[str, frozenset[str] | None] = {}  # output -> its columns, None where they are not known
    files: dict[str, frozenset[str] | None] = {}
    for step in plan:
        read = _columns_read(step, made, files)
        chosen = [each for each in step.chosen if each.kind.plural in OF_COLUMNS]
        if read is not None:
            found = set(read)
            for _, entry, options in chosen:
                needs = _needs(step, entry.needs_for(options))
                for path in lacking(found, [path for path in needs if _is_column(path)]):
                    lacks = missing_column(path, entry.name, entry.ways_around(options).get(path, ""))
                    raise UsageError(f"{step.where}: no step before it makes column{lacks.removeprefix('no column')}")
                if step.command.name == "score":  # the next scorer reads what this one made
                    found.update(entry.columns)
        for out in step.outputs.values():
            made[out] = _columns_made(step, [each.entry for each in chosen], read)


def _is_column(path: str) -> bool:
    return not path.startswith(("--", "task."))


def _needs(step: Planned, needs: Iterable[str]) -> Iterator[str]:
    """What an entry reads; of an objective, the credit that the step names, and no log-probabilities that it computes."""
    credit, recomputed = step.options.get("credit"), step.options.get("old_logprobs") == "recompute"
    for path in needs:
        if path == "token.advantage" and isinstance(credit, str):
            yield f"token.{credit_name(credit.removeprefix('token.'))}"
        elif not (path == "token.logprob" and recomputed):
            yield path


def _columns_read(
    step: Planned, made: Mapping[str, frozenset[str] | None], files: dict[str, frozenset[str] | None]
) -> frozenset[str] | None:
    """The columns of the rollouts that the step reads, of several files those that any has."""
    source = step.options.get("rollouts", step.options.get("from"))
    if source is None:
        return frozenset() if step.command.name == "sample" else None
    found: set[str] = set()
    for place in map(str, source if isinstance(source, list) else [source]):
        if place not in made and place not in files:
            files[place] = _columns_of(Path(place))
        columns = made[place] if place in made else files[place]
        if columns is None:
            return None
        found |= columns
    return frozenset(found)


def _may_be_played(spec: str) -> bool:
    family = family_of(spec)
    return family is None or family.played is not False


def _columns_of(path: Path) -> frozenset[str] | None:
    from ...formats.parquet import RolloutFile
    from ...formats.schema import paths_of

    try:
        return frozenset(paths_of(RolloutFile(path).schema)) if path.is_file() else None
    except (ApportionError, OSError):
        return None


def _columns_made(step: Planned, chosen: Sequence[Entry], read: frozenset[str] | None) -> frozenset[str] | None:
    """The columns of what the step writes: those it read and those it may make."""
    if read is None or step.command.name not in ("sample", "tree-build", "score", "assign-credit", *KEPT):
        return None
    if any(not entry.makes and not entry.function.__module__.startswith("apportion.stages.") for entry in chosen):
        return None  # a plugin that does not say
    if any(isinstance(entry, Strategy) and entry.turns for entry in chosen) and _may_be_played(step.options["task"]):
        read = read | set(PLAYED)
    columns = {path for entry in chosen for path in entry.columns}
    if isinstance(step.options.get("method"), list):
        columns = {f"token.{credit_name(short_name(name))}" for name in step.options["method"]}
    elif step.options.get("as"):
        columns.add(f"token.{credit_name(step.options['as'])}")
    for setting, value in (step.options.get("set") or {}).items():
        if setting == "column" or setting.endswith(".column"):
            columns.add(str(value))
    return read | columns | set(step.command.makes)

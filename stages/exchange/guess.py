"""Which files an import reads, and which importer takes them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...formats.errors import DataError, UsageError
from .kind import IMPORTERS, Importer
from .source import Source

ENDINGS = (".jsonl", ".json", ".parquet", ".pt", ".sqlite")
_PICKLED = {".pkl": "a pickle", ".pickle": "a pickle", ".dp": "a pickled DataProto of verl"}


def sources_in(paths: Sequence[Path], format: str | None) -> list[Source]:
    """The files named, and those in the directories named that an importer recognises. UsageError for what is not there."""
    found: list[Source] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file")
        if not path.is_dir():
            found.append(Source(path))
            continue
        inside = [each for each in sorted(path.rglob("*")) if each.suffix in ENDINGS and each.is_file()]
        taken = [source for each in inside if _takers(source := Source(each, str(each.relative_to(path))), format)]
        if not taken:
            raise DataError(f"{path}: no file in it that an importer takes; see `apportion list importers`")
        found += taken
    _tell_apart(found)
    return found


def _tell_apart(sources: Sequence[Source]) -> None:
    """Number the labels that several files have: importers make names of them."""
    used: Counter[str] = Counter()
    for source in sources:
        used[source.label] += 1
        if used[source.label] > 1:
            source.label = f"{source.label}#{used[source.label]}"


def importer_for(sources: Sequence[Source], format: str | None) -> Importer:
    """The importer of all the files. DataError for one that none takes, and for files of several formats."""
    for source in sources:
        if kind := _PICKLED.get(source.path.suffix):
            raise DataError(
                f"{source.path}: {kind}, which runs code when it is read, so it is not; write the rollouts in the trainer instead "
                "(docs/trainers.md)"
            )
    if format is not None:
        return IMPORTERS[format]
    chosen: Importer | None = None
    for source in sources:
        takers = _takers(source, None)
        if not takers:
            raise DataError(
                f"{source.path}: no importer knows this; name one with --format (`apportion list importers`)"
            )
        if chosen is None:
            chosen = takers[0]
        elif takers[0] is not chosen:
            raise DataError(
                f"{source.path}: looks like {takers[0].name}, and {sources[0].path} like {chosen.name}; import them apart, or "
                "name one with --format"
            )
    if chosen is None:
        raise UsageError("no files to import")
    return chosen


def importer_of(path: Path) -> str | None:
    """The name of the importer that takes a file; None where none does."""
    takers = _takers(Source(path), None) if path.suffix in ENDINGS else []
    return takers[0].name if takers else None


def _takers(source: Source, format: str | None) -> list[Importer]:
    """The importers that recognise a file, those of narrower formats first."""
    known = (
        [IMPORTERS[format]]
        if format is not None
        else sorted(IMPORTERS, key=lambda each: (each.general, not each.exact))
    )
    return [each for each in known if each.recognises(source)]

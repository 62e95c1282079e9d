"""Do two files say the same? A digest of their content, whatever way it is stored."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import Names

if TYPE_CHECKING:
    from ...formats.parquet import RolloutFile


@dataclass(frozen=True)
class Content:
    """One file's or directory's digest, and that of each of its columns."""

    path: str
    digest: str
    rollouts: int
    columns: dict[str, str]


@dataclass(frozen=True)
class Digests:
    """In the order of the arguments."""

    contents: list[Content]

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(content) for content in self.contents]

    def render(self) -> None:
        for content in self.contents:
            print(f"{content.digest}  {content.path}")


def digest(
    paths: Annotated[list[Path], "Rollout files, or directories of them, each of which counts as one file."],
    *,
    columns: Annotated[
        list[str] | None, "Only this column, or all of this ruler; repeatable.", Names(("-c", "--columns"))
    ] = None,
) -> Digests:
    """Print a digest of each file's content: equal where column names and values are, however they are stored.

    Row groups, compression, encodings, widths of numbers, history and the order of columns do not count; the order of
    rows does. --json adds the digest of every column, to see which one differs. A defective file has a digest too, so
    that a copy of it can be told to be whole: nothing is checked here, but by `apportion validate`.
    """
    return Digests([_content(path, columns) for path in paths])


def _content(path: Path, columns: list[str] | None) -> Content:
    from ...formats.content import ContentDigest
    from ...formats.errors import DataError
    from ...formats.parquet import RolloutFile, files_of
    from ...formats.schema import paths_of
    from ..core.progress import track

    files = [RolloutFile(each) for each in files_of(path)]
    wanted = _choose_columns(files[0], columns)
    result = ContentDigest(wanted)
    for file in files:
        found = paths_of(file.schema)
        if (columns is None and set(found) != set(wanted)) or not set(wanted) <= set(found):
            differs = sorted(set(found) ^ set(wanted) if columns is None else set(wanted) - set(found))
            raise DataError(f"{file.path}: other columns than {files[0].path} has ({', '.join(differs)})")
        for batch in track(file.row_groups(wanted), total=file.num_row_groups, what="digest"):
            try:
                result.update(batch)
            except DataError as error:
                raise DataError(f"{file.path}: {error}") from error
    return Content(str(path), result.hexdigest(), result.rollouts, result.columns())


def _choose_columns(file: "RolloutFile", columns: list[str] | None) -> list[str]:
    """The paths that --columns names; a ruler or another struct stands for all that is in it."""
    from ...formats.errors import unknown
    from ...formats.schema import paths_of

    found = paths_of(file.schema)
    if columns is None:
        return found
    chosen: list[str] = []
    for name in columns:
        named = [path for path in found if path == name or path.startswith(f"{name}.")]
        if not named:
            raise unknown("column", name, found)
        chosen += named
    return list(dict.fromkeys(chosen))

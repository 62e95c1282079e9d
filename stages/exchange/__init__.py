"""Rollouts of other systems in, credit out: `import` and `export`. One file per format, in formats/ what trainers write of
rollouts and in datasets/ what is made to train on."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..core.options import OUT, Chooses, Names, check_numbers
from ..core.ranges import AtLeast

if TYPE_CHECKING:
    from ._export import Exported
    from ._import import Imported


@check_numbers
def import_rollouts(
    paths: Annotated[list[Path], "Files of another system, or directories that hold them."],
    *,
    format: Annotated[
        str | None,
        "What the files are; see `apportion list importers`. Told from the files if left out.",
        Chooses("importers"),
    ] = None,
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the importer, name=value; repeatable.", Names(("--set",))
    ] = None,
    map: Annotated[
        list[str] | None, "Own name of a field, ours=theirs, for texts; repeatable. The same as --set map=ours=theirs."
    ] = None,
    tokenizer: Annotated[
        str | None,
        "Model whose tokenizer makes token ids of texts, or texts of token ids; without it, each character of a text is a token.",
    ] = None,
    group_size: Annotated[
        int | None, "Rows of each group, which follow each other, where the files name no groups.", AtLeast(1)
    ] = None,
    group_by: Annotated[str | None, "Field that the rows of a group share (a.b for b inside a), or prompt."] = None,
    lenient: Annotated[
        bool,
        "Flag rows that break a rule error, and count records that cannot be read, instead of stopping at the first.",
    ] = False,
    dry_run: Annotated[bool, "Print the format, the columns it fills and what is lost, and write nothing."] = False,
    out: Annotated[Path | None, "Rollout file to write.", OUT] = None,
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Imported":
    """Read other systems' rollouts into a rollout file.

    Token ids are taken over as they are, and never made again. The trainer's own advantages go to `token.advantage_NAME`, so that
    `diff` compares them with a credit method. A format that holds only texts gives a file that every command takes but `train`.
    """
    from ._import import import_files

    if map:
        settings = {**(settings or {}), "map": ",".join(map)}
    return import_files(
        paths, format=format, settings=settings, tokenizer=tokenizer, group_size=group_size, group_by=group_by,
        lenient=lenient, dry_run=dry_run, out=out, force=force,
    )  # fmt: skip


def export_credit(
    rollouts: Annotated[Path, "Rollout file or directory, or - for standard input."],
    *,
    format: Annotated[str, "Format of the output; see `apportion list exporters`.", Chooses("exporters")],
    settings: Annotated[
        Mapping[str, Any] | None, "Option of the exporter, name=value; repeatable.", Names(("--set",))
    ] = None,
    out: Annotated[Path, "File to write.", OUT],
    force: Annotated[bool, "Overwrite the output."] = False,
) -> "Exported":
    """Write rollouts and their credit in another system's format."""
    from ._export import export_file

    return export_file(rollouts, format=format, settings=settings, out=out, force=force)

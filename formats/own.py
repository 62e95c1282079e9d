"""Which directories `--force` may replace: those in which every file is of one command of apportion."""

import json
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import DataError

if TYPE_CHECKING:
    from .provenance import Provenance

CHECKPOINT_HISTORY = "apportion.json"
# Of checkpoints that list none, which earlier versions wrote.
_CHECKPOINT = (
    CHECKPOINT_HISTORY, "metrics.jsonl", "optimizer.safetensors", "config.json", "generation_config.json",
    "model*.safetensors", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja",
    "tokenizer.model", "spiece.model",
)  # fmt: skip


def files_in(directory: Path) -> list[str]:
    """The names of all files in a directory and below it, sorted; a link is a file, whatever it names."""
    return sorted(
        Path(folder, name).relative_to(directory).as_posix()
        for folder, folders, names in os.walk(directory)
        for name in (*names, *(each for each in folders if os.path.islink(os.path.join(folder, each))))
    )


def with_files(provenance: "Provenance", files: Sequence[str]) -> str:
    """A checkpoint's history as JSON, with the list of all the files that `train` wrote beside it."""
    return json.dumps({**json.loads(provenance.to_json()), "files": sorted(files)}, sort_keys=True)


def why_kept(directory: Path) -> str | None:
    """Why `--force` does not replace a directory; None where it does: an empty one, a checkpoint of `train`, or rollout
    files that one command wrote, with nothing else in it."""
    here = Path.cwd()
    if directory in (here, *here.parents):
        return "the working directory is in it"
    foreign = _foreign(directory)
    return None if foreign is None else f"it holds {foreign!r}, which the command that made it did not write"


def _foreign(directory: Path) -> str | None:
    """A name in the directory that the command which made the others did not write; None without any."""
    if (directory / CHECKPOINT_HISTORY).is_file():
        return _not_of_checkpoint(directory)
    made_by = None
    for name in sorted(os.listdir(directory)):
        stage = _stage_of(directory / name)
        if stage is None or made_by not in (None, stage):
            return name
        made_by = stage
    return None


def _not_of_checkpoint(directory: Path) -> str | None:
    from .provenance import Provenance

    try:
        text = (directory / CHECKPOINT_HISTORY).read_bytes()
        Provenance.from_json(text)
    except (DataError, OSError):
        return CHECKPOINT_HISTORY
    listed = json.loads(text).get("files")
    if not isinstance(listed, list):
        listed = [name for name in files_in(directory) if any(fnmatchcase(name, known) for known in _CHECKPOINT)]
    return next((name for name in files_in(directory) if name not in listed), None)


def _stage_of(path: Path) -> tuple[str, str] | None:
    """Stage and version that wrote a rollout file; None for anything else."""
    if path.suffix != ".parquet" or path.is_symlink() or not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .provenance import Provenance

    try:
        history = Provenance.from_metadata(pq.read_metadata(path).metadata).history
    except (pa.ArrowException, OSError, DataError, UnicodeDecodeError):
        return None
    return (history[-1].stage, history[-1].version) if history else None

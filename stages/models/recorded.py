"""The model that sampled a file, according to its history."""

from pathlib import Path

from ...formats.errors import UsageError
from ...formats.parquet import STREAM, RolloutFile, files_of
from .policy import check_recorded

RECORDED = "recorded"


def recorded_model(path: Path, who: str) -> str:
    """`--model` of the latest `sample` in the file's history (of a directory's first file). UsageError if there is none,
    if the model is not on this machine or has code of its own, and for standard input, which can be read only once."""
    remedy = f"{who} needs a model; name it with --set model=MODEL"
    if path == STREAM:
        raise UsageError(f"-: standard input has no history until its rollouts are read; {remedy}")
    history = RolloutFile(files_of(path)[0]).provenance.history
    models = [
        record.parameters["model"] for record in history if record.stage == "sample" and "model" in record.parameters
    ]
    if not models:
        raise UsageError(f"{path}: its history names no model; {remedy}")
    try:
        check_recorded(str(models[-1]))
    except UsageError as error:
        raise UsageError(f"{path}: {error}; {remedy}") from error
    return str(models[-1])

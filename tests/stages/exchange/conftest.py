"""What the tests of training data share: records in, records out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import Result

Cli = Callable[..., Result]


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def on_one_line(text: str) -> str:
    return " ".join(text.split())


def imported(cli: Cli, path: Path, records: list[Any], *options: object) -> Path:
    """The records as a rollout file that is valid."""
    out = path.with_suffix(".parquet")
    done = cli("import", write_lines(path, records), *options, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert cli("validate", out, "--ignore", "singleton").exit_code == 0
    return out


def exported(cli: Cli, source: Path, format: str, **settings: object) -> list[Any]:
    out = source.parent / f"{format}.jsonl"
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    done = cli("export", source, "--format", format, *words, "-o", out, "--force")
    assert done.exit_code == 0, done.stderr
    return read_lines(out)

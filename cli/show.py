"""How a stage's result is printed."""

import json
import sys
from dataclasses import asdict, is_dataclass
from typing import Any

import typer

from ..stages.core.harmless import harmless_json


def show(result: Any, as_json: bool) -> None:
    """JSON to standard output when asked; else what the result renders itself."""
    if result is None:
        return
    if as_json:
        content = result.to_json() if hasattr(result, "to_json") else asdict(result) if is_dataclass(result) else result  # type: ignore[arg-type]
        stream = sys.stderr if getattr(result, "out", None) == "-" else sys.stdout
        typer.echo(harmless_json(json.dumps(content, indent=2, default=str)), file=stream)
    elif hasattr(result, "render"):
        result.render()
    fault = getattr(result, "fault", lambda: None)()
    if fault is not None:
        raise fault

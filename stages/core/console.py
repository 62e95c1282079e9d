"""A terminal for what stands in files: their words are neither markup nor commands to the terminal."""

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from .harmless import harmless


class WordsConsole(Console):
    """A console that prints words as they are, and pictures of characters that would do something."""

    def __init__(self, *, stderr: bool = False, **options: Any):
        stream = sys.stderr if stderr else sys.stdout
        options.setdefault("file", getattr(stream, "styled", stream))
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=harmless(segment.text))

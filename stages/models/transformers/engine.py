"""Registers the transformers engine; the engine itself is in _engine.py, which needs torch."""

from typing import TYPE_CHECKING

from ..kind import engine
from ..policy import ModelSource

if TYPE_CHECKING:
    from ._engine import TransformersEngine


@engine("transformers", needs=("torch", "transformers"))
def _open(source: ModelSource, seed: int) -> "TransformersEngine":
    """A transformers model in this process, on CPU or CUDA."""
    from ._engine import TransformersEngine

    return TransformersEngine(source.load())

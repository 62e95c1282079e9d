"""Policies and the engines that sample from them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .kind import ENGINES

if TYPE_CHECKING:
    from .engine import Engine
    from .policy import ModelSource


def resolve_engine(name: str) -> str:
    """The engine that `name` stands for: `auto` is vllm if it is installed and there is a GPU, else transformers."""
    if name != "auto":
        return name
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"


def open_engine(
    name: str, source: "ModelSource", *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> "Engine":
    """The engine of that name (see `resolve_engine`) for a policy. UsageError for an unknown option.

    Opening it and sampling from it raise only ApportionErrors.
    """
    from ._guard import Guarded, engine_faults

    entry = ENGINES[resolve_engine(name)]
    settings = ENGINES.settle(entry.name, options)
    with engine_faults(entry.name, "could not be opened"):
        return Guarded(entry.function(source, seed, **settings))


def close_engines() -> None:
    """Free the memory that engines hold in addition to the loaded policies."""
    for entry in ENGINES:
        if entry.close is not None:
            entry.close()

"""A real tokenizer under chat templates of several kinds, written for these tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apportion.stages.models.tiny.blank import blank_tokenizer

TEMPLATES = Path(__file__).parent / "templates"
MARKS = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
    "[TOOL_CALLS]", "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
]  # fmt: skip
ENDS = {"llama": "<|eot_id|>", "mistral": "<eos>", "mistral-args": "<eos>", "tiny": "<eos>"}


@pytest.fixture
def tokenizer_with() -> Callable[[str | None], Any]:
    """tokenizer_with("hermes") → the tokenizer of builtin:tiny with special tokens and templates/hermes.jinja."""

    def make(name: str | None) -> Any:
        tokenizer = blank_tokenizer()
        if name == "tiny":
            return tokenizer
        tokenizer.add_special_tokens({"additional_special_tokens": ["<answer>", *MARKS]})
        tokenizer.chat_template = None
        if name is not None:
            tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n")
            tokenizer.eos_token = ENDS.get(name, "<|im_end|>")
        return tokenizer

    return make

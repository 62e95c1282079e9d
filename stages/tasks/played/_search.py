"""Search a corpus of texts with BM25 (bm25s). The index is built once and kept for the process."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ....formats.errors import DataError, UsageError
from ..file import TABLES, rows_of
from . import import_optional
from .tools import ToolBox

TOKEN = r"(?u)\b\w+\b"  # bm25s would drop words of one letter, and with them the 8 of "Apollo 8"
MAX_QUERY = 1_000

TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "The passages of a collection of texts that fit a query best.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "A few words."}},
            "required": ["query"],
        },
    },
}


class Index:
    """A search index of texts with ids. DataError if the texts have no words."""

    def __init__(self, ids: list[str], texts: list[str]):
        bm25s = import_optional("bm25s", "tool/search")
        self._words = lambda texts: bm25s.tokenize(
            texts, token_pattern=TOKEN, stopwords="en", return_ids=False, show_progress=False
        )
        self._found = bm25s.BM25(method="lucene")
        words = self._words(texts)
        if not any(words):
            raise DataError("its texts have no words to search")
        self._found.index(words, show_progress=False)
        self.ids, self.texts = ids, texts

    def best(self, query: str, count: int) -> list[int]:
        """Up to `count` texts that contain a word of the query, the best first; ties keep the order of the corpus."""
        words = [word for word in self._words([query[:MAX_QUERY]])[0] if word in self._found.vocab_dict]
        if not words:
            return []
        scores = np.asarray(self._found.get_scores(words))
        order = np.argsort(-scores, kind="stable")[:count]
        return [int(each) for each in order if scores[each] > 0]


def read_corpus(path: Path) -> tuple[list[str], list[str]]:
    """Ids and texts of a file with the columns `id` and `text`; without `id`, the id is the row's number from 0.

    UsageError if the file does not exist, DataError if a row has no text.
    """
    if path.suffix.lower() not in TABLES:
        raise UsageError(f"corpus {path}: the file must end in {', '.join(TABLES)}")
    ids: list[str] = []
    texts: list[str] = []
    try:
        for row in rows_of(path):
            text = row.get("text")
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{path}: row {len(ids)}, column 'text': must be a text, got {text!r:.40}")
            name = row.get("id")
            ids.append(str(len(ids) if name is None else name))
            texts.append(text)
    except UsageError as error:
        raise UsageError(f"corpus {error}") from error
    except DataError as error:
        raise DataError(f"corpus {error}") from error
    if not ids:
        raise DataError(f"corpus {path}: it has no rows")
    return ids, texts


@lru_cache(maxsize=4)
def _index(path: str, stamp: int) -> Index:
    ids, texts = read_corpus(Path(path))
    try:
        return Index(ids, texts)
    except DataError as error:
        raise DataError(f"corpus {path}: {error}") from error


def open_index(path: Path) -> Index:
    """The file's index, built on first use, and again when the file has changed."""
    return _index(str(path), path.stat().st_mtime_ns if path.is_file() else 0)


def search_box(path: Path, results: int, characters: int) -> ToolBox:
    """The search tool for a corpus, which shows `results` passages of up to `characters` characters."""

    def search(arguments: Mapping[str, Any]) -> str:
        query = arguments.get("query")
        if not isinstance(query, str) or not query.strip():
            raise ValueError("search needs the argument 'query', a text")
        index = open_index(path)
        found = index.best(query, results)
        shown = [f"[{index.ids[each]}] {index.texts[each][:characters]}" for each in found]
        return "\n".join(shown) or "nothing found"

    open_index(path)
    return ToolBox((TOOL,), {"search": search}, kind="search")

"""The page that `inspect --html` writes: one file with everything in it, for a browser without a network.

Numbers lie in one deflated block (base64) with a directory, texts in JSON; page.js draws from these, and makes every
element from text nodes, so that no token can become markup. The page's own policy allows its script and its style, by
their digests, and nothing else: no request leaves it, and no script in the data would run.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...formats.files import whole_file
from ...formats.invariants import is_credit
from ...formats.parquet import RolloutFile
from ...formats.ragged import Ragged
from ...formats.rollouts import Rollouts
from ...formats.schema import FIELDS
from ...formats.segments import Array
from .branches import FORKS_SHOWN, deciding_forks
from .statistics import QUANTILES, FileStatistics, on_tokens, signals_of

Texts = Callable[[Sequence[int]], list[str]]  # the text of each of a response's tokens

ROLLOUTS_SHOWN, TOKENS_SHOWN = 200, 2_000_000
LONGEST_WORD = 200  # characters of a step's state
_HERE = Path(__file__).parent
_KINDS = {"float32": "f4", "float64": "f8", "int32": "i4", "uint32": "u4", "uint16": "u2", "uint8": "u1"}


def write_page(
    out: Path, file: RolloutFile, shown: Rollouts, *, statistics: FileStatistics, signal: str | None,
    texts: Texts, force: bool = False,
) -> None:  # fmt: skip
    """Write `shown`, whole groups of `file`, with the statistics of all of it."""
    arrays = _Arrays()
    content = _content(arrays, file, shown, statistics, signal, texts)
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    parts = {
        "title": escape(f"{file.path.name} · apportion"),
        "style_digest": _digest(style), "script_digest": _digest(script),
        "style": style, "script": script, "content": safe_json(content), "arrays": arrays.base64(),
    }  # fmt: skip
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
    with whole_file(out, force=force) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def room_on_the_page(chosen: tuple[int, int, int], group: tuple[int, int]) -> bool:
    """Up to ROLLOUTS_SHOWN rollouts and TOKENS_SHOWN tokens in whole groups; one group at least. See `Choice`."""
    groups, rollouts, tokens = chosen
    return not groups or (rollouts + group[0] <= ROLLOUTS_SHOWN and tokens + group[1] <= TOKENS_SHOWN)


def safe_json(content: Any) -> str:
    """JSON in ASCII that no HTML parser ends early: `<`, `>` and `&` are written as escapes.

    >>> safe_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", text)


class _Arrays:
    """Numbers of the page, one after another. directory: {name: [kind, first byte, length]}."""

    def __init__(self) -> None:
        self.directory: dict[str, tuple[str, int, int]] = {}
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, values: Array) -> None:
        raw = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        self.directory[name] = (_KINDS[values.dtype.name], self._size, len(values))
        raw += bytes(-len(raw) % 8)  # a typed array begins at a multiple of its item's size
        self._parts.append(raw)
        self._size += len(raw)

    def base64(self) -> str:
        return base64.b64encode(zlib.compress(b"".join(self._parts), 6)).decode()


def _content(
    arrays: _Arrays, file: RolloutFile, shown: Rollouts, statistics: FileStatistics, signal: str | None,
    texts: Texts,
) -> dict[str, Any]:  # fmt: skip
    """Everything but the numbers, which go into `arrays`."""
    ids, words, codes = _vocabulary(shown, texts)
    arrays.add("groups", shown.groups.offsets.astype(np.int32))
    arrays.add("offsets", shown.tokens.offsets.astype(np.int32))
    arrays.add("vocabulary", np.array(ids, np.int32))
    arrays.add("tokens", codes.astype(np.uint16 if len(ids) <= 1 << 16 else np.uint32))
    arrays.add("mask", shown.mask.astype(np.uint8))
    described = {each.column: each for each in statistics.signals}
    signals = []
    for path in signals_of(shown.table.schema):
        arrays.add(path, _float32(on_tokens(shown, path)))
        lowest, highest = described[path].quantiles[0], described[path].quantiles[-1]
        most, largest = described[path].magnitudes[-2:]
        known = FIELDS.get(path)
        facts = {
            "path": path, "credit": is_credit(path), "diverging": is_credit(path) or lowest < 0 < highest,
            "scale": most or largest, "meaning": known.meaning if known else "", "unit": known.unit if known else "",
        }  # fmt: skip
        signals.append(facts)
    heads = shown.take(shown.groups.starts)
    return {
        "file": file.path.name,
        "history": [
            {"stage": each.stage, "version": each.version, "counts": dict(each.counts),
             "parameters": {name: _jsonable(value) for name, value in each.parameters.items()}}
            for each in file.provenance.history
        ],
        "statistics": asdict(statistics), "quantiles": QUANTILES, "signals": signals, "signal": signal,
        "shown": {"rollouts": len(shown), "groups": len(shown.groups), "tokens": shown.num_tokens},
        "texts": words, "only_ids": words == [f"{token} " for token in ids],
        "groups": [
            {"id": name, "prompt": prompt, "reference": reference, "task": task, "forks": forks}
            for name, prompt, reference, task, forks in zip(
                heads.strings("group_id"), _prompts(heads, texts), _strings(heads, "reference"),
                _strings(heads, "task"), _forks(shown), strict=True,
            )
        ],
        "rollouts": _rollouts(shown),
        "rulers": {name: _ruler(arrays, shown, name) for name in ("step", "node") if f"{name}.start" in shown},
        "arrays": arrays.directory,
    }  # fmt: skip


def _vocabulary(shown: Rollouts, texts: Texts) -> tuple[list[int], list[str], Array]:
    """(token ids [V], their texts [V], which of them each token is [T]). A token that reads otherwise in another context is
    there twice."""
    places: dict[tuple[int, str], int] = {}
    codes = np.empty(shown.num_tokens, np.int64)
    for row, start in enumerate(shown.tokens.starts.tolist()):
        ids = shown.token_ids[row].tolist()
        for place, key in enumerate(zip(ids, texts(ids), strict=True), start):
            codes[place] = places.setdefault(key, len(places))
    return [token for token, _ in places], [text for _, text in places], codes


def _forks(shown: Rollouts) -> Iterator[dict[str, Any]]:
    """Of every group, the first forks that decided its reward, with the nodes after each, the best first, and how many more
    there are; none where a reward or a path is missing."""
    usable = np.zeros(len(shown), bool)
    if "node.id" in shown and "reward" in shown:
        usable = np.isfinite(shown.numbers("reward").astype(np.float64))
        present = shown.ragged("node.id").present
        usable &= True if present is None else present
    for start, end in pairwise(shown.groups.offsets.tolist()):
        batch = shown.slice(start, end)
        forks = deciding_forks(batch) if usable[start:end].all() else []
        first = [
            {"decided": fork.decided, "nodes": [branch.node for branch in fork.best_first(batch)]}
            for fork in forks[:FORKS_SHOWN]
        ]
        yield {"first": first, "more": len(forks) - len(first)}


def _rollouts(shown: Rollouts) -> dict[str, list[Any]]:
    """The columns of the rollout ruler that a card's head shows."""
    found: dict[str, list[Any]] = {
        name: _strings(shown, name) for name in ("rollout_id", "finish_reason", "flags", "parent_id", "fork")
    }
    for path in shown.paths:
        if path in ("reward", "weight") or path.startswith("rewards."):
            column = shown.arrow(path)
            if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
                found[path] = [_finite(value) for value in column.to_pylist()]
    return found


def _strings(rollouts: Rollouts, path: str) -> list[Any]:
    return rollouts.strings(path) if path in rollouts else [None] * len(rollouts)


def _prompts(heads: Rollouts, texts: Texts) -> Iterator[list[tuple[str, str]]]:
    """The first rollout's messages (role, content) of every group; else what its prompt ids say."""
    messages = _strings(heads, "prompt")
    ids = heads.ragged("prompt_ids") if "prompt_ids" in heads else None
    for row, said in enumerate(messages):
        if said:
            yield [(message["role"] or "", message["content"] or "") for message in said]
        elif ids is not None and len(ids[row]):
            yield [("prompt", "".join(texts(ids[row].tolist())))]
        else:
            yield []


def _ruler(arrays: _Arrays, shown: Rollouts, name: str) -> dict[str, Any]:
    """A ruler of spans: offsets, starts and ends, its other numbers, and its words as codes into a list."""
    axis = shown.ragged(f"{name}.start")
    arrays.add(f"{name}.offsets", axis.offsets.astype(np.int32))
    numbers: list[str] = []
    words: dict[str, list[str]] = {}
    for path in (path for path in shown.paths if path.startswith(f"{name}.")):
        column = shown.arrow(path)
        kind = column.type.value_type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            arrays.add(path, _along(axis, shown.ragged(path), np.nan))
            numbers.append(path)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            coded = column.flatten().dictionary_encode()
            codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            found = column.is_valid().to_numpy(zero_copy_only=False)
            arrays.add(path, _along(axis, Ragged(codes, axis.offsets, found), -1))
            words[path] = [word[:LONGEST_WORD] for word in coded.dictionary.to_pylist()]
    return {"numbers": numbers, "words": words}


def _along(axis: Ragged, column: Ragged, missing: float) -> Array:
    """[P] float64, a leaf on every place of its ruler; `missing` in rollouts that have none."""
    if len(column.values) == len(axis.values):
        return column.values.astype(np.float64)
    assert column.present is not None
    values = np.full(len(axis.values), float(missing))
    values[axis.segments.spread(column.present)] = column.values
    return values


def _float32(values: Array) -> Array:
    most = float(np.finfo(np.float32).max)
    return np.clip(values, -most, most).astype(np.float32)


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _jsonable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={_jsonable(each)}" for name, each in value.items()) or "none"
    return "none" if value is None or value == "" else str(value)


def _digest(text: str) -> str:
    """As a Content-Security-Policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"

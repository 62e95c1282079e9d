"""The terminal view: coloured tokens, the group's tree, the statistics."""

import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.errors import UsageError, unknown
from ...formats.files import check_output, whole_file
from ...formats.invariants import is_credit
from ...formats.parquet import RolloutFile
from ...formats.predicates import Predicate
from ...formats.rollouts import Rollouts
from .branches import draw_forks, draw_tree
from .statistics import QUANTILES, FileStatistics, SignalStatistics, signals_of, statistics_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_WEB_FONTS = re.compile(r"@font-face\s*{.*?}\s*", re.DOTALL)
POSITIVE, NEGATIVE, NEUTRAL = (46, 160, 67), (218, 54, 51), (110, 118, 129)


@dataclass(frozen=True)
class View:
    """What `inspect` shows. groups: the chosen groups' rollouts."""

    path: str
    statistics: FileStatistics | None
    shown: list[Rollouts]
    signal: str | None
    tree: bool
    texts: "TokenTexts"
    svg: Path | None
    html: Path | None = None

    def to_json(self) -> dict[str, Any]:
        rows = [row for batch in self.shown for row in batch.table.to_pylist()]
        return {"path": self.path, "statistics": asdict(self.statistics) if self.statistics else None, "rollouts": rows}

    def render(self) -> None:
        from rich.console import Console

        console = Console(soft_wrap=False, highlight=False)
        self.draw(console)
        if self.svg is not None:
            import io

            record = Console(record=True, width=110, file=io.StringIO(), highlight=False, force_terminal=True)
            self.draw(record)
            picture = record.export_svg(title=f"apportion inspect {Path(self.path).name}")
            with whole_file(self.svg) as temporary:
                temporary.write_text(_WEB_FONTS.sub("", picture))  # no network: any monospace font will do
            print(f"picture: {self.svg}", file=sys.stderr)
        if self.html is not None:
            print(f"page: {self.html}", file=sys.stderr)

    def draw(self, console: "Console") -> None:
        for batch in self.shown:
            _draw_group(console, batch, self.signal, self.tree, self.texts)
        if self.statistics is not None:
            _draw_statistics(console, self.statistics)


def view(
    path: Path, *, group: str | None, rollout: str | None, where: str | None, signal: str | None, sort: str,
    limit: int | None, tree: bool, stats: bool, model: str | None, svg: Path | None, html: Path | None, force: bool,
) -> View:  # fmt: skip
    """Read and choose. UsageError for an unknown group, rollout, signal or column, and where no rollout is chosen."""
    for output in (svg, html):
        if output is not None:
            check_output(output, force=force)
    file = RolloutFile(path)
    rollouts = file.read()
    signals = signals_of(rollouts)
    if signal is not None:
        signal = signal if signal.startswith("token.") else f"token.{signal}"
        if signal not in signals:
            raise unknown("token signal", signal, signals)
    else:
        signal = signals[0] if signals else None
    statistics = statistics_of(rollouts) if stats or html is not None else None
    if where is not None:
        rollouts = _matching(rollouts, where)
    shown = _chosen(rollouts, group, rollout, 1 if limit is None else limit)
    shown = [_sorted(batch, sort, signal) for batch in shown]
    recorded = next((str(r.parameters["model"]) for r in file.provenance.history if "model" in r.parameters), None)
    texts = TokenTexts.of(model, recorded)
    if html is not None and statistics is not None:
        from .html import within_caps, write_page

        everything = group is None and rollout is None and limit is None
        chosen = within_caps(rollouts) if everything else Rollouts.concat(_chosen(rollouts, group, rollout, limit or 1))
        write_page(html, file, chosen, statistics=statistics, signal=signal, texts=texts)
    return View(str(path), statistics if stats else None, shown, signal, tree, texts, svg, html)


def _matching(rollouts: Rollouts, where: str) -> Rollouts:
    """The groups that hold a rollout of which the predicate is true."""
    predicate = Predicate(where)
    predicate.check(rollouts.table.schema)
    groups = rollouts.groups
    kept = groups.spread(groups.any(predicate(rollouts)))
    if not kept.any():
        raise UsageError(f"--where {where}: true of no rollout in the file")
    return rollouts.take(np.flatnonzero(kept))


def _chosen(rollouts: Rollouts, group: str | None, rollout: str | None, limit: int) -> list[Rollouts]:
    offsets = rollouts.groups.offsets
    if rollout is not None:
        row = _find(rollout, rollouts.strings("rollout_id"), "rollout")
        return [rollouts.slice(row, row + 1)]
    names = [rollouts.arrow("group_id")[start].as_py() for start in rollouts.groups.starts.tolist()]
    numbers = [_find(group, names, "group")] if group is not None else range(min(limit, len(names)))
    return [rollouts.slice(int(offsets[number]), int(offsets[number + 1])) for number in numbers]


def _find(wanted: str, names: list[str], what: str) -> int:
    if wanted in names:
        return names.index(wanted)
    if wanted.isdigit() and int(wanted) < len(names):
        return int(wanted)
    if len(names) > 1000 or not names:
        raise UsageError(f"no {what} {wanted!r}; by number, 0 to {len(names) - 1}")
    raise unknown(what, wanted, names)


def _sorted(batch: Rollouts, sort: str, signal: str | None) -> Rollouts:
    if sort == "file":
        return batch
    if sort == "length":
        keys = batch.tokens.sizes
    elif sort == "reward" and "reward" in batch:
        keys = batch.numbers("reward")
    elif sort == "advantage" and signal is not None and is_credit(signal):
        keys = batch.ragged(signal).segments.sum(batch.ragged(signal).values)
    else:
        raise UsageError(f"--sort {sort}: the file has no such column")
    return batch.take(np.argsort(-keys, kind="stable"))


@dataclass(frozen=True)
class TokenTexts:
    """Token ids as text; the number itself where no tokenizer is at hand."""

    tokenizer: Any = None

    @classmethod
    def of(cls, model: str | None, recorded: str | None) -> "TokenTexts":
        from ...formats.errors import ApportionError
        from ..models.policy import load_tokenizer

        if model is not None:
            return cls(load_tokenizer(model))
        try:
            return cls(load_tokenizer(recorded)) if recorded else cls()
        except ApportionError:
            return cls()

    def __call__(self, token: int) -> str:
        if self.tokenizer is None:
            return f"{token} "
        text = self.tokenizer.decode([token])
        return text.replace("\n", "⏎\n") or "·"


def _draw_group(console: "Console", batch: Rollouts, signal: str | None, tree: bool, texts: TokenTexts) -> None:
    from rich.padding import Padding
    from rich.rule import Rule

    prompt = batch.strings("prompt")[0] if "prompt" in batch else None
    question = " ".join(message["content"] for message in prompt) if prompt else ""
    console.print(Rule(f"group {batch.strings('group_id')[0]}", align="left", style="dim"))
    if question:
        console.print(question, style="bold", markup=False)
    rewards = batch.numbers("reward") if "reward" in batch else None
    values = batch.ragged(signal) if signal else None
    scale = float(np.abs(values.values).max()) if values is not None and len(values.values) else 0.0
    names = batch.strings("rollout_id")
    flags = batch.strings("flags") if "flags" in batch else [None] * len(batch)
    for row in range(len(batch)):
        reward = "" if rewards is None else f"  reward {rewards[row]:g}"
        marks = f"  [{', '.join(flags[row] or ())}]" if flags[row] else ""
        console.print(f"{names[row]}{reward}{marks}", style="dim", markup=False)
        has = values is not None and (values.present is None or values.present[row])
        tokens = _coloured(batch, row, values[row] if has and values is not None else None, scale, texts)
        console.print(Padding(tokens, (0, 0, 0, 2), expand=False))
    if signal:
        console.print(f"colour: {signal}, full at ±{scale:.3g}", style="dim")
    if tree and "node.id" in batch and batch.ragged("node.id").present is None:
        draw_tree(console, batch, texts)
        if rewards is not None and np.isfinite(rewards).all():
            draw_forks(console, batch, signal, texts)


def _coloured(batch: Rollouts, row: int, values: Any, scale: float, texts: TokenTexts) -> "Text":
    from rich.style import Style
    from rich.text import Text

    start, end = batch.tokens.offsets[row], batch.tokens.offsets[row + 1]
    out = Text()
    begins = _step_starts(batch, row)
    for place in range(start, end):
        if place - start in begins:
            out.append("┊", Style(color="yellow", dim=True))
        text = texts(int(batch.token_ids.values[place]))
        if not batch.mask[place]:
            style = Style(dim=True, italic=True)
        elif values is None or scale == 0:
            style = Style()
        else:
            value = float(values[place - start])
            style = Style(bgcolor=_blend(value / scale), color="white") if value else Style()
        out.append(text, style)
    return out


def _step_starts(batch: Rollouts, row: int) -> set[int]:
    """Response tokens at which a step begins, but for the first."""
    if "step.start" not in batch:
        return set()
    return {int(start) for start in batch.ragged("step.start")[row]} - {0}


def _blend(share: float) -> str:
    towards = POSITIVE if share > 0 else NEGATIVE
    strength = 0.15 + 0.85 * min(1.0, abs(share))
    mixed = (round(n + (t - n) * strength) for n, t in zip(NEUTRAL, towards, strict=True))
    return "#" + "".join(f"{each:02x}" for each in mixed)


def _draw_statistics(console: "Console", found: FileStatistics) -> None:
    from rich.rule import Rule
    from rich.table import Table

    console.print(Rule("file", align="left", style="dim"))
    sizes = ", ".join(f"{count}×{size}" for size, count in sorted(found.group_sizes.items()))
    line = f"{found.rollouts:,} rollouts, {found.groups:,} groups ({sizes}), {found.tokens:,} tokens"
    if found.mean_reward is not None:
        line += f", mean reward {found.mean_reward:.3f}"
    if found.dead_groups is not None:
        line += f", dead groups {found.dead_groups:.1%}"
    console.print(line)
    if found.flags:
        console.print("flags: " + ", ".join(f"{name} {count:,}" for name, count in sorted(found.flags.items())))
    if not found.signals:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for signal in found.signals:
        table.add_column(signal.column, justify="right", overflow="fold")
    for name, show in _STATISTICS.items():
        table.add_row(name, *(show(signal) for signal in found.signals))
    console.print(table)


# One row each, so that a file with many signals is as narrow as their names allow.
_STATISTICS: dict[str, Callable[[SignalStatistics], str]] = {
    "mean": lambda signal: f"{signal.mean:+.3f}",
    "std": lambda signal: f"{signal.std:.3f}",
    **{
        f"{share:.0%} quantile": lambda signal, index=index: f"{signal.quantiles[index]:+.3f}"
        for index, share in enumerate(QUANTILES)
    },
    "above 0": lambda signal: f"{signal.positive:.1%}",
    "below 0": lambda signal: f"{signal.negative:.1%}",
    "exactly 0": lambda signal: f"{signal.zero:.1%}",
    "corr. with length": lambda signal: (
        "–" if signal.correlation_length is None else f"{signal.correlation_length:+.2f}"
    ),
}

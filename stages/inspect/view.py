"""The terminal view: coloured tokens, the group's tree, the statistics."""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...formats.errors import DataError, UsageError, unknown
from ...formats.files import check_output, whole_file
from ...formats.invariants import is_credit
from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ..core.harmless import harmless
from ..core.progress import track
from ..models.token_texts import TokenTexts
from .branches import draw_forks, draw_tree
from .choosing import Choice, first_groups, row_of
from .colours import palette_of
from .drawn_tokens import Painter, draw_credits
from .html import room_on_the_page, write_page
from .statistics import QUANTILES, FileStatistics, FileTally, SignalStatistics, signals_of
from .turn_table import draw_turns
from .turns import turns_of

if TYPE_CHECKING:
    from rich.console import Console

_WEB_FONTS = re.compile(r"@font-face\s*{.*?}\s*", re.DOTALL)


@dataclass(frozen=True)
class View:
    """What `inspect` shows. shown: the chosen groups' rollouts. only: the one row of the group that is shown with its tree.
    relative: credit is drawn less the mean of its rollout.
    """

    path: str
    statistics: FileStatistics | None
    shown: list[Rollouts]
    signal: str | None
    tree: bool
    texts: TokenTexts
    svg: Path | None
    html: Path | None = None
    force: bool = False
    only: int | None = None
    relative: bool = False

    def to_json(self) -> dict[str, Any]:
        shown = self.shown if self.only is None else [self.shown[0].slice(self.only, self.only + 1)]
        rows = [row for batch in shown for row in batch.table.to_pylist()]
        return {"path": self.path, "statistics": asdict(self.statistics) if self.statistics else None, "rollouts": rows}

    def render(self) -> None:
        from ..core.console import WordsConsole

        if self.html is None:
            self.draw(WordsConsole(soft_wrap=False))
        if self.svg is not None:
            import io

            always = {
                "force_terminal": True,
                "color_system": "truecolor",
                "no_color": False,
            }  # whatever the terminal is
            record = WordsConsole(record=True, width=110, file=io.StringIO(), **always)
            self.draw(record)
            picture = record.export_svg(title=harmless(f"apportion inspect {Path(self.path).name}"))
            with whole_file(self.svg, force=self.force) as temporary:
                temporary.write_text(_WEB_FONTS.sub("", picture))  # no network: any monospace font will do
            print(f"picture: {self.svg}", file=sys.stderr)
        if self.html is not None:
            print(f"page: {self.html}", file=sys.stderr)

    def draw(self, console: "Console") -> None:
        for batch in self.shown:
            _draw_group(console, batch, self)
        if self.statistics is not None:
            _draw_statistics(console, self.statistics)


def view(
    path: Path, *, group: str | None, rollout: str | None, where: str | None, signal: str | None, sort: str,
    limit: int | None, tree: bool, stats: bool, model: str | None, svg: Path | None, html: Path | None, force: bool,
    relative: bool = False,
) -> View:  # fmt: skip
    """Read and choose. UsageError for an unknown group, rollout, signal or column, and where no rollout is chosen."""
    for output in (svg, html):
        if output is not None:
            check_output(output, force=force)
    if limit == 0 and html is not None:
        raise UsageError("--limit must be at least 1 with --html: a page shows at least one group")
    file = RolloutFile(path)
    signals = signals_of(file.schema)
    if signal is not None:
        signal = signal if signal.startswith("token.") else f"token.{signal}"
        if signal not in signals:
            raise unknown("token signal", signal, signals)
    else:
        signal = signals[0] if signals else None
    texts = TokenTexts.of(model, [file.provenance])
    room = room_on_the_page if html is not None and limit is None else first_groups(1 if limit is None else limit)
    choice = Choice(file, group=group, rollout=rollout, where=where, room=room, live=limit is None and html is None)
    statistics = _read(file, choice, whole=stats or html is not None)
    chosen = choice.found()
    shown = [_sort(batch, sort, signal) for batch in (chosen[:1] if limit is None else chosen)]
    only = row_of(shown[0], rollout) if group is not None and rollout is not None else None
    if html is not None and statistics is not None:
        write_page(html, file, Rollouts.concat(chosen), statistics=statistics, signal=signal, texts=texts, force=force)
    return View(str(path), statistics if stats else None, shown, signal, tree, texts, svg, html, force, only, relative)


def _read(file: RolloutFile, choice: Choice, *, whole: bool) -> FileStatistics | None:
    """Show the file to the choice, as far as it has to see it; to its end, and with statistics, if `whole`."""
    if not file.num_rows:
        raise DataError(f"{file.path}: no rollouts in it")
    tally = FileTally()
    for batch in track(file.batches(), total=file.num_row_groups, what="inspect"):
        choice.add(batch)
        if whole:
            tally.add(batch)
        elif choice.done:
            break
    return tally.result() if whole else None


def _sort(batch: Rollouts, sort: str, signal: str | None) -> Rollouts:
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


def _draw_group(console: "Console", batch: Rollouts, view: View) -> None:
    """The group's rollouts, or the one of them that is wanted, and the tree of the whole group."""
    from rich.padding import Padding
    from rich.rule import Rule

    signal, texts, only = view.signal, view.texts, view.only
    pieces = [texts(batch.token_ids[row].tolist()) for row in range(len(batch))]
    prompt = batch.strings("prompt")[0] if "prompt" in batch else None
    question = " ".join(message["content"] or "" for message in prompt) if prompt else ""
    console.print(Rule(f"group {batch.strings('group_id')[0]}", align="left", style="dim"))
    if question:
        console.print(question, style="bold")
    rewards = batch.numbers("reward") if "reward" in batch else None
    rows = range(len(batch)) if only is None else [only]
    painter = Painter.of(batch, rows, signal, palette_of(console), relative=view.relative)
    names = batch.strings("rollout_id")
    flags = batch.strings("flags") if "flags" in batch else [None] * len(batch)
    for row in rows:
        reward = "" if rewards is None else f"  reward {rewards[row]:g}"
        marks = f"  [{', '.join(flags[row] or ())}]" if flags[row] else ""
        console.print(f"{names[row]}{reward}{marks}", style="dim")
        console.print(Padding(painter.draw(batch, row, pieces[row]), (0, 0, 0, 2), expand=False))
        draw_credits(console, batch, row, pieces[row])
        draw_turns(console, turns_of(batch, row, pieces[row]), painter)
    if signal:
        console.print(painter.legend(), style="dim")
    if view.tree and "node.id" in batch and batch.ragged("node.id").present is None:
        draw_tree(console, batch, pieces)
        if rewards is not None and np.isfinite(rewards).all():
            draw_forks(console, batch, pieces, signal)


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
    **{
        f"{share:.0%} quantile of |·|": lambda signal, index=index: f"{signal.magnitudes[index]:.3f}"
        for index, share in enumerate(QUANTILES)
        if share in (0.5, 0.95)
    },
    "above 0": lambda signal: f"{signal.positive:.1%}",
    "below 0": lambda signal: f"{signal.negative:.1%}",
    "exactly 0": lambda signal: f"{signal.zero:.1%}",
    "sign balance": lambda signal: "–" if signal.sign_balance is None else f"{signal.sign_balance:+.2f}",
    "corr. with length": lambda signal: (
        "–" if signal.correlation_length is None else f"{signal.correlation_length:+.2f}"
    ),
    "mass by position": lambda signal: bars(signal.by_position),
    "mass by step": lambda signal: "–" if signal.by_step is None else bars(signal.by_step),
}


def bars(shares: Sequence[float]) -> str:
    """A character a share, as high as it is; the largest is full.

    >>> bars([0.0, 0.1, 0.4, 0.5])
    '▁▂▇█'
    """
    largest = max(shares, default=0.0)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * share / largest) if largest > 0 else 0] for share in shares)

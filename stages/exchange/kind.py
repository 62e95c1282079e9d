"""The kinds of entry that read other systems' rollouts and write credit for them: importers and exporters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...formats.parquet import RolloutFile
from ...formats.rollouts import Rollouts
from ..core.kinds import Entry, Evidence, Kind
from ..core.progress import track
from .source import Source


@dataclass(kw_only=True)
class Sample:
    """One row of a rollout file, as an importer reads it.

    where: file and place, for messages. group_id: the source's own identity of the prompt's rollouts; None if it has none.
    prompt_ids, ids, mask: token ids before and after the first sampled token, and which of the latter the policy wrote. Formats
    without ids leave these empty and give `pieces`: the response's text in order, each with whether the policy wrote it.
    columns: everything else, by path; a list that belongs to a ruler has one value for each of its places. record: the source's
    own record, in which --group-by looks.
    """

    where: str
    rollout_id: str
    group_id: str | None = None
    prompt_ids: Any = ()
    ids: Any = ()
    mask: Any = ()
    pieces: list[tuple[str, bool]] | None = None
    columns: dict[str, Any] = field(default_factory=dict[str, Any])
    record: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Unmapped:
    """A record that cannot become a row, and why."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Importer(Entry):
    """`function(source, **options)` yields a Sample, or an Unmapped, for each rollout of one file.

    recognises: whether a file is of this format, by its name and its first record. exact: it holds the token ids that the policy
    sampled. fills: the columns of its rows beside the tokens, by path. loses: what the format does not say, or what is not taken
    over. file_facts: what holds of the whole file that is written. general: it takes records of many shapes, so a file that
    another importer recognises too is the other's.
    """

    shown = ("exact", "fills", "loses")

    recognises: Callable[[Source], bool]
    exact: bool
    fills: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    file_facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    general: bool = False


@dataclass(frozen=True)
class Batches:
    """Whole groups of rollouts, in the order of their files."""

    files: Sequence[RolloutFile]

    def __iter__(self) -> Iterator[Rollouts]:
        for file in self.files:
            yield from track(file.batches(), total=file.num_row_groups, what="export")


@dataclass(frozen=True)
class Tally:
    """How many records an exporter wrote, and what it left out, by reason."""

    records: int
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, kw_only=True)
class Exporter(Entry):
    """`function(batches, out, **options)` writes rollouts and their credit to a path, and returns how many records it wrote, or a
    Tally.

    batches: whole groups, in the file's order. suffix: what the output's name ends with.
    """

    shown = ("suffix",)

    suffix: str


IMPORTERS: Kind[Importer] = Kind(
    "importers", "importer", __package__ or "", "apportion import PATH --format {name} -o OUT"
)
EXPORTERS: Kind[Exporter] = Kind(
    "exporters", "exporter", __package__ or "", "apportion export IN --format {name} -o OUT"
)


def importer(
    name: str,
    *,
    recognises: Callable[[Source], bool],
    exact: bool,
    fills: tuple[str, ...] = (),
    loses: tuple[str, ...] = (),
    facts: Mapping[str, Any] | None = None,
    general: bool = False,
    source: str,
    evidence: Evidence | None = None,
) -> Callable[[Callable[..., Iterator[Sample | Unmapped]]], Any]:
    """Register the function under this name. Its keyword-only parameters become `--set` options."""
    return IMPORTERS.adder(
        Importer, name=name, recognises=recognises, exact=exact, fills=fills, loses=loses, file_facts=facts or {},
        general=general, source=source, evidence=evidence,
    )  # fmt: skip


def exporter(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    needs_with: Callable[..., Iterable[str]] | None = None,
    suffix: str,
    source: str,
    evidence: Evidence | None = None,
) -> Callable[[Callable[..., int | Tally]], Any]:
    """Register the function under this name. Its keyword-only parameters become `--set` options."""
    return EXPORTERS.adder(
        Exporter, name=name, needs=needs, needs_with=needs_with, suffix=suffix, source=source, evidence=evidence
    )

"""`import` behind its signature: find the files, tell their format, name the groups, write the rollouts."""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.errors import DataError, PartialError, UsageError
from ...formats.files import STREAM, check_output
from ...formats.parquet import write_rollouts
from ...formats.provenance import Provenance, Record, digest_of, digest_of_file
from ...formats.rollouts import Rollouts
from ..core.options import as_json
from ..core.plugins import plugin_digests
from ..core.progress import track
from ..core.results import check_each
from ._spool import Spool
from .guess import importer_for, sources_in
from .kind import IMPORTERS, Importer, Sample, Source, Unmapped
from .source import UNREADABLE, field_of
from .tokens import Encoder

PROMPT = "prompt"
LOOKED_AT = 1000  # rows of a dry run


@dataclass(frozen=True)
class Imported:
    """What was read and written. out: None of a dry run. columns: that the rows fill. unmapped, faults: rows that could not be
    taken over, and rows flagged `error` with --lenient, by reason. loses: what the format does not hold."""

    out: str | None
    format: str
    files: int
    rollouts: int
    groups: int
    columns: list[str] = field(default_factory=list[str])
    unmapped: dict[str, int] = field(default_factory=dict[str, int])
    faults: dict[str, int] = field(default_factory=dict[str, int])
    loses: list[str] = field(default_factory=list[str])

    def render(self) -> None:
        """Print it: one line on standard error, or the answer of a dry run on standard output."""
        if self.out is not None:
            print(
                f"{self.out}: {self.rollouts:,} rollouts, {self.groups:,} groups, from {self.format}", file=sys.stderr
            )
            return
        print(f"format   {self.format} ({self.files:,} files)")
        print(f"rollouts {self.rollouts:,} in {self.groups:,} groups, of the rows looked at")
        print(f"columns  {', '.join(self.columns)}")
        for what in self.loses:
            print(f"lost     {what}")
        for reason, count in {**self.unmapped, **self.faults}.items():
            print(f"faulty   {count:,} rows: {reason}")


def import_files(
    paths: Sequence[Path], *, format: str | None, settings: Mapping[str, Any] | None, tokenizer: str | None,
    group_size: int | None, group_by: str | None, lenient: bool, dry_run: bool, out: Path | None, force: bool,
) -> Imported:  # fmt: skip
    """Do the work of `import`.

    UsageError for options that do not fit, DataError for a file that cannot be read or that no importer takes, PartialError
    when rows could not be mapped; the file is written then.
    """
    if group_size is not None and group_by is not None:
        raise UsageError("--group-size and --group-by both say what a group is; give one")
    if out is None and not dry_run:
        raise UsageError("name the rollout file with -o, or look first with --dry-run")
    if out == STREAM:
        raise UsageError("-: an import cannot go to standard output; name a file with -o")
    if out is not None and not dry_run:
        check_output(out, force=force)
    sources = sources_in(paths, format)
    chosen = importer_for(sources, format)
    options = IMPORTERS.settle(chosen.name, settings)
    encoder = Encoder(tokenizer)
    with tempfile.TemporaryDirectory(prefix="apportion-import-") as folder:
        spool = Spool(Path(folder), encoder, lenient=lenient)
        unmapped: Counter[str] = Counter()
        columns: dict[str, None] = {}
        texts_only = False
        for source in sources:
            source.lenient = lenient
        for source, sample in _samples(sources, chosen, options, dry_run):
            if isinstance(sample, Unmapped):
                unmapped[sample.reason] += 1
                continue
            name = _group(sample, len(spool), group_size, group_by)
            columns.update(dict.fromkeys(path for path, value in sample.columns.items() if value is not None))
            texts_only |= sample.pieces is not None
            spool.add(sample, name, source.label)
        for source in sources:
            unmapped += source.faults
        if not len(spool):
            raise DataError(f"{paths[0]}: no rollouts in it{f' ({_reasons(unmapped)})' if unmapped else ''}")
        if group_size is not None:
            is_cut_short = dry_run and len(spool) + unmapped.total() >= LOOKED_AT
            _check_groups(spool, group_size, paths[0], all_rows=not is_cut_short)
        summary = {
            "format": chosen.name, "files": len(sources), "rollouts": len(spool), "groups": spool.num_groups,
            "columns": list(columns), "unmapped": dict(unmapped), "faults": dict(spool.faults), "loses": list(chosen.loses),
        }  # fmt: skip
        if dry_run:
            return Imported(out=None, **summary)
        assert out is not None
        parameters = {
            "paths": [each.label for each in sources], "format": chosen.name, "settings": as_json(options), "group_size": group_size, "group_by": group_by,
            "lenient": lenient, "tokenizer": encoder.spec if texts_only else tokenizer,
        }  # fmt: skip
        inputs = {
            f"source/{number}" if len(sources) > 1 else "source": digest_of_file(each.path)
            for number, each in enumerate(sources)
        }
        counts = {f"unmapped: {reason}": count for reason, count in unmapped.items()}
        counts |= {f"faulty: {reason}": count for reason, count in spool.faults.items()}
        record = Record(
            stage="import",
            version=__version__,
            parameters=parameters,
            inputs={**inputs, **plugin_digests("import", parameters)},
            counts=counts,
        )
        facts = {**chosen.file_facts, "tokens_exact": chosen.exact and not texts_only}
        batches = spool.batches()
        if tokenizer is not None and not texts_only:
            batches = _with_texts(batches, encoder)
        write_rollouts(out, batches, Provenance(history=(record,), facts=facts), force=force)
    done = Imported(out=str(out), **summary)
    if faulty := unmapped + spool.faults:
        done.render()
        raise PartialError(f"{out}: written, but {faulty.total():,} rows are faulty: {_reasons(faulty)}")
    return done


def _samples(
    sources: Sequence[Source], chosen: Importer, options: Mapping[str, Any], dry_run: bool
) -> Iterator[tuple[Source, Sample | Unmapped]]:
    """What the importer makes of the files' records; a dry run ends early. DataError for a record of another shape."""
    taken = 0
    for source in track(sources, total=len(sources), what="import"):
        try:
            given = chosen.function(source, **options)
            for sample in check_each(given, (Sample, Unmapped), f"importer {chosen.name}", "Samples"):
                yield source, sample
                taken += 1
                if dry_run and taken >= LOOKED_AT:
                    return
        except UNREADABLE as error:
            told = f"{type(error).__name__}: {error}"
            raise DataError(f"{source.place}: not the shape that importer {chosen.name} reads ({told:.160})") from error


def _group(sample: Sample, row: int, size: int | None, by: str | None) -> str:
    """The name of the sample's group, which is of one trainer step. DataError where nothing says it."""
    if size is not None:
        name: str | None = f"{row // size}"
    elif by is not None:
        name = _shared(sample, by)
    else:
        name = sample.group_id
    if name is None:
        raise DataError(
            f"{sample.where}: the record does not say which group it is of; give --group-size N, if the N rollouts of a prompt "
            "follow each other, or --group-by FIELD (--group-by prompt if equal prompts are a group)"
        )
    step = sample.columns.get("iteration")
    return name if step is None else f"{step}/{name}"


def _shared(sample: Sample, field: str) -> str:
    """What rows of a group have in common: the prompt, or a field of the source's record."""
    if field == PROMPT:
        prompt = sample.columns.get(PROMPT)
        return digest_of(prompt if prompt is not None else [int(each) for each in sample.prompt_ids])
    value = field_of(sample.record, field)
    if value is None:
        known = ", ".join(map(str, sample.record))
        raise DataError(f"{sample.where}: no field {field!r} to group by (fields: {known})")
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _reasons(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _check_groups(spool: Spool, size: int, path: Path, *, all_rows: bool) -> None:
    """DataError for groups of another size: the last one is not full, or rows of one have different prompts."""
    if all_rows and len(spool) % size:
        raise DataError(
            f"{path}: {len(spool):,} rollouts are not whole groups of {size}; give the --group-size that they were sampled with"
        )
    uneven = spool.group_with_several_prompts()
    if uneven is not None:
        raise DataError(
            f"{path}: rollouts {uneven * size} to {uneven * size + size - 1} have different prompts; give the --group-size "
            "that they were sampled with"
        )


def _with_texts(batches: Iterator[Rollouts], encoder: Encoder) -> Iterator[Rollouts]:
    """With the responses decoded, where the source had no text."""
    for batch in batches:
        if "text" in batch and batch.arrow("text").null_count == 0:
            yield batch
            continue
        rows = [batch.token_ids[row].tolist() for row in range(len(batch))]
        yield batch.with_columns({"text": encoder.tokenizer.batch_decode(rows, skip_special_tokens=True)})

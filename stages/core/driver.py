"""The one driver of rollouts → rollouts stages: streams whole groups, keeps every other column, records history."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ... import __version__
from ...formats.errors import ApportionError, DataError, UsageError
from ...formats.files import whole_directory
from ...formats.invariants import missing_paths
from ...formats.parquet import STREAM, RolloutFile, check_names, check_output, files_of, write_rollouts
from ...formats.provenance import Record
from ...formats.rollouts import Rollouts
from .plugin_files import load_plugins, plugins_loaded
from .plugins import plugin_digests
from .progress import track
from .remedies import missing_column
from .trust import remote_code_is_trusted, trust_remote_code


@dataclass(frozen=True)
class Written:
    """What a stage wrote: the place, and rows, groups and tokens in it."""

    out: str
    rollouts: int
    groups: int
    tokens: int

    def render(self) -> None:
        """One line on standard error."""
        print(self.line(), file=sys.stderr)

    def line(self) -> str:
        """What is told of it."""
        return f"{self.out}: {self.rollouts:,} rollouts, {self.groups:,} groups, {self.tokens:,} tokens"


Needs = Mapping[str, str] | Sequence[str]
"""Columns that are needed; as a mapping, with the setting that would do without each, name=value, or ""."""


Who = str | Mapping[str, str]
"""Who needs the columns, or {column: who needs it}."""


def require(file: RolloutFile, needs: Needs, who: Who, advice: str = "") -> None:
    """DataError naming the first column `who` needs and the file lacks, and the stage that makes it. advice: what else helps."""
    for path in missing_paths(file.schema, needs):
        way_around = needs[path] if isinstance(needs, Mapping) else ""
        raise DataError(
            f"{file.path}: {missing_column(path, who if isinstance(who, str) else who[path], way_around)}{advice}"
        )


def map_rollouts(
    transform: Callable[[Rollouts], Rollouts],
    source: Path,
    out: Path,
    *,
    stage: str,
    parameters: Mapping[str, Any],
    needs: Needs = (),
    who: Who = "",
    advice: str = "",
    force: bool = False,
    inputs: Mapping[str, str] | None = None,
    workers: int = 1,
    whole: bool = False,
) -> Written:
    """Apply `transform` to every batch of whole groups of `source` and write the result to `out`.

    A directory is mapped file by file into a directory, `workers` files at the same time, each in a process of its own;
    `transform` then has to be picklable (a function of a module, or a partial of one). `parameters` and the inputs'
    digests go into the history. With `whole`, `transform` gets a file's rollouts all at once, and there is just one file:
    what it computes is over all of them. Raises UsageError (missing input, existing output) and DataError (missing column, broken
    invariant); the place is in the message, and nothing is left behind.
    """
    job = partial(
        _map_file, transform,
        stage=stage, parameters=parameters, needs=needs, who=who or stage, advice=advice, inputs=inputs or {}, whole=whole,
    )  # fmt: skip
    files = files_of(source)
    if files == [source]:
        return job(source, out, force=force)
    if whole:
        raise UsageError(
            f"{source}: {who if who and isinstance(who, str) else stage} compares all rollouts, which have to be in one file; merge them first"
        )
    if out == STREAM:
        raise UsageError(f"{source}: a directory cannot be written to standard output; name a directory with -o")
    check_output(out, force=force, directory=True)
    check_names(map(RolloutFile, files))
    counts = {"rollouts": 0, "groups": 0, "tokens": 0}
    with whole_directory(out, force=force) as folder:
        jobs = [partial(job, file, folder / file.name) for file in files]
        for written in track(_in_order(jobs, workers), total=len(jobs), what=f"{stage}, files"):
            counts = {name: counts[name] + getattr(written, name) for name in counts}
    return Written(str(out), **counts)


def _map_file(
    transform: Callable[[Rollouts], Rollouts],
    source: Path,
    out: Path,
    *,
    stage: str,
    parameters: Mapping[str, Any],
    needs: Needs,
    who: Who,
    advice: str,
    inputs: Mapping[str, str],
    whole: bool,
    force: bool = False,
) -> Written:
    if out != STREAM:
        check_output(out, force=force)
    file = RolloutFile(source)
    require(file, needs, who, advice)
    if file.num_rows == 0:
        raise DataError(f"{source}: no rollouts in it")
    record = Record(
        stage=stage,
        version=__version__,
        parameters=parameters,
        inputs={"rollouts": file.digest(), **plugin_digests(stage, parameters), **inputs},
    )

    def transformed() -> Iterator[Rollouts]:
        row = 0
        batches = [file.read(check=needs)] if whole else file.batches(check=needs)
        for batch in track(batches, total=1 if whole else file.num_row_groups, what=stage):
            try:
                result = transform(batch)
            except DataError as error:
                raise DataError(f"{source} (rows from {row}): {error}") from error
            row += len(batch)
            yield result

    counts = write_rollouts(out, transformed(), file.provenance.with_record(record), force=force)
    return Written(str(out), **counts)


def _begin(plugins: list[Path], trusted: bool) -> None:
    """What the command line has said, in a worker."""
    trust_remote_code(trusted)
    load_plugins(plugins)


def _in_order(jobs: Sequence[Callable[[], Written]], workers: int) -> Iterator[Written]:
    """The jobs' results in their order, made by up to `workers` processes; the first fault ends them all."""
    workers = min(workers, len(jobs))
    if workers == 1:
        yield from (job() for job in jobs)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # Forked processes would inherit the locks of torch's and pyarrow's threads; spawned ones start clean.
    given = (plugins_loaded(), remote_code_is_trusted())
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, given) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise ApportionError(
                "a worker process was ended from outside, most likely for want of memory; try fewer --workers"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

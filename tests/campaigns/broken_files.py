"""Damaged rollout files: each is refused in one line, or read as it was. Never a traceback, a crash, a hang, another number.

    python tests/campaigns/broken_files.py --count 3000 --seed 1

Bits and bytes are flipped in the whole file and in its footer, pieces are cut off, cut out, doubled, blanked and swapped, pages
among them. `validate` has to refuse the file, or its content has to be what it was; `tree-build` has to refuse it, or to make of
it what it made of the whole one. `digest`, which reads pages only, may tell that the content is another one. Files without a
seal (of earlier versions) may hide a change; they are counted, and must not crash or hang either. A process of its own
does the work, for it may die.
"""

import argparse
import multiprocessing
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from apportion.formats.content import ContentDigest
from apportion.formats.parquet import RolloutFile, RolloutWriter
from apportion.formats.provenance import Provenance, Record
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.formats.seal import MARK
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.structure.prefix_tree import add_prefix_tree

PATIENCE = 60.0  # seconds for one case
ROOM = 4 << 30  # bytes a case may take up beside what is loaded
Damage = Callable[[random.Random, bytearray, Path], None]


class Told(NamedTuple):
    """What a command said. fault: what it must not do, empty if it did not. digest: of the content, where it ended well."""

    code: int
    fault: str
    digest: str = ""


# ------------------------------------------------------------------------------------------------ files and damages


def whole_file(path: Path, rng: np.random.Generator, groups: int, tokens: int) -> None:
    """A tree with credit, texts, missing values, columns of its own and a history, in several row groups."""
    sizes = rng.integers(0, 2 * tokens, 4 * groups)
    ids = [rng.integers(1, 50, size).tolist() for size in sizes]
    batch = rollouts_of(
        rng.integers(0, 2, 4 * groups).astype(float).tolist(), tokens=ids, groups=np.repeat(np.arange(groups), 4).tolist(),
        mask=[[place % 5 != 3 for place in range(size)] for size in sizes],
    )  # fmt: skip
    flat = batch.token_ids
    credit = np.where(batch.mask, rng.normal(size=batch.num_tokens), 0.0).astype(np.float32)
    lists = [None if row % 7 == 3 else [0.5] * int(size) for row, size in enumerate(sizes)]
    batch = add_prefix_tree(batch).with_columns(
        {
            "policy": ["0f3a"] * len(batch), "text": [f"text {row} é" for row in range(len(batch))],
            "purpose": ["train"] * len(batch), "flags": [["truncated"] if row % 3 else [] for row in range(len(batch))],
            "temperature": [1.0] * len(batch), "top_k": [0] * len(batch),
            "token.logprob": flat.with_values((-rng.random(batch.num_tokens)).astype(np.float32)),
            "token.advantage": flat.with_values(credit), "token.mine": lists, "mine": list(range(len(batch))),
            "step.start": Ragged.from_lists([[0] if size else [] for size in sizes], np.int32),
            "step.end": Ragged.from_lists([[int(size)] if size else [] for size in sizes], np.int32),
        }
    )  # fmt: skip
    writer = RolloutWriter(path, str(path), tokens_per_row_group=max(1, batch.num_tokens // 3))
    writer.write(batch)
    writer.close(Provenance(history=(Record(stage="sample", version="0", parameters={"seed": 1, "model": "m"}),)))


def without_seal(content: bytes) -> bytes:
    """As earlier versions wrote it."""
    place = content.index(MARK)
    return content[:place] + content[place + len(MARK) + 32 :]


def footer_of(content: bytearray) -> tuple[int, int]:
    """Where it begins and ends, its length and PAR1 included."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content)


def flip_anywhere(rng: random.Random, content: bytearray, whole: Path) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def flip_in_the_footer(rng: random.Random, content: bytearray, whole: Path) -> None:
    content[rng.randrange(*footer_of(content))] ^= 1 << rng.randrange(8)


def flip_in_a_name(rng: random.Random, content: bytearray, whole: Path) -> None:
    start, _ = footer_of(content)
    name = rng.choice([b"policy", b"reward", b"purpose", b"advantage", b"mask", b"apportion", b"mine", b"history"])
    places = [place for place in range(start, len(content) - len(name)) if content[place : place + len(name)] == name]
    content[rng.choice(places) + rng.randrange(len(name))] ^= 1 << rng.randrange(8)


def flip_in_a_page_header(rng: random.Random, content: bytearray, whole: Path) -> None:
    start = rng.choice([each for each, _ in pages_of(whole)])
    content[start + rng.randrange(24)] ^= 1 << rng.randrange(8)


def flip_the_length(rng: random.Random, content: bytearray, whole: Path) -> None:
    content[-1 - rng.randrange(8)] ^= 1 << rng.randrange(8)


def overwrite_some_bytes(rng: random.Random, content: bytearray, whole: Path) -> None:
    for _ in range(rng.randint(1, 20)):
        content[rng.randrange(len(content))] = rng.randrange(256)


def overwrite_in_the_footer(rng: random.Random, content: bytearray, whole: Path) -> None:
    for _ in range(rng.randint(1, 6)):
        content[rng.randrange(*footer_of(content))] = rng.randrange(256)


def piece(rng: random.Random, content: bytearray) -> slice:
    start = rng.randrange(len(content))
    return slice(start, min(len(content), start + rng.choice([1, 8, 64, 512, 4096])))


def blank(rng: random.Random, content: bytearray, whole: Path) -> None:
    place = piece(rng, content)
    content[place] = bytes(place.stop - place.start)


def truncate(rng: random.Random, content: bytearray, whole: Path) -> None:
    del content[rng.randrange(len(content)) :]


def cut_the_beginning(rng: random.Random, content: bytearray, whole: Path) -> None:
    del content[: rng.randint(1, len(content))]


def cut_out(rng: random.Random, content: bytearray, whole: Path) -> None:
    del content[piece(rng, content)]


def double(rng: random.Random, content: bytearray, whole: Path) -> None:
    place = piece(rng, content)
    content[place.start : place.start] = content[place]


def append(rng: random.Random, content: bytearray, whole: Path) -> None:
    content += rng.randbytes(rng.randint(1, 64))


def pages_of(whole: Path) -> list[tuple[int, int]]:
    """(start, size) of every column's pages."""
    meta = pq.ParquetFile(whole).metadata
    found = []
    for group in range(meta.num_row_groups):
        for index in range(meta.num_columns):
            column = meta.row_group(group).column(index)
            found.append((column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size))
    return found


def swap_pages(rng: random.Random, content: bytearray, whole: Path) -> None:
    """Of one size where there are such, so that the footer's places still hold; each has a checksum that is right."""
    pages = pages_of(whole)
    alike = [(a, b) for a in pages for b in pages if a[0] < b[0] and a[1] == b[1]] or [tuple(rng.sample(pages, 2))]
    (first, size), (second, other) = rng.choice(alike)
    size = min(size, other)
    content[first : first + size], content[second : second + size] = (
        content[second : second + size], content[first : first + size],
    )  # fmt: skip


def copy_a_page(rng: random.Random, content: bytearray, whole: Path) -> None:
    (first, size), (second, other) = rng.sample(pages_of(whole), 2)
    size = min(size, other)
    content[first : first + size] = content[second : second + size]


DAMAGES: dict[str, Damage] = {
    damage.__name__: damage
    for damage in (
        flip_anywhere, flip_in_the_footer, flip_in_a_name, flip_in_a_page_header, flip_the_length, overwrite_some_bytes,
        overwrite_in_the_footer, blank, truncate, cut_the_beginning, cut_out, double, append, swap_pages, copy_a_page,
    )
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ the process that may die


def serve(channel: Connection) -> None:
    """Runs the commands on one file after the other."""
    import apportion.cli.main  # loaded before the memory is bounded

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    assert apportion.cli.main.app is not None
    while (path := channel.recv()) is not None:
        channel.send(
            [validated(path), made(path, ("tree-build", path, "-o", f"{path}.out"), Path(f"{path}.out")), read(path)]
        )


def run(*words: object) -> Told:
    from apportion.cli.main import app
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, [str(word) for word in words])
    fault = ""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        fault = f"traceback: {type(result.exception).__name__}: {result.exception}"
    elif result.exit_code not in (0, 3):
        fault = f"exit code {result.exit_code}: {result.stderr.strip()}"
    elif result.exit_code == 3 and (result.stderr.count("\n") != 1 or not result.stderr.startswith("error: ")):
        fault = f"not one line: {result.stderr!r}"
    return Told(result.exit_code, fault)


def validated(path: Path) -> Told:
    told = run("validate", path)
    return read(path) if told.code == 0 and not told.fault else told


def made(path: Path, words: tuple[object, ...], out: Path) -> Told:
    out.unlink(missing_ok=True)
    told = run(*words)
    return read(out) if told.code == 0 and not told.fault else told


def read(path: Path) -> Told:
    """As `digest` does, and everything else that only reads."""
    told = run("digest", path)
    return Told(0, "", digest_of(path)) if told.code == 0 and not told.fault else told


def digest_of(path: Path) -> str:
    content = ContentDigest()
    for batch in RolloutFile(path).batches(check=False):
        content.update(Rollouts(batch.table))
    return content.hexdigest()


class Worker:
    """The process, started anew when it died."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, path: Path) -> list[Told]:
        self._channel.send(path)
        try:
            if self._channel.poll(PATIENCE):
                return self._channel.recv()
            self._process.kill()
            fault = f"hangs: no answer in {PATIENCE:g} s"
        except EOFError:
            self._process.join()
            fault = f"crash: the process ended with {self._process.exitcode}"
        self._start()
        return [Told(1, fault)]

    def end(self) -> None:
        self._channel.send(None)
        self._process.join()


# ------------------------------------------------------------------------------------------------ the campaign


def campaign(count: int, seed: int, folder: Path) -> list[str]:
    """The failures, a line each."""
    wholes = {folder / f"{name}.parquet": size for name, size in (("small", (2, 4)), ("large", (12, 40)))}
    for path, size in wholes.items():
        whole_file(path, np.random.default_rng(seed), *size)
    worker, damaged, failures, outcomes = Worker(), folder / "damaged.parquet", [], Counter[str]()
    expected = {path: worker.ask(path) for path in wholes}
    assert all(told.code == 0 and not told.fault and told.digest for all_told in expected.values() for told in all_told)
    for case in range(count):
        rng = random.Random(f"{seed}/{case}")
        whole, name, sealed = rng.choice(list(wholes)), rng.choice(list(DAMAGES)), rng.random() < 0.8
        content = bytearray(whole.read_bytes() if sealed else without_seal(whole.read_bytes()))
        DAMAGES[name](rng, content, whole)
        damaged.write_bytes(content)
        for command, told, right in zip(
            ("validate", "tree-build", "digest"), worker.ask(damaged), expected[whole], strict=False
        ):
            if told.fault:
                outcome = failure = told.fault
            elif told.code == 3:
                outcome, failure = "refused", ""
            elif told.digest == right.digest:
                outcome, failure = "equal", ""
            else:
                outcome, failure = "changed", "read as something else" if sealed and command != "digest" else ""
            outcomes[f"{command}{'' if sealed else ', without a seal'}: {outcome.partition(':')[0]}"] += 1
            if failure:
                kept = folder / f"case-{case}.parquet"
                kept.write_bytes(content)
                failures.append(
                    f"case {case} ({name}, {whole.name}, {'sealed' if sealed else 'without a seal'}), {command}: {failure}"
                )
    worker.end()
    for outcome, number in sorted(outcomes.items()):
        print(f"  {outcome}: {number}")
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="Folder for the files, the failing cases among them.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = given.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        failures = campaign(given.count, given.seed, place)
    print("\n".join(failures))
    print(f"broken_files: {given.count} cases, {len(failures)} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()

"""Outputs: whole or absent, whatever happens in between, and never in the place of what apportion did not write."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from apportion.formats import files, leftovers, renaming
from apportion.formats.errors import ApportionError, UsageError
from apportion.formats.files import check_output, whole_directory, whole_file
from apportion.formats.leftovers import temporary_beside
from apportion.formats.own import with_files
from apportion.formats.parquet import partial_name, write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.stages.assign_credit._examples import rollouts_of


@pytest.fixture(params=["renameat2", "links", "neither"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the system offers: Linux's rename with flags; hard links alone; neither."""
    if request.param != "renameat2":
        monkeypatch.setattr(renaming, "_system_call", lambda: None)
    if request.param == "neither":

        def no_links(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", no_links)
    return request.param


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_folder(path: Path, text: str, *, force: bool = False) -> None:
    """A directory that is a checkpoint, for all that `--force` cares."""
    with whole_directory(path, force=force) as folder:
        (folder / "weights").write_text(text)
        (folder / "apportion.json").write_text(with_files(Provenance(), ["weights", "apportion.json"]))


# ------------------------------------------------------------------------------------------------ exclusive


def test_of_two_that_write_at_the_same_time_the_first_wins_and_nothing_is_lost(tmp_path: Path, system: str) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(ApportionError, match=r"out: exists already, another command wrote it meanwhile; .*\.done"),
        whole_file(out, force=False) as second,
    ):
        second.write_text("second")
        with whole_file(out, force=False) as first:
            first.write_text("first")
    assert names(tmp_path) == ["out", f"out.{os.getpid()}.done"]
    assert (out.read_text(), (tmp_path / f"out.{os.getpid()}.done").read_text()) == ("first", "second")


def test_so_with_directories(tmp_path: Path, system: str) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(ApportionError, match="exists already, another command wrote it meanwhile"),
        whole_directory(out, force=False) as second,
    ):
        (second / "weights").write_text("second")
        write_folder(out, "first")
    assert names(tmp_path) == ["out", f"out.{os.getpid()}.done"]
    assert (out / "weights").read_text() == "first"
    assert (tmp_path / f"out.{os.getpid()}.done/weights").read_text() == "second"


@pytest.mark.parametrize(
    "write", [lambda path, text: path.write_text(text), lambda path, text: write_folder(path, text)]
)
def test_a_directory_is_not_put_in_the_place_of_what_just_came(
    tmp_path: Path, system: str, write: Callable[[Path, str], None]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ApportionError, match="exists already"), whole_directory(out, force=False) as folder:
        (folder / "weights").write_text("late")
        write(out, "early")
    assert (out / "weights" if out.is_dir() else out).read_text() == "early"


def test_with_force_the_last_wins_whole(tmp_path: Path, system: str) -> None:
    out = tmp_path / "out"
    write_folder(out, "old")
    with whole_directory(out, force=True) as last:
        (last / "weights").write_text("last")
        write_folder(out, "first", force=True)
    assert names(tmp_path) == ["out"]
    assert (out / "weights").read_text() == "last"
    (tmp_path / "file").write_text("old")
    with whole_file(tmp_path / "file", force=True) as last:
        last.write_text("last")
    assert (tmp_path / "file").read_text() == "last"


def test_what_was_put_into_a_directory_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, "old")
    with (
        pytest.raises(ApportionError, match=r"it holds 'mine'.*; what this one made is whole in"),
        whole_directory(out, force=True) as folder,
    ):
        (folder / "weights").write_text("new")
        (out / "mine").write_text("mine")
    assert names(out) == ["apportion.json", "mine", "weights"]
    assert (tmp_path / f"out.{os.getpid()}.done/weights").read_text() == "new"


# ------------------------------------------------------------------------------------------------ killed


KILL = """
import os, signal, sys
from pathlib import Path
from apportion.formats import files, renaming

renaming._system_call = lambda: None  # a system that cannot swap two names
usual, left = os.rename, [int(sys.argv[2])]

def rename(source, target):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    usual(source, target)

os.rename = rename
with files.whole_directory(Path(sys.argv[1]), force=True) as folder:
    (folder / "weights").write_text("new")
"""


@pytest.mark.parametrize(("at", "found"), [(1, "old"), (2, "old"), (3, "new")])
def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path, at: int, found: str) -> None:
    out = tmp_path / "out"
    write_folder(out, "old")
    ended = subprocess.run([sys.executable, "-c", KILL, str(out), str(at)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert out.exists() == (at != 2)
    with pytest.raises(UsageError, match="exists already"):
        check_output(out, force=False, directory=True)
    assert (out / "weights").read_text() == found
    assert names(tmp_path) == ["out"]


def test_where_the_second_rename_fails_the_old_one_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write_folder(out, "old")
    monkeypatch.setattr(renaming, "_system_call", lambda: None)

    def fails(source: Path, target: Path) -> None:
        if source.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        os.rename(source, target)

    monkeypatch.setattr(files, "rename_new", fails)
    with pytest.raises(ApportionError, match="Input/output error"):
        write_folder(out, "new", force=True)
    assert (out / "weights").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.4711.tmp").write_text("left")
    (tmp_path / ".out.1.probe").touch()
    (tmp_path / ".out.4712.tmp").mkdir()
    (tmp_path / ".out.4712.tmp/weights").touch()
    others = [".out.0.parquet.4711.old", ".output.4711.tmp", "out.4711.tmp", ".out.tmp"]  # of other outputs
    for name in others:
        (tmp_path / name).touch()
    with temporary_beside(out, directory=True) as folder, temporary_beside(out, directory=False) as file:
        check_output(out, force=False)
        assert names(tmp_path) == sorted([*others, folder.name, file.name])
    assert names(tmp_path) == sorted(others)


def test_a_name_that_another_container_uses_is_not_taken(tmp_path: Path) -> None:
    with temporary_beside(tmp_path / "out", directory=False) as first:
        first.write_text("first")
        with temporary_beside(tmp_path / "out", directory=False) as second:
            assert first != second
        assert first.read_text() == "first"


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda number: done.append(f"sync {Path(f'/proc/self/fd/{number}').readlink().name}")
    )
    monkeypatch.setattr(files, "rename_new", lambda source, target: (done.append("rename"), source.rename(target)))
    write_folder(tmp_path / "out", "new")
    at = done.index("rename")
    assert {"sync weights", "sync apportion.json", f"sync .out.{os.getpid()}.tmp"} <= set(done[:at])
    assert done[at + 1 :] == [f"sync {tmp_path.name}"]


def test_a_disk_that_does_not_keep_it_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with (
        pytest.raises(ApportionError, match=r"out: not written \(No space left"),
        whole_file(tmp_path / "out", force=False),
    ):
        pass
    assert names(tmp_path) == []


# ------------------------------------------------------------------------------------------------ links


@pytest.mark.parametrize("there", [False, True])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far/real", tmp_path / "link"
    link.symlink_to(real)
    if there:
        real.write_text("old")
        with pytest.raises(UsageError, match="link: exists already"):
            check_output(link, force=False)
    check_output(link, force=there)
    with whole_file(link, force=there) as temporary:
        assert temporary.parent == real.parent
        temporary.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_link_to_a_directory_is_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/weights").read_text() == "new"
    assert names(tmp_path) == ["link", "real"]


def test_the_finished_part_lies_beside_what_a_link_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert partial_name(tmp_path / "link") == tmp_path / "real.partial"
    assert partial_name(Path("plain")) == Path("plain.partial")


def test_a_part_that_another_command_kept_is_not_replaced(tmp_path: Path) -> None:
    out, part = tmp_path / "out", tmp_path / "out.partial"
    part.write_text("another's")
    batches = [rollouts_of([1.0, 0.0], tokens=[[5], [6]])]
    with pytest.raises(ApportionError, match="partial: exists already"):
        write_rollouts(out, batches, Provenance(), is_partial=lambda: True)
    assert part.read_text() == "another's"
    write_rollouts(out, batches, Provenance(), is_partial=lambda: True, replace_partial=True)
    assert part.read_bytes().startswith(b"PAR1")


# ------------------------------------------------------------------------------------------------ what force replaces


def rollouts_in(path: Path, stage: str = "split", prefix: str = "") -> None:
    batch = rollouts_of([1.0, 0.0], tokens=[[5], [6]])
    named = {column: [prefix + name for name in batch.strings(column)] for column in ("rollout_id", "group_id")}
    write_rollouts(
        path, [batch.with_columns(named)], Provenance(history=(Record(stage=stage, version="1", parameters={}),))
    )


def parts(folder: Path) -> None:
    for name in "ab":
        rollouts_in(folder / f"{name}.parquet", prefix=name)


def checkpoint_of_before(folder: Path) -> None:
    history = Provenance(history=(Record(stage="train", version="0.9", parameters={}),))
    (folder / "apportion.json").write_text(history.to_json())
    for name in ("config.json", "model-00001-of-00002.safetensors", "optimizer.safetensors", "metrics.jsonl"):
        (folder / name).touch()


def and_(make: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        make(folder)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")

    return made


def of_two_stages(folder: Path) -> None:
    rollouts_in(folder / "a.parquet", "sample", "a")
    rollouts_in(folder / "b.parquet", "score", "b")


def linked(folder: Path) -> None:
    rollouts_in(folder.parent / "elsewhere.parquet")
    (folder / "a.parquet").symlink_to(folder.parent / "elsewhere.parquet")


def foreign_parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"x": [1]}), folder / "a.parquet")


def bad_history(folder: Path) -> None:
    checkpoint_of_before(folder)
    (folder / "apportion.json").write_text("{}{")


@pytest.mark.parametrize(
    ("make", "foreign"),
    [
        (lambda folder: None, None),
        (parts, None),
        (checkpoint_of_before, None),
        (and_(parts, "notes.txt"), "notes.txt"),
        (and_(parts, "c.parquet"), "c.parquet"),
        (and_(parts, "deep/c.parquet"), "deep"),
        (and_(checkpoint_of_before, "notes.txt"), "notes.txt"),
        (and_(checkpoint_of_before, "deep/model.safetensors"), "deep/model.safetensors"),
        (and_(lambda folder: None, "notes.txt"), "notes.txt"),
        (of_two_stages, "b.parquet"),
        (linked, "a.parquet"),
        (foreign_parquet, "a.parquet"),
        (bad_history, "apportion.json"),
    ],
    ids=["empty", "parts", "old checkpoint", "parts, note", "parts, no Parquet", "parts, folder", "checkpoint, note",
         "checkpoint, folder", "note", "two stages", "link", "another tool's", "damaged"],
)  # fmt: skip
def test_force_replaces_only_what_one_command_wrote(
    tmp_path: Path, make: Callable[[Path], None], foreign: str | None
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    make(out)
    before = sorted(path.name for path in out.rglob("*"))
    if foreign is None:
        check_output(out, force=True, directory=True)
    else:
        with pytest.raises(
            UsageError, match=f"out: --force does not replace this directory, since it holds '{foreign}'"
        ):
            check_output(out, force=True, directory=True)
        with pytest.raises(ApportionError, match="--force does not replace"):
            write_folder(out, "new", force=True)
    assert sorted(path.name for path in out.rglob("*")) == before


def test_force_does_not_replace_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep/deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep/deeper")
    for name in (".", "..", str(tmp_path / "deep")):
        with pytest.raises(UsageError, match="the working directory is in it"):
            check_output(Path(name), force=True, directory=True)


def test_force_does_not_replace_a_directory_by_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a directory, which --force does not replace by a file"):
        check_output(tmp_path, force=True)


def test_without_locks_nothing_is_taken_for_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".out.4711.tmp").touch()
    monkeypatch.setattr(leftovers, "fcntl", None)
    with whole_file(tmp_path / "out", force=False) as temporary:
        temporary.write_text("new")
    check_output(tmp_path / "out", force=True)
    assert names(tmp_path) == [".out.4711.tmp", "out"]

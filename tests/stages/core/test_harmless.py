"""What others wrote, on its way out."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from apportion.formats.parquet import write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.formats.ragged import Ragged
from apportion.formats.rollouts import Rollouts
from apportion.stages.assign_credit._examples import rollouts_of
from apportion.stages.core.harmless import UNSAFE, HarmlessStream, harmless, harmless_cell, harmless_json

BAD = "a\x1b]0;title\x07\x9b5m\u202eb\x7f\x00\u2066"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A rollout file in which every word is hostile."""
    batch = rollouts_of([1.0, 0.0]).with_columns(
        {"group_id": [BAD] * 2, "rollout_id": [f"{BAD}{row}" for row in range(2)], "text": [BAD, "=1+1"]}
        | {"flags": [[BAD], []], "token.advantage": Ragged.from_lists([[1.0], [0.5]], np.float32)}
    )
    named = Rollouts(batch.table.append_column(f"={BAD}", [[-0.5, 1.0]]))
    record = Record(stage=BAD, version=BAD, parameters={BAD: BAD, "model": BAD}, inputs={BAD: BAD})
    path = tmp_path / "hostile.parquet"
    write_rollouts(path, [named], Provenance(history=(record,), facts={BAD: BAD}))
    return path


def apportion(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "apportion", *map(str, words)], capture_output=True, text=True, errors="surrogateescape"
    )


def test_every_control_and_bidirectional_character_has_a_picture() -> None:
    bad = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    for code in bad:
        shown = harmless(chr(code))
        assert len(shown) == 1
        assert shown.isprintable() or shown in "\n\t"
    assert harmless("Zoë 𝄞 ‰ \n\t\u200d") == "Zoë 𝄞 ‰ \n\t\u200d"
    assert harmless("\ud800").encode() == "\ufffd".encode()


def test_json_has_the_same_content() -> None:
    text = json.dumps({BAD: [BAD, "ä\n\\u202e"]}, ensure_ascii=False)
    assert json.loads(harmless_json(text)) == json.loads(text)
    assert not UNSAFE.search(harmless_json(text))


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "--1", "+", "=1"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert harmless_cell(text) == f"'{harmless(text)}"


@pytest.mark.parametrize("text", ["-1", "+0.5", "-1e-9", "a=b", "", "1-2", "'=1"])
def test_what_is_no_formula_stays(text: str) -> None:
    assert harmless_cell(text) == text


def test_a_stream_writes_what_is_harmless() -> None:
    held = io.StringIO()
    stream = HarmlessStream(held)
    print(BAD, file=stream)  # type: ignore[arg-type]
    stream.writelines(["\x1b", "é\n"])
    assert held.getvalue() == f"{harmless(BAD)}\n␛é\n"
    assert stream.styled is held
    assert stream.isatty() is False


def test_no_command_lets_it_out(hostile: Path, tmp_path: Path) -> None:
    commands: list[list[object]] = [
        ["show", hostile], ["log", hostile], ["head", hostile, "-c", BAD.replace("\0", "")],
        ["inspect", hostile, "--group", "0", "--svg", tmp_path / "a.svg", "--html", tmp_path / "a.html"],
    ]  # fmt: skip
    for words in commands:
        result = apportion(*words)
        assert not UNSAFE.search(result.stdout), words
        assert not UNSAFE.search(result.stderr), words
        assert "Traceback" not in result.stderr, words
    for name in ("a.svg", "a.html"):
        assert not UNSAFE.search((tmp_path / name).read_text(encoding="utf-8"))


def test_csv_for_a_spreadsheet(hostile: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(apportion("show", hostile, "--to", "csv").stdout)))
    assert [row["text"] for row in rows] == [harmless(BAD), "'=1+1"]
    assert [row[f"'={harmless(BAD)}"] for row in rows] == ["-0.5", "1.0"]


@pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal")
def test_our_own_colours_reach_a_terminal(hostile: Path) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "apportion", "inspect", str(hostile), "--no-stats", "--no-tree"],
        stdout=theirs, env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"},
    ) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # Linux, when the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode().replace("\r\n", "\n")
    assert COLOUR.search(text)
    assert not UNSAFE.search(COLOUR.sub("", text))
    assert harmless("\x1b]0;title") in text

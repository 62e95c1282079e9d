"""Standard output that is full or closed, and a command that is told to stop."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")


def process(words: str, folder: Path, redirected: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    line = f"exec {shlex.quote(sys.executable)} -m apportion {words} {redirected}"
    known = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "words",
    ["list engines", "log scored.parquet", "show scored.parquet", "digest scored.parquet --json", "--version",
     "tree-build scored.parquet -o -"],
)  # fmt: skip
def test_a_full_disk_behind_standard_output_is_one_line(words: str, unbuffered: str, scored_file: Path) -> None:
    result = process(words, scored_file.parent, f">{FULL}", PYTHONUNBUFFERED=unbuffered)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "error: standard output: not written (No space left on device)"
    assert "Traceback" not in result.stderr


def test_closed_streams_take_nothing_from_a_command(scored_file: Path) -> None:
    for number, redirected in enumerate((">&-", "2>&-", "<&- >&- 2>&-")):
        out = scored_file.with_name(f"tree-{number}.parquet")
        result = process(f"tree-build scored.parquet -o {out.name}", scored_file.parent, redirected)
        assert (result.returncode, "Traceback" in result.stderr) == (0, False)
        assert out.is_file()


def test_a_command_that_is_told_to_end_leaves_nothing_half_written(scored_file: Path) -> None:
    folder = scored_file.parent
    (folder / "ends.py").write_text(
        "import os, signal, time\n"
        "from apportion.stages.score.kind import scorer\n"
        "@scorer(needs=(), granularity='rollout', source='test')\n"
        "def ends(rollouts):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    (folder / "files").mkdir()
    scored_file.rename(folder / "files" / "a.parquet")
    before = sorted(folder.rglob("*"))
    result = process("--plugin ends.py score files --with ends -o new/deep/scored", folder)
    assert (result.returncode, result.stdout) == (128 + signal.SIGTERM, "")
    assert "Traceback" not in result.stderr
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_an_import_swallows_is_not_lost(number: signal.Signals, scored_file: Path) -> None:
    (scored_file.parent / "swallows.py").write_text(
        "import os, time\n"
        "from apportion.stages.score.kind import scorer\n"
        "try:\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "except BaseException:\n"
        "    pass\n"
        "@scorer(needs=(), granularity='rollout', source='test')\n"
        "def waits(rollouts):\n"
        "    time.sleep(50)\n"
    )
    result = process("--plugin swallows.py score scored.parquet --with waits -o new.parquet", scored_file.parent)
    assert (result.returncode, result.stdout, "Traceback" in result.stderr) == (128 + number, "", False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_process_leaves_is_no_traceback(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(
        f"import atexit, os\natexit.register(lambda: [os.kill(os.getpid(), {int(number)}) for _ in range(2)])\n"
    )
    result = process("--plugin leaves.py list engines", tmp_path)
    assert (result.returncode, result.stderr) == (128 + number, "")


STOPS = """
import os, signal
from apportion.stages.tasks.played import Outcome
from apportion.stages.tasks import Problem, task_family

class Stops:
    spec, options, max_turns, turn_tokens, role, tools = "stops", {}, 1, 1, "user", ()

    def problems(self, split, count, seed):
        return (Problem(f"p{index}", [{"role": "user", "content": "1+1"}], None) for index in range(count))

    def environment(self, problem):
        return self

    def reset(self, seed):
        return ""

    def step(self, action):
        if not hasattr(self, "told"):
            self.told = os.kill(os.getpid(), signal.SIGINT)
        return Outcome(observation="", done=True)

task_family("stops")(lambda spec, options: Stops())
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run recipe.yaml --dir run", "error: recipe.yaml, step 1 (sample): run/a.parquet: stopped by SIGINT, 2 groups are "
         "in run/a.parquet.partial; the same run goes on with them"),
        ("eval policy --task stops --prompts 2 -n 1 --device cpu", "error: stopped, nothing kept; a new evaluation starts over"),
    ],
)  # fmt: skip
def test_sampling_within_another_command_is_stopped_in_one_line(words: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "stops.py").write_text(STOPS)
    (tmp_path / "recipe.yaml").write_text(
        "steps:\n  - sample: {task: stops, prompts: 2, n: 1, device: cpu, out: a.parquet}\n"
    )
    result = process(f"--plugin stops.py {words}", tmp_path)
    assert result.returncode == 128 + signal.SIGINT
    assert result.stderr.splitlines() == ["SIGINT: stopping after this batch; send it again to stop at once", said]

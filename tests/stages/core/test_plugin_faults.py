"""What a plugin gets wrong: one line that names the entry, what it gave and what is needed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

Cli = Callable[..., Result]
pytestmark = pytest.mark.usefixtures("forget_plugins")

METHOD = """
from apportion.plugin import credit_method
import numpy as np

@credit_method(granularity="{granularity}", methodology="monte-carlo", source="theirs", evidence="guess")
def theirs({parameters}):
    return {value}
"""


@pytest.fixture
def assign(cli: Cli, scored_file: Path, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Assigns credit with a method of a plugin that returns this value; the exit code and what is said."""

    def run(value: str, granularity: str = "rollout", parameters: str = "reward, groups") -> tuple[int, str]:
        plugin = tmp_path / "theirs.py"
        plugin.write_text(METHOD.format(value=value, granularity=granularity, parameters=parameters))
        out = tmp_path / "out.parquet"
        result = cli("assign-credit", scored_file, "--method", "theirs", "--plugin", plugin, "-o", out, "--force")
        return result.exit_code, result.stderr.replace(f"{tmp_path}/", "")

    return run


@pytest.mark.parametrize(
    ("value", "granularity", "said"),
    [
        ("reward[:-1]", "rollout", "must give an array of 4 (rollouts) or 16 (tokens) numbers; gave an array of shape (3,), float64"),
        ("list(reward)", "rollout", "must give an array of 4 (rollouts) or 16 (tokens) numbers; gave a list of 4"),
        ("None", "rollout", "must give an array of 4 (rollouts) or 16 (tokens) numbers; gave None"),
        ("reward", "token", "must give an array of 16 (tokens) numbers; gave an array of shape (4,), float64"),
        ("reward * 1j", "rollout", "must give an array of 4 (rollouts) or 16 (tokens) numbers; gave an array of shape (4,), complex128"),
    ],
)  # fmt: skip
def test_credit_of_another_shape(
    assign: Callable[..., tuple[int, str]], value: str, granularity: str, said: str
) -> None:
    assert assign(value, granularity) == (1, f"error: credit method theirs: {said}\n")


def test_an_exception_is_the_plugins_own_frames_and_a_line(assign: Callable[..., tuple[int, str]]) -> None:
    assert assign("reward / {}") == (
        1,
        '  File "theirs.py", line 7, in theirs\n    return reward / {}\n'
        "error: credit method theirs: TypeError: unsupported operand type(s) for /: 'float' and 'dict' "
        "(line 7 of theirs.py, in theirs)\n",
    )


def test_an_exit_in_a_plugin_is_a_fault_and_no_success(assign: Callable[..., tuple[int, str]]) -> None:
    code, said = assign("__import__('sys').exit(0)")
    assert code == 1
    assert said.endswith("error: credit method theirs: SystemExit: 0 (line 7 of theirs.py, in theirs)\n")


def test_a_fact_that_there_is_not(assign: Callable[..., tuple[int, str]]) -> None:
    assert assign("reward", granularity="tokn") == (
        2,
        "error: --plugin theirs.py: unknown granularity of credit method theirs 'tokn'; did you mean 'token'? "
        "(line 5 of theirs.py)\n",
    )


def test_an_option_that_is_positional(assign: Callable[..., tuple[int, str]]) -> None:
    assert assign("reward", parameters="reward, groups, beta=0.1") == (
        2,
        "error: --plugin theirs.py: credit method theirs: the option 'beta' must be keyword-only; put `*,` before it "
        "(line 5 of theirs.py)\n",
    )


def test_an_option_without_a_type(assign: Callable[..., tuple[int, str]]) -> None:
    assert assign("reward", parameters="reward, *, beta=0.1") == (
        2,
        "error: --plugin theirs.py: credit method theirs: the option 'beta' needs a type, such as `beta: float` "
        "(line 5 of theirs.py)\n",
    )


OTHERS = """
from apportion.plugin import *
import numpy as np

@scorer(needs=("text",), granularity="rollout", source="ours", makes=("reward",))
def nothing(rollouts): return None

@scorer(needs=("text",), granularity="rollout", source="ours", makes=("reward",))
def words(rollouts): return {"reward": ["good"] * len(rollouts)}

@scorer(needs=("text",), granularity="rollout", source="ours", makes=("reward",))
def few(rollouts): return {"reward": [1.0]}

@strategy(source="ours")
def number(context): yield 5

@strategy(source="ours")
def silent(context): return None

@strategy(source="ours")
def late(context):
    yield respond(context, list(context.problems))
    raise ValueError("after the first batch")

class Theirs:
    spec, options = "theirs", {}
    def problems(self, split, count, seed):
        return [Problem(str(number), [{"role": "user", "content": "hi"}], number) for number in range(count)]
    def verify(self, text, reference): return "good"

@task_family("theirs")
def theirs(spec): return Theirs()

@task_family("nobody")
def nobody(spec): return None

class Raising(Theirs):
    spec = "raising"
    def verify(self, text, reference): raise IndexError("none left")

@task_family("raising")
def raising(spec): return Raising()

@objective(needs=("token.advantage", "token.logprob"), source="ours")
def lossless(tokens): return None

@objective(needs=("token.advantage", "token.logprob"), source="ours")
def shorter(tokens): return -tokens.logprob[1:], {}

@objective(needs=("token.advantage", "token.logprob"), source="ours")
def constant(tokens): return tokens.advantage, {}
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("score {scored} --with nothing", "scorer nothing: must give {column: one value a rollout}, gave None"),
        ("score {scored} --with few", "scorer few: gave 1 values for column 'reward'; must give "),
        ("score {scored} --with words", "scorer words: its columns 'reward' are not what they must be: "),
        ("sample --prompts 2 -n 2 --strategy number", "strategy number: must give batches of Rollouts; gave 5"),
        ("sample --prompts 2 -n 2 --strategy silent", "strategy silent: must give batches of Rollouts; gave None"),
        ("sample --prompts 2 -n 2 --strategy late", "strategy late: ValueError: after the first batch (line 23 of others.py, in late)"),
        ("sample --prompts 2 -n 2 --task nobody", "task nobody: must give an object with spec, options, problems and verify; gave None"),
        ("eval policy --prompts 2 -n 2 --task theirs", "task theirs: verify: must give a number; gave 'good'"),
        ("eval policy --prompts 2 -n 2 --task raising", "plugin others.py: IndexError: none left (line 39 of others.py, in verify)"),
        ("train {credit} --objective lossless", "objective lossless: must give a loss of "),
        ("train {credit} --objective shorter", "objective shorter: must give a loss of "),
        ("train {credit} --objective constant", "objective constant: must give a loss that depends on logprob; gave an array"),
    ],
)  # fmt: skip
def test_a_plugins_mistake_is_one_line(cli: Cli, chain: Path, tmp_path: Path, words: str, said: str) -> None:
    plugin = tmp_path / "others.py"
    plugin.write_text(OTHERS)
    line = words.format(scored=chain / "scored.parquet", credit=chain / "credit.parquet").split()
    result = cli(*line, "--plugin", plugin, "-o", tmp_path / "out")
    assert result.exit_code == 1, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------ where plugins are named

LISTED = METHOD.format(granularity="rollout", parameters="reward, groups", value="reward")


@pytest.mark.parametrize("before", [True, False])
def test_plugin_stands_anywhere(cli: Cli, tmp_path: Path, before: bool) -> None:
    (tmp_path / "theirs.py").write_text(LISTED)
    named, words = ["--plugin", tmp_path / "theirs.py"], ["list", "methods"]
    result = cli(*(named + words if before else words + named))
    assert result.exit_code == 0
    assert "theirs" in result.stdout


def test_the_environment_names_plugins(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text(LISTED)
    monkeypatch.setenv("APPORTION_PLUGINS", f"{tmp_path / 'theirs.py'}:")
    assert "theirs" in cli("list", "methods").stdout
    monkeypatch.setenv("APPORTION_PLUGINS", "gone.py")
    result = cli("list", "methods")
    assert (result.exit_code, result.stderr) == (2, "error: APPORTION_PLUGINS: gone.py: no such file\n")


def test_a_recipe_names_plugins(cli: Cli, scored_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text(LISTED)
    Path("recipe.yaml").write_text(
        f"plugins: theirs.py\nsteps: [assign-credit: {{rollouts: {scored_file}, method: theirs, out: credit.parquet}}]\n"
    )
    assert cli("run", "recipe.yaml").exit_code == 0
    assert cli("run", "recipe.yaml", "--shell").stdout == (
        f"apportion --plugin theirs.py assign-credit {scored_file} --method theirs -o runs/recipe/credit.parquet\n"
    )
    Path("recipe.yaml").write_text("plugins: [3]\nsteps: [log: {path: x}]\n")
    result = cli("run", "recipe.yaml")
    assert (result.exit_code, result.stderr) == (
        2, "error: recipe.yaml: `plugins` is the path of a Python file, or a list of them\n",
    )  # fmt: skip


def test_an_entry_is_named_by_its_file(cli: Cli, scored_file: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(f"{LISTED}\ndef plain(reward): return reward\n")
    words = ["assign-credit", scored_file, "-o", tmp_path / "out.parquet", "--method"]
    assert cli(*words, f"{tmp_path / 'theirs.py'}:theirs").exit_code == 0
    result = cli(*words, f"{tmp_path / 'theirs.py'}:plain", "--force")
    assert result.exit_code == 2
    assert result.stderr.endswith(
        "theirs.py:plain: not registered as a credit method; put the decorator of its kind above it (docs/plugins.md)\n"
    )


def test_two_plugins_have_helpers_of_one_name(cli: Cli, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper_of_two.py").write_text(f"NAME = 'method_{name}'\n")
        code = LISTED.replace("import numpy as np", "from helper_of_two import NAME").replace(
            "theirs(", f"theirs_{name}("
        )
        (tmp_path / name / f"{name}.py").write_text(f"{code}\ntheirs_{name}.__doc__ = NAME\n")
    result = cli("list", "methods", "--plugin", tmp_path / "one/one.py", "--plugin", tmp_path / "two/two.py")
    assert "method_one" in result.stdout
    assert "method_two" in result.stdout


# ------------------------------------------------------------------------------------------------ options of text


@pytest.mark.parametrize("text", ["42", "1e3", "true", "3.50"])
def test_a_text_option_takes_the_text(cli: Cli, chain: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "out.parquet"
    words = ["score", chain / "scored.parquet", "--with", "pattern", "--set", f"regex={text}"]
    assert cli(*words, "-o", out).exit_code == 0
    shell = cli("log", out, "--shell").stdout.splitlines()[-1]
    assert f"""'regex="{text}"'""" in shell

"""Code that comes with a model runs where the command line says so, and nowhere else."""

import json
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from apportion.formats.errors import ApportionError, UsageError
from apportion.formats.parquet import RolloutFile, write_rollouts
from apportion.formats.provenance import Provenance, Record
from apportion.stages.core.driver import _in_order
from apportion.stages.core.trust import remote_code_is_trusted, trust_remote_code
from apportion.stages.models.policy import TINY, ModelSource, check_recorded, load_policy, load_tokenizer
from typer.testing import Result

Cli = Callable[..., Result]

MODELING = """
from pathlib import Path
Path({canary!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

class OddConfig(LlamaConfig):
    model_type = "odd"

class OddModel(LlamaForCausalLM):
    config_class = OddConfig

class OddTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def odd(tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A model whose config and tokenizer only its own code can read, and someone at the keyboard who says yes."""
    folder = tmp_path / "odd"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    change(folder / "config.json", model_type="odd", architectures=["OddModel"],
           auto_map={"AutoConfig": "modeling_odd.OddConfig", "AutoModelForCausalLM": "modeling_odd.OddModel"})  # fmt: skip
    change(folder / "tokenizer_config.json", tokenizer_class="OddTokenizer",
           auto_map={"AutoTokenizer": [None, "modeling_odd.OddTokenizer"]})  # fmt: skip
    (folder / "modeling_odd.py").write_text(MODELING.format(canary=str(canary)))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", StringIO("y\n" * 20))
    yield folder
    trust_remote_code(False)


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def naming(model: str, chain: Path, tmp_path: Path) -> Path:
    """A file whose history says that this model sampled it."""
    path = tmp_path / "named.parquet"
    record = Record(stage="sample", version="0.1.0", parameters={"model": model})
    write_rollouts(path, [RolloutFile(chain / "credit.parquet").read()], Provenance(history=(record,)), force=True)
    return path


@pytest.mark.parametrize(
    "load",
    [load_tokenizer, load_policy, lambda spec: ModelSource(spec).tokenizer, lambda spec: ModelSource(spec).load()],
)
def test_it_does_not_run_and_no_one_is_asked(load: Callable[[str], Any], odd: Path, canary: Path) -> None:
    with pytest.raises(ApportionError, match=r"code of its own, which was not run; .* --trust-remote-code before"):
        load(str(odd))
    assert not canary.exists()
    assert sys.stdin.read().count("y") == 20


def test_commands_run_it_only_with_the_flag(cli: Cli, odd: Path, canary: Path, tmp_path: Path) -> None:
    words = ("sample", "--model", odd, "--prompts", 1, "-n", 2, "--max-tokens", 4, "--device", "cpu", "-o", tmp_path / "a.parquet")  # fmt: skip
    refused = cli(*words)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "--trust-remote-code" in refused.stderr
    assert not canary.exists()
    trusted = cli("--trust-remote-code", *words)
    assert trusted.exit_code == 0, trusted.stderr
    assert canary.exists()
    assert remote_code_is_trusted()
    assert cli("list", "objectives").exit_code == 0
    assert not remote_code_is_trusted()


@pytest.mark.parametrize("flag", [(), ("--trust-remote-code",)])
def test_a_history_is_never_trusted(
    flag: tuple[str, ...], cli: Cli, odd: Path, canary: Path, chain: Path, tmp_path: Path
) -> None:
    path = naming(str(odd), chain, tmp_path)
    for words in (("inspect", path, "--no-stats"), ("diff", path, path)):
        shown = cli(*flag, *words)
        assert shown.exit_code == 0, shown.stderr
        assert shown.stderr.endswith(
            "the file's history names it, but it comes with code of its own; name a model with --model\n"
        )
    scored = cli(*flag, "score", path, "--with", "steps", "-o", tmp_path / "b.parquet")
    assert scored.exit_code == 2
    assert "comes with code of its own; steps needs a model; name it with --set model=MODEL" in scored.stderr
    assert not canary.exists()


def test_workers_are_told() -> None:
    trust_remote_code(True)
    try:
        jobs: list[Any] = [remote_code_is_trusted] * 2
        assert list(_in_order(jobs, 2)) == [True, True]
    finally:
        trust_remote_code(False)


def test_a_history_makes_nobody_look_anything_up(
    cli: Cli, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda _, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *about, **_: asked.append(about) or [])
    path = naming("someone/something", chain, tmp_path)
    shown = cli("inspect", path, "--no-stats")
    assert shown.exit_code == 0
    assert "'someone/something': the file's history names it, but it is not on this machine" in shown.stderr
    assert cli("score", path, "--with", "steps", "-o", tmp_path / "b.parquet").exit_code == 2
    assert not asked


def test_what_is_plain_and_here_is_taken(chain: Path, cli: Cli, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(TINY, plain, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for model in (str(plain), "builtin:tiny"):
        check_recorded(model)
        shown = cli("inspect", naming(model, chain, tmp_path), "--no-stats")
        assert (shown.exit_code, shown.stderr) == (0, "")
    for model in ("builtin:none", "nowhere/at/all", str(tmp_path), "{'#@SUM/x!'}", "a\0/b", "x" * 5000):
        with pytest.raises(UsageError):
            check_recorded(model)


def test_weights_that_are_a_pickle_run_nothing(odd: Path, canary: Path, tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (canary,)

    folder = tmp_path / "pickled"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.py", "*.safetensors", "__pycache__"))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Bomb()}))
    with pytest.raises(ApportionError, match="cannot be loaded"):
        load_policy(str(folder))
    assert not canary.exists()

"""What the exporters write and the importers read, against TRL's own functions and trainers. Skipped where TRL is not installed:
pip install trl==1.16.0 datasets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apportion.formats.parquet import RolloutFile
from apportion.stages.models.policy import TINY
from typer.testing import Result

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

Cli = Callable[..., Result]
USER = {"role": "user", "content": "What colour is the sky?"}
BLUE = {"role": "assistant", "content": "It is blue."}
GREEN = {"role": "assistant", "content": "It is green."}


def exported(cli: Cli, source: Path, out: Path, format: str, *settings: str) -> Any:
    """The export as a data set that TRL is given."""
    from datasets import Dataset

    words = [word for each in settings for word in ("--set", each)]
    done = cli("export", source, "--format", format, *words, "-o", out)
    assert done.exit_code == 0, done.stderr
    whole = Dataset.from_json(str(out), cache_dir=str(out.parent / "cache"))
    assert len(whole) == len(out.read_text(encoding="utf-8").splitlines())
    return whole


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "so: yes", "rejected": "so: yesterday's"},
        {"prompt": [USER], "chosen": [BLUE], "rejected": [GREEN]},
        {"chosen": [USER, BLUE], "rejected": [USER, GREEN]},
        {"prompt": "other", "chosen": [USER, BLUE], "rejected": [USER, GREEN]},
    ],
)
def test_a_prompt_ends_where_trl_says(pair: Any, cli: Cli, tmp_path: Path) -> None:
    data = pytest.importorskip("trl.data_utils")
    expected = data.maybe_extract_prompt(dict(pair))
    source, out = tmp_path / "pairs.jsonl", tmp_path / "pairs.parquet"
    source.write_text(json.dumps(pair) + "\n", encoding="utf-8")
    assert cli("import", source, "-o", out).exit_code == 0
    form = "chat" if data.is_conversational(expected) else "text"
    done = cli(
        "export",
        out,
        "--format",
        "preference",
        "--set",
        "by=pair_role",
        "--set",
        f"form={form}",
        "-o",
        tmp_path / "b.jsonl",
    )
    assert done.exit_code == 0, done.stderr
    back = json.loads((tmp_path / "b.jsonl").read_text(encoding="utf-8"))
    assert {name: back[name] for name in ("prompt", "chosen", "rejected")} == expected


@pytest.mark.parametrize("form", ["chat", "text"])
def test_trl_takes_pairs_and_labels_for_what_they_are(form: str, cli: Cli, chain: Path, tmp_path: Path) -> None:
    data = pytest.importorskip("trl.data_utils")
    pairs = exported(cli, chain / "credit.parquet", tmp_path / "pairs.jsonl", "preference", f"form={form}")
    assert all(data.is_conversational(row) is (form == "chat") for row in pairs)
    assert [data.maybe_extract_prompt(row) for row in pairs] == list(pairs)
    labels = data.unpair_preference_dataset(pairs)
    own = exported(cli, chain / "credit.parquet", tmp_path / "labels.jsonl", "unpaired", f"form={form}")
    assert set(own.column_names) <= set(labels.column_names)
    assert {name: own.features[name] for name in own.column_names} == {
        name: labels.features[name] for name in own.column_names
    }


def test_text_pairs_are_tokenised_as_they_were_sampled(cli: Cli, chain: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    batch = RolloutFile(chain / "credit.parquet").read()
    sampled = {(*batch.ragged("prompt_ids")[row].tolist(), *batch.token_ids[row].tolist()) for row in range(len(batch))}
    for settings in (("form=text",), ("siblings=true",)):
        out = tmp_path / f"{settings[0]}.jsonl"
        for pair in exported(cli, chain / "credit.parquet", out, "preference", *settings):
            for role in ("chosen", "rejected"):
                ids = tokenizer(pair["prompt"] + pair[role])["input_ids"]
                assert any(each[: len(ids)] == tuple(ids) and len(each) - len(ids) <= 1 for each in sampled), (
                    "but for the end"
                )


@pytest.mark.parametrize(
    ("format", "settings", "trainer"),
    [
        ("preference", ("form=chat",), "DPO"), ("preference", ("form=text",), "DPO"), ("preference", ("siblings=true",), "DPO"),
        ("preference", ("form=chat",), "Reward"), ("unpaired", ("form=chat",), "KTO"), ("unpaired", ("form=text",), "KTO"),
        ("prompt_completion", ("form=chat", "by="), "SFT"), ("prompt_completion", ("form=text", "by="), "SFT"),
    ],
)  # fmt: skip
def test_trl_trains_on_what_is_written(
    format: str, settings: tuple[str, ...], trainer: str, cli: Cli, chain: Path, tmp_path: Path
) -> None:
    trl = pytest.importorskip("trl")
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    rows = exported(cli, chain / "credit.parquet", tmp_path / "rows.jsonl", format, *settings)
    maker = AutoModelForSequenceClassification if trainer == "Reward" else AutoModelForCausalLM
    model = maker.from_pretrained(TINY, **({"num_labels": 1} if trainer == "Reward" else {}))
    config = getattr(trl, f"{trainer}Config")(
        output_dir=str(tmp_path / "policy"), max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to="none",
        logging_steps=1, save_strategy="no", bf16=False,
    )  # fmt: skip
    run = getattr(trl, f"{trainer}Trainer")(
        model=model, args=config, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(TINY)
    )
    run.train()
    losses = [each["loss"] for each in run.state.log_history if "loss" in each]
    assert len(losses) == 2
    assert np.isfinite(losses).all()

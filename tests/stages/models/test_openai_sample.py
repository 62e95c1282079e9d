"""`apportion sample` with a server: the file, what is marked in it, and how a run goes on that was cut off."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from apportion.formats.parquet import RolloutFile
from typer.testing import Result

Serve = Callable[..., Any]


def sampled(cli: Callable[..., Result], server: Any, out: Path, *more: object) -> Result:
    line = ("sample", "--engine", "openai", "--engine-set", f"base_url={server.url}", "--engine-set", "retries=1")
    return cli(*line, "--prompts", 4, "-n", 2, "--max-tokens", 16, "-o", out, *more)


def test_sample_makes_a_file_that_validates(serve: Serve, cli: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "rollouts.parquet"
    result = sampled(cli, serve(), out)
    assert result.exit_code == 0, result.output
    assert cli("validate", out).exit_code == 0
    file = RolloutFile(out)
    rows = file.read()
    assert file.provenance.facts == {"tokens_exact": True}
    assert rows.strings("policy") == ["served:tiny"] * 8
    assert rows.strings("engine") == ["openai vllm fp-1"] * 8
    assert rows.strings("error") == [None] * 8
    assert "token.logprob" in rows
    assert "token.raw_logprob" not in rows


def test_a_tempered_run_keeps_the_raw_logprobs_alone(serve: Serve, cli: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "rollouts.parquet"
    assert sampled(cli, serve(), out, "--temperature", 0.7).exit_code == 0
    assert cli("validate", out).exit_code == 0
    rows = RolloutFile(out).read()
    assert "token.raw_logprob" in rows
    assert not {"token.logprob", "logprob_kind"} & set(rows.paths)


def test_a_run_without_token_ids_is_marked_and_not_trained_on(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path
) -> None:
    out, scored, credit = (tmp_path / f"{name}.parquet" for name in ("rollouts", "scored", "credit"))
    assert sampled(cli, serve(form="text"), out).exit_code == 0
    assert cli("validate", out).exit_code == 0
    assert RolloutFile(out).provenance.facts == {"tokens_exact": False}
    assert cli("score", out, "--with", "verify", "-o", scored).exit_code == 0
    assert cli("assign-credit", scored, "--method", "grpo", "-o", credit).exit_code == 0
    result = cli("train", credit, "--old-logprobs", "recompute", "--device", "cpu", "-o", tmp_path / "trained")
    assert (result.exit_code, "--allow-retokenized" in result.output) == (3, True)


def test_some_rollouts_failed_is_exit_code_4_and_the_others_are_written(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path
) -> None:
    out, server = tmp_path / "rollouts.parquet", serve()
    seeds: list[int] = []

    def third_row(body: dict[str, Any]) -> str | None:
        if "seed" in body and body["seed"] not in seeds:
            seeds.append(body["seed"])
        return "500" if body.get("seed") in seeds[2:3] else None

    server.fault_of = third_row
    result = sampled(cli, server, out, "--engine-set", "concurrency=1")
    assert result.exit_code == 4
    assert "error: " in result.output
    assert "1 rollouts failed (the first: HTTP 500: told to fail); they are flagged error" in result.output
    assert cli("validate", out).exit_code == 0
    rows = RolloutFile(out).read()
    assert rows.flagged("error").tolist() == [at == 2 for at in range(8)]
    assert rows.strings("finish_reason")[2] == "error"
    assert rows.strings("error") == [None, None, "HTTP 500: told to fail", *[None] * 5]
    assert rows.tokens.sizes.tolist()[2] == 0


@pytest.mark.parametrize(
    "more",
    [
        ("--strategy", "branch", "--prompts", 2, "--set", "initial=2"),
        ("--strategy", "dynamic", "--set", "live=2"),
        ("--task", "env/frozen_lake"),
    ],
    ids=str,
)
def test_strategies_get_over_a_failed_rollout(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path, more: tuple[object, ...]
) -> None:
    out, server, seeds = tmp_path / "rollouts.parquet", serve(), list[int]()

    def second_row(body: dict[str, Any]) -> str | None:
        if "seed" in body:
            seeds.append(body["seed"])
        return "500" if body.get("seed") in seeds[1:2] else None

    server.fault_of = second_row
    result = sampled(cli, server, out, "--engine-set", "concurrency=1", *more)
    assert result.exit_code == 4, result.output
    assert cli("validate", out).exit_code == 0
    if "dynamic" not in more:  # which may have dropped its group
        assert RolloutFile(out).read().flagged("error").any()


def test_all_rollouts_failed_is_exit_code_1_and_nothing_is_written(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "rollouts.parquet"
    result = sampled(cli, serve(fault_of=lambda body: "500" if "seed" in body else None), out)
    assert result.exit_code == 1
    assert "HTTP 500: told to fail" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["500", "drop"])
def test_a_run_whose_server_dies_goes_on_where_it_was(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path, fault: str
) -> None:
    out, whole, server = tmp_path / "rollouts.parquet", tmp_path / "whole.parquet", serve()
    more = ("--prompts", 12, "--set", "rows_at_once=8", "--engine-set", "concurrency=2")
    assert sampled(cli, server, whole, *more).exit_code == 0
    server.requests.clear()
    server.fault_of = lambda _: fault if len(server.requests) > 12 else None
    result = sampled(cli, server, out, *more)
    assert result.exit_code == 1
    assert "4 groups are in" in result.output
    assert not out.exists()
    server.fault_of, first = lambda _: None, len(server.requests)
    result = sampled(cli, server, out, *more, "--resume")
    assert result.exit_code == 0, result.output
    assert sum("seed" in request for request in server.requests[first:]) == 16
    assert RolloutFile(out).read().table.equals(RolloutFile(whole).read().table)


def test_a_signal_during_a_run_keeps_the_batch(serve: Serve, cli: Callable[..., Result], tmp_path: Path) -> None:
    server, out = serve(), tmp_path / "rollouts.parquet"

    def stop(body: dict[str, Any]) -> None:
        if sum("seed" in request for request in server.requests) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    server.fault_of = stop
    result = sampled(cli, server, out, "--set", "rows_at_once=4", "--engine-set", "concurrency=1")
    assert result.exit_code == 143, result.output
    assert "2 groups are in" in result.output
    assert sum("seed" in request for request in server.requests) == 4


def test_the_key_is_sent_and_not_recorded(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sesame")
    server, out = serve(key="sesame"), tmp_path / "rollouts.parquet"
    result = sampled(cli, server, out, "--engine-set", "api_key_env=SERVER_KEY")
    assert result.exit_code == 0, result.output
    assert {request["authorization"] for request in server.requests} == {"Bearer sesame"}
    assert b"sesame" not in out.read_bytes()
    assert b"sesame" not in pq.read_metadata(out).metadata[b"apportion"]


@pytest.mark.parametrize("held", ["sesame-1", "sesame-1\n"])
def test_a_key_that_a_server_repeats_is_neither_shown_nor_written(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setenv("SERVER_KEY", held)
    line = ("--engine-set", "api_key_env=SERVER_KEY", "--engine-set", "concurrency=1")
    refused = sampled(cli, serve(key="another"), tmp_path / "none", *line)
    assert (refused.exit_code, "no such key: Bearer ***" in refused.output) == (2, True), refused.output
    assert "sesame" not in refused.output
    server, out = serve(key="sesame-1"), tmp_path / "rollouts.parquet"
    seeds: list[int] = []

    def second_row(body: dict[str, Any]) -> str | None:
        if "seed" in body and body["seed"] not in seeds:
            seeds.append(body["seed"])
        return "500" if body.get("seed") in seeds[1:2] else None

    server.fault_of = second_row
    partly = sampled(cli, server, out, *line)
    assert (partly.exit_code, "told to fail ***" in partly.output) == (4, True), partly.output
    assert "sesame" not in partly.output
    assert RolloutFile(out).read().strings("error")[1] == "HTTP 500: told to fail ***"
    assert b"sesame" not in out.read_bytes()


@pytest.mark.parametrize("held", ["zq-1\nzq-2", "zqé", "“zq”"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    serve: Serve, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setenv("SERVER_KEY", held)
    result = sampled(cli, serve(), tmp_path / "none", "--engine-set", "api_key_env=SERVER_KEY")
    assert (result.exit_code, "the value of 'SERVER_KEY' has characters" in result.output) == (2, True), result.output
    assert "zq" not in result.output

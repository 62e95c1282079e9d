"""Rollouts in which a policy and an environment take turns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from apportion.formats.errors import UsageError
from apportion.formats.invariants import check_batch
from apportion.formats.parquet import RolloutFile
from apportion.formats.rollouts import Rollouts
from apportion.stages.models import open_engine
from apportion.stages.models.engine import Completion, EngineDefaults, Request, Sampling
from apportion.stages.models.policy import ModelSource, load_policy, load_tokenizer, render_prompt
from apportion.stages.sample import sample
from apportion.stages.sample.kind import SamplingContext
from apportion.stages.sample.play._interact import play_problems
from apportion.stages.tasks import TASKS, Problem, open_task, task_family
from apportion.stages.tasks.played import Action, Outcome
from typer.testing import Result

TOKENIZER = load_tokenizer("builtin:tiny")
END = TOKENIZER.eos_token_id


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


# What worlds of others may answer: half a character (JSON can hold one), numbers of other libraries.
ODD: Mapping[str, Mapping[str, Any]] = {
    "1+1": {"observation": "\ud800"}, "2+2": {"state": "\ud800"}, "3+3": {"kind": 3}, "4+4": {"reward": None},
    "5+5": {"reward": Decimal("0.5")}, "6+6": {"reward": torch.tensor(0.5), "done": np.bool_(True), "valid": 1},
}  # fmt: skip


@dataclass
class Counting:
    """Say "1" to count up; at `goal` it is done. "boom" raises, "nonsense" answers nonsense."""

    goal: int
    at: int = 0

    def reset(self, seed: int) -> str:
        if self.goal == 99:
            raise OSError("no world to be had")
        return "0"

    def step(self, action: Action) -> Outcome:
        if "boom" in action.text:
            raise RuntimeError("the world\nbroke")
        if "nonsense" in action.text:
            return Outcome(observation="", reward=float("nan"))
        if action.text in ODD:
            return replace(Outcome(observation="at 0"), **ODD[action.text])
        valid = action.text == "1"
        self.at += valid
        done = self.at == self.goal
        return Outcome(observation=f"at {self.at}", reward=0.25 + done, done=done, state=str(self.at), valid=valid)


@dataclass(frozen=True)
class CountingTask:
    spec: str = "counting"
    options: Mapping[str, Any] = field(default_factory=dict)
    max_turns: int = 4
    turn_tokens: int | None = None
    role: Any = "user"
    tools: Sequence[Any] = ()
    goal: int = 3
    broken: int | None = None  # the problem whose world cannot be had

    def problems(self, split: str, count: int, seed: int) -> Iterator[Problem]:
        for index in range(count):
            yield Problem(
                f"p{index}", [{"role": "user", "content": f"{index}+0"}], 99 if index == self.broken else self.goal
            )

    def verify(self, text: str, reference: Any) -> float:
        raise AssertionError("nothing to verify")

    def environment(self, problem: Problem) -> Counting:
        if problem.reference == 98:
            raise OSError("no server for \ud800")
        return Counting(problem.reference)


class Scripted(EngineDefaults):
    """An engine that says what `says(row, turn)` says; a text that ends in "…" is cut off. It keeps what it was asked."""

    name, version, identity, row_seeds, tokens_exact = "scripted", "1", "none", True, True

    def __init__(self, says: Callable[[int, int], str], tokenizer: Any = TOKENIZER, context: int | None = None):
        self.says, self.tokenizer, self.context = says, tokenizer, context
        self.seen: list[list[tuple[list[int], int, int | None]]] = []  # of each call: prefix, seed, max_tokens

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, on_progress: Any = None
    ) -> list[list[Completion]]:
        rows = [(request, seed) for request in requests for seed in request.seeds]
        self.seen.append([(list(request.prefix_ids), seed, request.max_tokens) for request, seed in rows])
        turn = len(self.seen) - 1
        made: list[list[Completion]] = []
        for request in requests:
            made.append([])
            for _ in request.seeds:
                row = sum(map(len, made))
                text = self.says(row, turn)
                said = self.tokenizer(text.removesuffix("…"), add_special_tokens=False)["input_ids"]
                ids = [*said, *([] if text.endswith("…") else [self.tokenizer.eos_token_id])]
                limit = min(sampling.max_tokens, request.max_tokens or sampling.max_tokens)
                reason = "length" if text.endswith("…") or len(ids) > limit else "stop"
                ids = ids[:limit]
                made[-1].append(
                    Completion(np.array(ids, np.int32), np.full(len(ids), -0.5, np.float32), reason)
                )  # fmt: skip
        return made


def run(
    engine: Any,
    *,
    task: CountingTask | None = None,
    n: int = 1,
    problems: int = 1,
    max_tokens: int = 64,
    model: str = "builtin:tiny",
) -> Rollouts:
    """What is played in one go."""
    task = task or CountingTask()
    source = ModelSource(model, "cpu")
    context = SamplingContext(
        task=task, problems=list(task.problems("train", problems, 0)), tokenizer=TOKENIZER, source=source, opened=engine,
        sampling=Sampling(max_tokens=max_tokens), n=n, seed=5, round=0, purpose="train", policy="none",
    )  # fmt: skip
    (rollouts,) = play_problems(context, task, rows_at_once=100)
    check_batch(rollouts, "test")
    return rollouts


def row_of(rollouts: Rollouts, row: int = 0) -> dict[str, Any]:
    found = rollouts.table.slice(row, 1).to_pylist()[0]
    return found | {f"step.{name}": value for name, value in found["step"].items()} | {
        f"token.{name}": value for name, value in found["token"].items()
    }  # fmt: skip


def test_a_rollout_is_what_was_said_and_what_was_answered() -> None:
    row = row_of(run(Scripted(lambda _, turn: ["1", "2", "1", "1"][turn])))
    said, seen = [*ids_of("1"), END], [ids_of(f"at {at}") + ids_of("<answer>") for at in (1, 1, 2)]
    assert row["token.id"] == [*said, *seen[0], *ids_of("2"), END, *seen[1], *said, *seen[2], *said]
    own = [[True] * 2, [False] * len(seen[0]), [True] * 2, [False] * len(seen[1])]
    assert row["token.mask"] == [flag for part in (*own, own[0], [False] * len(seen[2]), own[0]) for flag in part]
    assert row["token.logprob"] == [-0.5 if mine else 0.0 for mine in row["token.mask"]]
    assert (row["step.start"], row["step.end"]) == ([0, 7, 14, 21], [2, 9, 16, 23])
    assert all(all(row["token.mask"][a:b]) for a, b in zip(row["step.start"], row["step.end"], strict=True))
    assert (row["step.state"], row["step.reward"]) == (["0", "1", "1", "2"], [0.25, 0.25, 0.25, 1.25])
    assert (row["step.valid"], row["step.kind"]) == ([True, False, True, True], ["turn"] * 4)
    assert (row["reward"], row["finish_reason"], row["flags"], row["error"]) == (2.0, "stop", [], None)


def test_the_engine_sees_prompt_and_response_so_far_at_every_turn() -> None:
    engine = Scripted(lambda row, turn: "1" if (row + turn) % 3 else "2")
    rollouts = run(engine, n=3, problems=2, max_tokens=100)
    prompts, starts = rollouts.ragged("prompt_ids"), rollouts.ragged("step.start")
    for turn, calls in enumerate(engine.seen):
        expected = {
            (*prompts[row].tolist(), *rollouts.token_ids[row][: starts[row][turn]].tolist())
            for row in range(len(rollouts))
            if len(starts[row]) > turn
        }
        assert {tuple(prefix) for prefix, _, _ in calls} == expected
        assert all(limit == 100 - (len(prefix) - len(prompts[0])) for prefix, _, limit in calls)
    seeds = [seed for calls in engine.seen for _, seed, _ in calls]
    assert len(set(seeds)) == len(seeds)
    assert prompts[0].tolist() == render_prompt(TOKENIZER, [{"role": "user", "content": "0+0"}])


def test_equal_prefixes_are_one_request() -> None:
    counts: list[list[int]] = []

    class Counted(Scripted):
        def generate(
            self, requests: Sequence[Request], sampling: Sampling, on_progress: Any = None
        ) -> list[list[Completion]]:
            counts.append([len(request.seeds) for request in requests])
            return super().generate(requests, sampling)

    run(Counted(lambda row, turn: "1" if turn else str(row % 2 + 1)), n=4, problems=2, max_tokens=100)
    assert counts[:2] == [[4, 4], [2, 2, 2, 2]]


def test_an_environment_that_never_ends_is_left_after_max_turns() -> None:
    row = row_of(run(Scripted(lambda *_: "2")))
    assert (len(row["step.start"]), row["finish_reason"], row["flags"]) == (4, "length", ["truncated"])
    assert row["reward"] == 1.0
    assert row["token.mask"][-1]


def test_a_model_that_stops_at_once_says_nothing_and_is_answered() -> None:
    row = row_of(run(Scripted(lambda *_: "")))
    assert row["token.id"][:1] == [END]
    assert (row["step.end"][0], row["step.valid"]) == (1, [False] * 4)


def test_a_turn_that_the_budget_cuts_is_not_played() -> None:
    engine = Scripted(lambda _, turn: "1" if turn == 0 else "1" * 50)
    row = row_of(run(engine, max_tokens=20))
    assert len(row["token.id"]) == 20
    assert (row["step.start"], row["step.end"]) == ([0, 7], [2, 20])
    assert (row["step.reward"], row["step.valid"], row["step.state"]) == ([0.25, 0.0], [True, False], ["0", "1"])
    assert (row["reward"], row["finish_reason"], row["flags"]) == (0.25, "length", ["truncated"])


@pytest.mark.parametrize(("max_tokens", "turns"), [(7, 1), (8, 2)])
def test_an_observation_that_leaves_no_room_to_answer_is_left_out(max_tokens: int, turns: int) -> None:
    row = row_of(run(Scripted(lambda *_: "1"), max_tokens=max_tokens))
    assert len(row["step.start"]) == turns
    assert len(row["token.id"]) == (2 if turns == 1 else 8)
    assert (row["token.mask"][-1], row["flags"]) == (True, ["truncated"])


def test_a_rollout_ends_before_the_models_context_does() -> None:
    rollouts = run(Scripted(lambda *_: "2"), task=CountingTask(max_turns=10_000), max_tokens=5_000)
    row = row_of(rollouts)
    assert len(row["prompt_ids"]) + len(row["token.id"]) <= 512
    assert (len(row["step.start"]), row["flags"]) == (73, ["truncated"])


@pytest.mark.parametrize(("context", "turns"), [(64, 9), (512, 73), (None, 73)])
def test_the_context_is_the_engines_or_else_that_of_the_model_wherever_it_is_from(
    context: int | None, turns: int
) -> None:
    """builtin:tiny-blank has no directory with a config.json, as a model of the Hub has none."""
    engine = Scripted(lambda *_: "2", context=context)
    rollouts = run(engine, task=CountingTask(max_turns=10_000), max_tokens=5_000, model="builtin:tiny-blank")
    row = row_of(rollouts)
    assert len(row["prompt_ids"]) + len(row["token.id"]) <= (context or 512)
    assert (len(row["step.start"]), row["flags"], row["finish_reason"]) == (turns, ["truncated"], "length")


def test_an_episode_beyond_the_context_of_a_model_without_a_directory_is_truncated() -> None:
    engine = open_engine("transformers", ModelSource("builtin:tiny-blank", "cpu", "float32"))
    task = CountingTask(max_turns=10_000, turn_tokens=100)
    row = row_of(run(engine, task=task, max_tokens=5_000, model="builtin:tiny-blank"))
    assert (row["flags"], row["error"]) == (["truncated"], None)
    assert 400 < len(row["prompt_ids"]) + len(row["token.id"]) <= 512


def test_a_turn_of_turn_tokens_is_ended_by_the_template_and_played() -> None:
    row = row_of(run(Scripted(lambda *_: "1…"), task=CountingTask(turn_tokens=1)))
    observation = [END, *ids_of("at 1"), *ids_of("<answer>")]
    assert row["token.id"][:7] == [*ids_of("1"), *observation]
    assert row["token.mask"][:7] == [True] + [False] * 6
    assert (row["reward"], row["finish_reason"]) == (1.75, "stop")
    cut = row_of(run(Scripted(lambda *_: "1…")))
    assert (cut["reward"], cut["flags"], cut["step.end"]) == (0.0, ["truncated"], [1])


def test_an_environment_that_raises_ends_its_own_rollout_alone() -> None:
    says = ["1", "boom", "nonsense", "1"]
    rollouts = run(Scripted(lambda row, turn: "1" if turn else says[row]), n=4, max_tokens=100)
    rows = [row_of(rollouts, row) for row in range(4)]
    assert [row["error"] for row in rows] == [
        None, "RuntimeError: the world broke", "ValueError: step must return a finite reward, got nan", None
    ]  # fmt: skip
    assert [row["finish_reason"] for row in rows] == ["stop", "error", "error", "stop"]
    assert [row["flags"] for row in rows] == [[], ["error"], ["error"], []]
    assert [row["reward"] for row in rows] == [1.75, 0.0, 0.0, 1.75]
    assert (rows[1]["step.start"], rows[1]["step.end"]) == ([0], [5])


def test_an_environment_that_cannot_begin_gives_an_empty_flagged_row() -> None:
    row = row_of(run(Scripted(lambda *_: "1"), task=CountingTask(goal=99)))
    assert (row["token.id"], row["step.start"], row["flags"]) == ([], [], ["error"])
    assert row["error"] == "OSError: no world to be had"


def test_what_cannot_be_kept_ends_its_own_rollout_and_other_numbers_are_numbers() -> None:
    asked = list(ODD)
    rollouts = run(Scripted(lambda row, turn: "1" if turn else asked[row]), n=len(asked), max_tokens=100)
    rows = [row_of(rollouts, row) for row in range(len(asked))]
    errors = [row["error"] for row in rows]
    assert all("surrogates not allowed" in error for error in errors[:2])
    assert errors[2] == "TypeError: step must return an observation, a state and a kind that are strings"
    assert errors[3].startswith("TypeError: ")
    assert [row["flags"] for row in rows[:4]] == [["error"]] * 4
    assert [row["step.reward"][0] for row in rows[4:]] == [0.5, 0.5]
    assert [(row["finish_reason"], row["error"]) for row in rows[4:]] == [("stop", None)] * 2
    assert rows[5]["step.valid"] == [True]


def test_a_world_that_cannot_be_had_is_an_error_of_its_rollout() -> None:
    rollouts = run(Scripted(lambda *_: "1"), task=CountingTask(goal=98), n=2)
    rows = [row_of(rollouts, row) for row in range(2)]
    assert [row["error"] for row in rows] == ["OSError: no server for \\ud800"] * 2
    assert [row["flags"] for row in rows] == [["error"]] * 2


@pytest.fixture
def hermes() -> Any:
    """The tokenizer of builtin:tiny-blank with a template that writes calls between <tool_call> and </tool_call>."""
    tokenizer = load_tokenizer("builtin:tiny-blank")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    template = Path(__file__).parents[1] / "tasks" / "played" / "templates" / "hermes.jinja"
    tokenizer.chat_template = template.read_text(encoding="utf-8").removesuffix("\n")
    return tokenizer


def test_a_tool_is_called_the_way_the_chat_template_writes_it(hermes: Any) -> None:
    call = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "6*7"}}\n</tool_call>'
    task: Any = open_task("tool/calculator", {"of": "arithmetic", "terms": 1})
    problem = next(iter(task.problems("train", 1, 0)))
    engine = Scripted(lambda _, turn: [call, "<tool_call>oops", f"={problem.reference}"][turn], hermes, 4_096)
    context = SamplingContext(
        task=task, problems=[problem], tokenizer=hermes, source=ModelSource("builtin:tiny-blank", "cpu"), opened=engine,
        sampling=Sampling(max_tokens=1_000), n=1, seed=5, round=0, purpose="train", policy="none",
    )  # fmt: skip
    (rollouts,) = play_problems(context, task, rows_at_once=1)
    row = row_of(rollouts)

    def answered(result: str) -> str:
        return f"\n<|im_start|>user\n<tool_response>\n{result}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"

    assert hermes.decode(row["token.id"]) == (
        f"{call}<|im_end|>{answered('42')}<tool_call>oops<|im_end|>{answered('error: the tool call is not JSON')}"
        f"={problem.reference}<|im_end|>"
    )
    assert "calculate" in hermes.decode(row["prompt_ids"])
    assert (row["step.kind"], row["step.valid"]) == (["tool", "tool", "answer"], [True, False, True])
    assert (row["reward"], row["step.reward"], row["flags"]) == (1.0, [0.0, 0.0, 1.0], [])
    # What the policy wrote is what it will be trained on: exactly its own tokens.
    own = [token for token, mine in zip(row["token.id"], row["token.mask"], strict=True) if mine]
    assert hermes.decode(own) == f"{call}<|im_end|><tool_call>oops<|im_end|>={problem.reference}<|im_end|>"


def test_log_probabilities_are_those_of_one_pass_over_the_whole_rollout() -> None:
    source = ModelSource("builtin:tiny", "cpu")
    rollouts = run(
        open_engine("transformers", source), task=CountingTask(turn_tokens=3), n=3, problems=2, max_tokens=120
    )
    model = load_policy("builtin:tiny", device="cpu").model
    prompts, found = rollouts.ragged("prompt_ids"), rollouts.ragged("token.logprob")
    turns = 0
    for row in range(len(rollouts)):
        ids = np.concatenate((prompts[row], rollouts.token_ids[row])).astype(np.int64)
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids)[None]).logits[0].float()
        forced = torch.log_softmax(logits[:-1], -1).gather(1, torch.from_numpy(ids)[1:, None])[:, 0].numpy()
        mask = np.array(row_of(rollouts, row)["token.mask"])
        expected = np.where(mask, forced[len(prompts[row]) - 1 :], 0.0)
        np.testing.assert_allclose(found[row], expected, atol=1e-4)
        turns += len(rollouts.ragged("step.start")[row])
    assert turns == 24


@pytest.fixture
def counting() -> Iterator[None]:
    TASKS.load()
    task_family("counting")(lambda spec, options: CountingTask(options=options, **options))
    yield
    TASKS.remove("counting")


@pytest.mark.usefixtures("counting")
def test_sampled_validated_scored_and_credited(cli: Callable[..., Result], tmp_path: Path) -> None:
    raw, scored = tmp_path / "raw.parquet", tmp_path / "scored.parquet"
    options = ("--task", "counting", "--prompts", 3, "-n", 4, "--task-set", "turn_tokens=2", "--max-tokens", 60)
    assert cli("sample", *options, "--device", "cpu", "-o", raw).exit_code == 0
    assert cli("validate", raw).exit_code == 0
    assert cli("score", raw, "--with", "verify", "-o", scored).exit_code == 0
    before, after = RolloutFile(raw).read(), RolloutFile(scored).read()
    assert after.numbers("reward").tolist() == before.numbers("reward").tolist()
    for method, more in (
        ("gigpo", ("rewards=steps", "penalty=0.1")),
        ("turn_return", ("rewards=steps",)),
        ("grpo", ()),
    ):
        out = tmp_path / f"{method}.parquet"
        settings = [word for each in more for word in ("--set", each)]
        result = cli("assign-credit", scored, "--method", method, *settings, "-o", out)
        assert result.exit_code == 0, result.output
        assert cli("validate", out).exit_code == 0
        credit = RolloutFile(out).read()
        assert not credit.ragged("token.advantage").values[~credit.mask].any()
    again = tmp_path / "again.parquet"
    cli("sample", *options, "--device", "cpu", "-o", again)
    assert RolloutFile(again).read().table.equals(before.table)


@pytest.mark.usefixtures("counting")
def test_the_rows_of_a_run_do_not_depend_on_how_many_are_played_at_once(tmp_path: Path) -> None:
    tables = []
    for at_once in (4, 2048):
        out = tmp_path / f"{at_once}.parquet"
        sample(task="counting", prompts=3, n=4, max_tokens=40, device="cpu", out=out,
               settings={"rows_at_once": at_once}, task_settings={"turn_tokens": 2})  # fmt: skip
        tables.append(RolloutFile(out).read().table)
    for path in ("rollout_id", "reward", "text", "seed"):
        assert tables[0].column(path).to_pylist() == tables[1].column(path).to_pylist()


@pytest.mark.usefixtures("counting")
def test_some_environments_that_fail_are_exit_code_4(cli: Callable[..., Result], tmp_path: Path) -> None:
    out = tmp_path / "some.parquet"
    options = ("--task", "counting", "--prompts", 3, "-n", 2, "--max-tokens", 20, "--device", "cpu", "-o", out)
    result = cli("sample", *options, "--task-set", "broken=1")
    assert (result.exit_code, "no world to be had" in result.stderr) == (4, True)
    assert RolloutFile(out).read().flagged("error").tolist() == [False, False, True, True, False, False]
    assert cli("validate", out).exit_code == 0


@pytest.mark.usefixtures("counting")
def test_evaluation_counts_successes(cli: Callable[..., Result]) -> None:
    result = cli("eval", "policy", "--task", "counting", "--prompts", 3, "-n", 2, "--max-tokens", 20, "--device", "cpu")
    assert (result.exit_code, "pass@1 0.000" in result.stdout) == (0, True)


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize("strategy", ["branch", "demonstrate"])
def test_a_strategy_that_cannot_go_on_in_an_environment(strategy: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=f"--strategy {strategy} cannot play the environment of .*choose .*independent"
    ):
        sample(task="counting", strategy=strategy, device="cpu", out=tmp_path / "x.parquet")

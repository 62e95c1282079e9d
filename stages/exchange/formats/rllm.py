"""The episodes that rLLM logs, a file each."""

from collections.abc import Iterator, Mapping
from typing import Any

from ....formats.flags import ERROR, TRUNCATED
from ..kind import Sample, Source, Unmapped, importer
from ._messages import message, messages_of

ENDED_BY_LIMIT = ("max_turns_exceeded", "max_prompt_length_exceeded", "max_response_length_exceeded", "timeout")


@importer(
    "rllm",
    recognises=lambda source: source.has("episode_id", "task_hash", "trajectories"),
    exact=False,
    fills=(
        "prompt", "text", "reward", "iteration", "purpose", "episode_id", "part", "lineage", "flags", "error", "step.start", "step.end",
        "step.kind", "step.reward",
    ),
    loses=("the token ids that the policy sampled, so `train` refuses the file", "log-probabilities and advantages"),
    source="rLLM, utils/episode_logger.py of August 2026",
    evidence="code",
)  # fmt: skip
def read_episodes(source: Source) -> Iterator[Sample | Unmapped]:
    """Episodes of rLLM's trainer.episode_log_dir, one a file, in folders {mode}_step_S_epoch_E.

    A trajectory is a rollout; a group is a task, for each name of trajectories. A step whose conversation goes on from the step
    before it continues the row; any other begins a new part of the trajectory. A trajectory without a reward has 1 or 0, by whether
    the episode was correct. Episodes that ended by a limit are flagged truncated.
    """
    for _, episode in source.records():
        with source.record():
            names = {trajectory.get("name") for trajectory in episode["trajectories"]}
            for number, trajectory in enumerate(episode["trajectories"]):
                yield from _samples(source, episode, trajectory, number, several=len(names) > 1)


def _samples(
    source: Source, episode: Mapping[str, Any], trajectory: Mapping[str, Any], number: int, *, several: bool
) -> Iterator[Sample | Unmapped]:
    rows = _rows(trajectory["steps"])
    if not rows:
        yield Unmapped("trajectories in which the policy said nothing")
        return
    name, reward = trajectory.get("name"), trajectory.get("reward")
    ended = str(episode.get("termination_reason"))
    rollout = f"{episode['episode_id']}/{number}"
    for part, (chat, steps) in enumerate(rows):
        first = steps[0][0]
        own = {place for place, _ in steps}
        pieces = [(each["content"], place in own) for place, each in enumerate(chat) if place >= first]
        columns: dict[str, Any] = {
            "prompt": chat[:first],
            "text": "".join(text for text, _ in pieces),
            "reward": float(bool(episode.get("is_correct"))) if reward is None else reward,
            "iteration": episode.get("training_step"),
            "purpose": "eval" if source.path.parent.name.startswith("val") else "train",
            "lineage": name if several else None,
            "flags": [TRUNCATED] if ended in ENDED_BY_LIMIT else [ERROR] if ended == "error" else [],
            "error": "the workflow failed" if ended == "error" else None,
            "step.kind": ["turn"] * len(steps),
            "step.reward": [float(each or 0) for _, each in steps],
            **({"episode_id": rollout, "part": part} if len(rows) > 1 else {}),
        }
        yield Sample(
            where=source.place,
            rollout_id=f"{rollout}/{part}" if len(rows) > 1 else rollout,
            group_id=f"{episode['task_hash']}/{name}",
            pieces=pieces,
            columns={path: value for path, value in columns.items() if value is not None},
            record=episode,
        )


def _rows(steps: list[Mapping[str, Any]]) -> list[tuple[list[dict[str, str]], list[tuple[int, float | None]]]]:
    """Conversations, each with the places of the policy's messages in it and the rewards of their steps."""
    rows: list[tuple[list[dict[str, str]], list[tuple[int, float | None]]]] = []
    for step in steps:
        chat = messages_of(step.get("chat_completions") or ())
        if not chat or chat[-1]["role"] != "assistant":
            if not step.get("model_response"):
                continue
            chat.append(message("assistant", step["model_response"]))
        here = (len(chat) - 1, step.get("reward"))
        if rows and len(chat) > len(rows[-1][0]) and chat[: len(rows[-1][0])] == rows[-1][0]:
            rows[-1] = (chat, [*rows[-1][1], here])
        else:
            rows.append((chat, [here]))
    return rows

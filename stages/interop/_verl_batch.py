"""A batch of verl's v1 trainer, read from its TransferQueue row by row, and credit on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...formats.digests import digest_of_tokens
from ...formats.errors import DataError
from ...formats.segments import Array
from ..assign_credit import TokenCredit
from ._seam import credit_rows, paid_in_turns

# A batch's fields that credit, and the look-up of credit, read. verl makes them as it goes; one that it does not have is left out.
FIELDS = (
    "uid", "session_id", "prompts", "responses", "loss_mask", "response_mask", "rm_scores", "token_level_rewards", "advantages",
    "extra_fields",
)  # fmt: skip
SIGNALS = {
    "token.logprob": "rollout_log_probs",
    "token.trainer_logprob": "old_log_probs",
    "token.reference_logprob": "ref_log_prob",
    "token.value": "values",
    "token.entropy": "entropy",
}
STEPS = ("step.start", "step.end", "step.reward", "step.kind")
TURN = "turn"


@dataclass(frozen=True, order=True)
class Key:
    """What verl calls a row, {uid}_{session}_{index}: the prompt, the run of the agent on it, and the output of that run."""

    uid: str
    session: int
    index: int

    @classmethod
    def of(cls, key: str) -> "Key":
        """DataError for a key of another form."""
        parts = key.rsplit("_", 2)
        if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
            raise DataError(f"row {key!r}: expected a key {{uid}}_{{session}}_{{index}}, as verl 0.9.1 makes them")
        return cls(parts[0], int(parts[1]), int(parts[2]))

    @property
    def episode(self) -> str:
        """The run of the agent, of which the row is a part."""
        return f"{self.uid}_{self.session}"


@dataclass(frozen=True, eq=False)
class Batch:
    """B rows, those that verl added to fill its batches left out. fields: {name: a value for each row}; arrays of what stands
    on tokens."""

    names: list[str]
    tags: list[Mapping[str, Any]]
    fields: Mapping[str, list[Any]]

    @classmethod
    def read(cls, meta: Any, fields: Sequence[str] = FIELDS) -> "Batch":
        """Of a trainer's KVBatchMeta."""
        import transfer_queue as tq  # type: ignore[import-not-found]

        real = [row for row, tag in enumerate(meta.tags) if not tag.get("is_padding")]
        names = [meta.keys[row] for row in real]
        found = tq.kv_batch_get(keys=names, partition_id=meta.partition_id, select_fields=list(fields)) if real else {}
        values = {name: _rows(found[name]) for name in fields if name in found}
        return cls(names, [meta.tags[row] for row in real], values)

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def keys(self) -> list[Key]:
        """The rows' names, taken apart."""
        return [Key.of(name) for name in self.names]

    @cached_property
    def ids(self) -> list[Array]:
        """[B][L] token ids of the responses."""
        return self.fields["responses"]

    @cached_property
    def trained(self) -> list[Array]:
        """[B][L] bool, the policy wrote the token, and verl's rejection sampling left it in."""
        return [row.astype(bool) for row in self.fields["response_mask"]]

    @cached_property
    def own(self) -> list[Array]:
        """[B][L] bool, the policy wrote the token."""
        return [row.astype(bool) for row in self.fields.get("loss_mask", self.fields["response_mask"])]

    @cached_property
    def turns(self) -> list[Array]:
        """[B][S, 2] first token and end of each run of the policy's tokens."""
        return [np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0)).reshape(-1, 2) for row in self.own]

    @cached_property
    def last(self) -> Array:
        """[B] int, the row that ended the row's episode."""
        found: dict[str, int] = {}
        for row, key in enumerate(self.keys):
            if key.episode not in found or self.keys[found[key.episode]].index < key.index:
                found[key.episode] = row
        return np.array([found[key.episode] for key in self.keys], np.int64)

    @cached_property
    def paid(self) -> list[Array]:
        """[B][L] reward on each token. verl gives every part of an episode the reward of the whole; here the last one has it."""
        scores = self.fields.get("token_level_rewards", self.fields.get("rm_scores"))
        if scores is None:
            raise DataError("the batch has no rm_scores: expected rewards before the advantages")
        return [each if self.last[row] == row else np.zeros_like(each) for row, each in enumerate(scores)]

    @cached_property
    def reward(self) -> Array:
        """[B] of the row's episode: what its last part was paid, as in verl's own GRPO. NaN where it is not scored."""
        own = np.array([row.sum(dtype=np.float64) for row in self.paid])
        return own[self.last] if len(own) else own

    @cached_property
    def step_rewards(self) -> list[list[float]]:
        """[B][S] what was paid in each turn, and behind it up to the next; before the first one, in the first."""
        return [paid_in_turns(paid.astype(np.float64), own) for paid, own in zip(self.paid, self.own, strict=True)]

    @cached_property
    def named_rewards(self) -> list[dict[str, float]]:
        """[B] the numbers that the reward function gave beside the score."""
        infos = [(extra or {}).get("reward_extra_info") or {} for extra in self.fields.get("extra_fields", [])]
        numbers = (bool, int, float, np.number, np.bool_)
        found = [{str(name): float(each) for name, each in info.items() if isinstance(each, numbers)} for info in infos]
        return found or [{} for _ in self.names]

    def rewards(self, name: str) -> Array:
        """[B] one of these numbers. DataError where a row lacks it."""
        lacking = next(
            (key for key, info in zip(self.names, self.named_rewards, strict=True) if name not in info), None
        )
        if lacking is not None:
            raise DataError(f"row {lacking!r}: its reward_extra_info has no number {name!r}")
        return np.array([info[name] for info in self.named_rewards])

    @cached_property
    def digests(self) -> list[str]:
        """[B] of the rows' tokens, prompt and response."""
        return [digest_of_tokens(*row) for row in zip(self.fields["prompts"], self.ids, strict=True)]

    @cached_property
    def left_out(self) -> Array:
        """[B] bool: rows without a reward, or without a token to train on."""
        return np.isnan(self.reward) | ~np.array([row.any() for row in self.trained], bool)


def credit_of(batch: Batch, credit: TokenCredit, *, turns: bool) -> tuple[list[Array], Any]:
    """([B][L] credit, CreditInfo). turns: the policy's runs of tokens are the steps of methods that need some."""
    signals: dict[str, Any] = {}
    for path in credit.needs:
        if path in SIGNALS:
            signals[path] = batch.fields.get(SIGNALS[path])
            if signals[path] is None:
                raise DataError(
                    f"credit method {credit.method.name} needs {path!r}, and the trainer has no {SIGNALS[path]}"
                )
        elif path.startswith("rewards."):
            signals[path] = batch.rewards(path.removeprefix("rewards."))
    if turns and "step.reward" in credit.needs:
        signals["step.reward"] = batch.step_rewards
    if turns and "step.kind" in credit.needs:
        signals["step.kind"] = [[TURN] * len(spans) for spans in batch.turns]
    return credit_rows(
        credit,
        batch.ids,
        batch.trained,
        reward=batch.reward,
        group=[key.uid for key in batch.keys],
        episode=[key.episode for key in batch.keys],
        part=[key.index for key in batch.keys],
        steps=[spans.tolist() for spans in batch.turns] if turns and "step.start" in credit.needs else None,
        skip=batch.left_out,
        signals=signals,
    )


def put_advantages(meta: Any, batch: Batch, advantages: Sequence[Array]) -> None:
    """Give the rows these advantages [B][L] in the queue; verl's returns, which a critic learns from, stay."""
    import torch
    import transfer_queue as tq  # type: ignore[import-not-found]
    from tensordict import TensorDict  # type: ignore[import-not-found]

    nested = torch.nested.as_nested_tensor(
        [torch.from_numpy(np.array(row, np.float32)) for row in advantages], layout=torch.jagged
    )
    tq.kv_batch_put(
        keys=batch.names,
        partition_id=meta.partition_id,
        fields=TensorDict({"advantages": nested}, batch_size=len(batch)),
    )


def _rows(values: Any) -> list[Any]:
    """A value for each row: arrays of nested or padded tensors, numbers of flat ones, and objects as they are."""
    import torch

    if isinstance(values, torch.Tensor):
        return [_array(row) for row in values.unbind(0)]
    return list(values) if isinstance(values, list) else values.tolist()


def _array(row: Any) -> Any:
    row = row.detach().cpu()
    found = (row.float() if row.is_floating_point() else row).numpy()
    return found if found.ndim else found.item()

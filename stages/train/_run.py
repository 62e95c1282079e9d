"""`train` behind its signature: read, check, update, save."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...formats.errors import ApportionError, DataError, UsageError
from ...formats.files import check_output, whole_directory
from ...formats.flags import UNTRAINED
from ...formats.invariants import UsedNames
from ...formats.own import CHECKPOINT_HISTORY, files_in, with_files
from ...formats.parquet import RolloutFile, files_of
from ...formats.provenance import Provenance, Record
from ...formats.rollouts import Rollouts
from ...formats.schema import CHOSEN, REJECTED, credit_name, paths_of
from ..core.driver import require
from ..core.plugins import plugin_digests
from ..core.remedies import remedy
from ..models import close_engines
from ..models.examples import Examples, to_examples
from ..models.policy import Policy, load_policy, not_finite
from ._loop import Aggregation, Schedule, Settings, update_policy, with_old, with_reference
from .kind import OBJECTIVES, Objective

OPTIMIZER_FILE = "optimizer.safetensors"
METRICS_FILE = "metrics.jsonl"
MOST = 1e6  # no learning rate is so large; beyond float32's numbers the optimizer fails


class NothingToTrain(DataError):
    """The rollouts are as they should be, and teach nothing."""


@dataclass(frozen=True)
class Trained:
    """What training did: the checkpoint, rollouts and tokens used, updates made, and the last update's metrics.

    quiet: there was nothing to learn, and the checkpoint is the policy as it was.
    """

    out: str
    rollouts: int
    tokens: int
    updates: int
    last: Mapping[str, float]
    quiet: bool = False

    def render(self) -> None:
        if self.quiet:
            print(f"{self.out}: nothing to learn, the policy as it was", file=sys.stderr)
            return
        shown = "  ".join(
            f"{name} {value:.4g}" for name, value in self.last.items() if name not in ("update", "tokens")
        )
        print(
            f"{self.out}: {self.updates} updates on {self.rollouts:,} rollouts, {self.tokens:,} tokens  ({shown})",
            file=sys.stderr,
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of `train`: its options, but for what it reads and where it writes. Their names are those of the history."""

    model: str
    objective: str
    settings: Mapping[str, Any] | None
    credit: str
    aggregation: Aggregation
    norm_length: int
    reference: str | None
    old_logprobs: str
    lr: float
    epochs: int
    minibatch: int
    accumulate: int
    micro_tokens: int
    warmup: int
    schedule: Schedule
    beta1: float
    beta2: float
    weight_decay: float
    max_grad_norm: float
    fresh_optimizer: bool
    allow_retokenized: bool
    on_nothing: str
    seed: int
    device: str
    dtype: str

    def write(self, rollouts: Path, out: Path, *, force: bool) -> Trained:
        """See `train`. Raises UsageError, DataError (missing column, no trainable rows) and ApportionError (diverged)."""
        import torch

        chosen = OBJECTIVES[self.objective]
        options = OBJECTIVES.settle(chosen.name, self.settings)
        if self.reference is None and options.get("kl_coef"):
            raise UsageError("kl_coef needs the policy to stay near to; add --reference MODEL")
        if str(out) == "-":
            raise UsageError("-o -: a checkpoint is a directory; name one")
        check_output(out, force=force, directory=True)
        credit = (
            f"token.{credit_name(self.credit.removeprefix('token.'))}" if "token.advantage" in chosen.needs else None
        )
        recorded = "token.logprob" in chosen.needs and self.old_logprobs == "recorded"
        files = [RolloutFile(path) for path in files_of(rollouts)]
        digests = {f"rollouts/{index}": file.digest() for index, file in enumerate(files)}
        parameters = {**vars(self), "settings": options, "credit": credit}
        try:
            batch = _trainable(files, chosen, credit, recorded, self.allow_retokenized)
            if chosen.of == "pairs":
                batch = _in_pairs(batch, files[0].path)
        except NothingToTrain:
            if self.on_nothing == "error":
                raise
            return self._keep_policy(out, force, files, digests, chosen, parameters)
        sampled = "token.logprob" in chosen.needs
        examples = to_examples(batch, credit=credit, old_logprobs=recorded, tempered=sampled)

        close_engines()  # what they hold is needed here
        policy = load_policy(self.model, device=self.device, dtype="float32", seed=self.seed, shared=False)
        model = policy.model
        dtype = _forward_dtype(self.dtype, next(model.parameters()).device)
        _check_tokens(examples, policy, rollouts)
        if sampled and not recorded:
            examples = with_old(examples, model, self.micro_tokens, dtype)
        reference_identity = {}
        if chosen.of == "pairs" and not self.reference:
            examples = with_reference(examples, model, self.micro_tokens, dtype)
        elif self.reference and (chosen.of == "pairs" or options.get("kl_coef")):
            reference = load_policy(self.reference, device=self.device, dtype="auto")
            examples = with_reference(examples, reference.model, self.micro_tokens, dtype)
            reference_identity = {"reference": reference.identity}

        torch.manual_seed(self.seed)
        optimizer, done_before = self._optimizer(policy, chosen)
        settings = Settings(
            lr=self.lr, epochs=self.epochs, minibatch=self.minibatch, micro_tokens=self.micro_tokens,
            accumulate=self.accumulate, aggregation=self.aggregation, warmup=self.warmup, schedule=self.schedule,
            max_grad_norm=self.max_grad_norm, seed=self.seed,
            longest=self.norm_length or int(examples.responses.sizes.max()),
        )  # fmt: skip
        log = list(update_policy(model, optimizer, examples, chosen, options, settings, dtype, done_before))
        _check_finite(policy, optimizer, len(log))

        counts = {"rollouts": len(examples), "tokens": len(examples.mask.values), "updates": len(log)}
        inputs = {**digests, "policy": policy.identity, **reference_identity}
        provenance = _provenance(files, parameters, inputs, counts)
        facts = {"updates": str(done_before + len(log)), "objective": chosen.name}
        _save(out, force, policy, optimizer, facts, log, provenance)
        return Trained(str(out), len(examples), len(examples.mask.values), len(log), log[-1])

    def _keep_policy(
        self, out: Path, force: bool, files: list[RolloutFile], digests: Mapping[str, str], chosen: Objective,
        parameters: Mapping[str, Any],
    ) -> Trained:  # fmt: skip
        """The checkpoint of a training that had nothing to learn: weights and optimizer as they were."""
        close_engines()
        policy = load_policy(self.model, device=self.device, dtype="float32", seed=self.seed, shared=False)
        optimizer, done_before = self._optimizer(policy, chosen)
        counts = {"rollouts": 0, "tokens": 0, "updates": 0}
        provenance = _provenance(files, parameters, {**digests, "policy": policy.identity}, counts)
        _save(out, force, policy, optimizer, {"updates": str(done_before), "objective": chosen.name}, [], provenance)
        return Trained(str(out), 0, 0, 0, {}, quiet=True)

    def _optimizer(self, policy: Policy, chosen: Objective) -> tuple[Any, int]:
        """AdamW as the model's last training left it, and the updates it has seen."""
        import torch

        optimizer = torch.optim.AdamW(
            policy.model.parameters(), lr=self.lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay
        )
        return optimizer, 0 if self.fresh_optimizer else _load_optimizer(optimizer, policy, chosen.name)


def _provenance(
    files: list[RolloutFile], parameters: Mapping[str, Any], inputs: Mapping[str, str], counts: Mapping[str, int]
) -> Provenance:
    record = Record(
        stage="train",
        version=__version__,
        parameters=parameters,
        inputs={**inputs, **plugin_digests("train", parameters)},
        counts=counts,
    )
    before = files[0].provenance.history if len(files) == 1 else ()
    return Provenance(history=(*before, record))


def _trainable(
    files: list[RolloutFile], chosen: Objective, credit: str | None, recorded: bool, allow_retokenized: bool
) -> Rollouts:
    """The rows to train on: purpose train, no flag of UNTRAINED, credit assigned."""
    needs = ["prompt_ids"] + ([credit] if credit else []) + (["token.logprob"] if recorded else [])
    needs += [path for path in chosen.needs if not path.startswith("token.")]
    batches: list[Rollouts] = []
    names = UsedNames()
    for file in files:
        require(file, tuple(needs), chosen.name)
        if file.provenance.facts.get("tokens_exact") is False and not allow_retokenized:
            raise DataError(
                f"{file.path}: its token ids were made from text and may not be what the policy sampled; "
                "add --allow-retokenized to train on them all the same"
            )
        wanted = ["rollout_id", "group_id", "token.id", "token.mask", *needs]
        extra = ("purpose", "flags", "weight", "temperature", "top_p", "top_k", "token.trainable")
        found = set(paths_of(file.schema))
        batches += file.batches([*wanted, *(name for name in extra if name in found)], names=names)
    if not batches:
        raise DataError(f"{files[0].path}: no rollouts in it")
    some = any("token.trainable" in each for each in batches)
    batch = Rollouts.concat([each.with_missing("token.trainable") for each in batches] if some else batches)
    if some:
        batch = batch.with_columns({"token.mask": batch.token_ids.with_values(batch.trainable)})
    use = batch.for_training & ~np.any([batch.flagged(flag) for flag in UNTRAINED], axis=0)
    if credit:
        use &= batch.arrow(credit).is_valid().to_numpy(zero_copy_only=False)
    use &= batch.tokens.any(batch.mask)
    if not use.any():
        raise NothingToTrain(
            f"{files[0].path}: no row to train on (purpose train, not flagged {' or '.join(UNTRAINED)}, credit assigned)"
        )
    batch = batch if use.all() else batch.take(np.flatnonzero(use))
    blank = batch.ragged("prompt_ids").segments.sizes == 0
    if blank.any():
        name = batch.arrow("rollout_id")[int(np.flatnonzero(blank)[0])].as_py()
        raise DataError(
            f"{files[0].path}: rollout {name!r} has no prompt_ids, and nothing predicts the first token of its response"
        )
    if recorded:
        absent = ~batch.arrow("token.logprob").is_valid().to_numpy(zero_copy_only=False)
        if absent.any():
            name = batch.arrow("rollout_id")[int(np.flatnonzero(absent)[0])].as_py()
            raise DataError(
                f"{files[0].path}: rollout {name!r} has no token.logprob (no policy drew it, or its engine does not say); "
                "filter such rows, or add --old-logprobs recompute"
            )
        _check_untruncated(batch, files[0].path)
    if credit and not batch.ragged(credit).values.any():
        raise NothingToTrain(
            f"{files[0].path}: all credit in {credit!r} is 0, there is nothing to learn; sample more groups or harder prompts"
        )
    for file in files:
        if "tokens_exact" not in file.provenance.facts and not allow_retokenized:
            print(
                f"{file.path}: does not say whether the policy sampled its token ids; if they were made from text, training on "
                "them is wrong (the fact tokens_exact says so, docs/format.md)",
                file=sys.stderr,
            )
    return batch


def _in_pairs(batch: Rollouts, path: Path) -> Rollouts:
    """The rows that are a preference pair with another one: chosen, rejected, chosen, rejected …

    DataError for rows that say of a pair what cannot be, and where there is no pair.
    """
    ids, roles = batch.strings("pair_id"), batch.strings("pair_role")
    pairs: dict[str, dict[str, int]] = {}
    for row, (name, role) in enumerate(zip(ids, roles, strict=True)):
        if name is None:
            continue
        if role not in (CHOSEN, REJECTED):
            raise DataError(f"{path}: pair {name!r}: pair_role {role!r}, expected {CHOSEN!r} or {REJECTED!r}")
        if role in pairs.setdefault(name, {}):
            raise DataError(f"{path}: pair {name!r} has more than one row of pair_role {role!r}")
        pairs[name][role] = row
    whole = [row for halves in pairs.values() if len(halves) == 2 for row in (halves[CHOSEN], halves[REJECTED])]
    if not whole:
        raise NothingToTrain(
            f"{path}: no preference pair in it whose both rows can be trained (pair_id, pair_role); {remedy('pair_id')}"
        )
    if left := sum(len(halves) == 1 for halves in pairs.values()):
        print(f"{path}: {left:,} of {len(pairs):,} pairs left out, since one half cannot be trained", file=sys.stderr)
    return batch.take(np.array(whole, np.int64))


def _check_untruncated(batch: Rollouts, path: Path) -> None:
    """Recorded log-probabilities of a truncated distribution are no base for a ratio with the full one."""
    for column, off in (("top_p", 1.0), ("top_k", 0)):
        if column in batch and (batch.numbers(column) != off).any():
            raise DataError(
                f"{path}: sampled with {column}, so token.logprob is of the truncated distribution; add --old-logprobs recompute"
            )


def _check_tokens(examples: Examples, policy: Policy, path: Path) -> None:
    largest, vocabulary = int(examples.sequences.values.max()), int(policy.model.config.vocab_size)
    if largest >= vocabulary:
        raise DataError(
            f"{path}: token id {largest}, but model {policy.spec!r} has {vocabulary} tokens; train the model that sampled it"
        )


def _forward_dtype(name: str, device: Any) -> Any:
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in known:
        raise UsageError(f"--dtype {name}: choose from auto, float32, bfloat16")
    return known[name]


def _load_optimizer(optimizer: Any, policy: Policy, objective: str) -> int:
    """Restore AdamW's moments saved beside the weights, if they are of this objective; returns the updates they have
    seen (0 without any)."""
    import torch
    from safetensors import safe_open

    path = policy.directory / OPTIMIZER_FILE if policy.directory else None
    if path is None or not path.is_file():
        return 0
    with safe_open(path, framework="pt") as stored:
        facts = stored.metadata() or {}
        earlier = facts.get("objective", objective)
        if earlier != objective:
            print(
                f"train: the optimizer's state beside the model is of objective {earlier!r}; {objective!r} begins anew",
                file=sys.stderr,
            )
            return 0
        updates = int(facts.get("updates", 0))
        keys = set(stored.keys())
        for name, parameter in policy.model.named_parameters():
            if f"{name}.exp_avg" in keys:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(updates)),
                    "exp_avg": stored.get_tensor(f"{name}.exp_avg").to(parameter.device),
                    "exp_avg_sq": stored.get_tensor(f"{name}.exp_avg_sq").to(parameter.device),
                }
    return updates


def _check_finite(policy: Policy, optimizer: Any, updates: int) -> None:
    """ApportionError for weights, or moments that the next training would go on with, that are not finite."""
    parameters = dict(policy.model.named_parameters())
    moments = {
        f"the optimizer's {key} of {name}": state[key]
        for name, parameter in parameters.items()
        for state in (optimizer.state.get(parameter, {}),)
        for key in ("exp_avg", "exp_avg_sq")
        if key in state
    }
    if name := not_finite(parameters | moments):
        raise ApportionError(
            f"after {updates} updates {name} has values that are not finite; nothing is written: lower --lr"
        )


def _save(
    out: Path,
    force: bool,
    policy: Policy,
    optimizer: Any,
    facts: dict[str, str],
    log: list[dict[str, float]],
    provenance: Provenance,
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    moments = {
        f"{name}.{moment}": optimizer.state[parameter][moment].contiguous().cpu()
        for name, parameter in policy.model.named_parameters()
        if parameter in optimizer.state
        for moment in ("exp_avg", "exp_avg_sq")
    }
    try:
        with whole_directory(out, force=force) as folder:
            policy.save(folder)
            save_file(moments, folder / OPTIMIZER_FILE, metadata=facts)
            (folder / METRICS_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in log))
            (folder / CHECKPOINT_HISTORY).write_text(
                with_files(provenance, [*files_in(folder), CHECKPOINT_HISTORY]) + "\n"
            )
    except SafetensorError as error:  # a full disk, which is no OSError there
        raise ApportionError(f"{out}: not written ({error})") from error

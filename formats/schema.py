"""The rollout schema: which fields stand on which ruler, with their types and meaning. The one place that knows.

A *ruler* is an axis on which something is measured. The rollout ruler is the file's rows; each other ruler is one
struct column of parallel lists, so that `token.advantage` is a native Parquet leaf.
"""

from dataclasses import dataclass

import pyarrow as pa

from .errors import DataError
from .flags import FLAGS

FORMAT_VERSION = 1
HOTTEST = 1000.0  # temperature; all tokens are equally likely long before
MOST_ENTROPY = 22.0  # nat; ln 2^31, of the largest vocabulary that ids can name, and a little
METADATA_KEY = b"apportion"
CHOSEN, REJECTED = "chosen", "rejected"  # what `pair_role` can be
REQUIRED = ("rollout_id", "group_id", "token.id", "token.mask")


@dataclass(frozen=True)
class Field:
    """One column. `path` is `name` on the rollout ruler, `ruler.name` on another; `type` is that of one place. `least` and `most`
    are what its numbers may be, None where nothing bounds them but the type."""

    path: str
    type: pa.DataType
    meaning: str
    unit: str = ""
    least: float | None = None
    most: float | None = None

    @property
    def ruler(self) -> str:
        return ruler_of(self.path)

    @property
    def arrow(self) -> pa.DataType:
        """The column's Arrow type in the file: a list of the place's type unless it is on the rollout ruler."""
        return self.type if self.ruler == "rollout" else pa.list_(self.type)


@dataclass(frozen=True)
class Ruler:
    """An axis. `axis` fields say where its places lie; every other field is a signal measured there."""

    name: str
    length: str
    axis: tuple[str, ...]
    meaning: str


RULERS = {
    ruler.name: ruler
    for ruler in (
        Ruler("rollout", "1", ("rollout_id", "group_id"), "the row itself"),
        Ruler("step", "S", ("start", "end"), "reasoning steps, turns, tool calls: [start, end) in response tokens"),
        Ruler("node", "P", ("id", "start", "end"), "the path through the group's tree; the spans cover the response"),
        Ruler("edge", "E", ("src", "dst"), "who might have read whom in a team of agents"),
        Ruler("token", "T", ("id", "mask"), "response tokens"),
    )
}

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

FIELDS = {
    field.path: field
    for field in (
        Field("rollout_id", pa.string(), "unique in the data set"),
        Field("group_id", pa.string(), "same prompt, same group; a group's rows are contiguous"),
        Field("task", pa.string(), "where the problem came from, as given to --task"),
        Field("task_options", pa.string(), "the task's options, JSON"),
        Field("task_row", pa.string(), "what else the problem's row in its task's file says, by column, JSON"),
        Field("problem_id", pa.string(), "the problem's stable id in its task"),
        Field("prompt", _MESSAGES, "the problem as chat messages"),
        Field("reference", pa.string(), "what the verifier needs, JSON"),
        Field("prompt_ids", pa.list_(pa.int32()), "what the model read before the response"),
        Field(
            "behaviour_prompt_ids", pa.list_(pa.int32()),
            "what it read instead when the response was sampled (a hint, a report): token.logprob is under that; null: the same",
        ),
        Field("text", pa.string(), "the response decoded: a view, token ids are the truth"),
        Field("finish_reason", pa.string(), "stop (end of sequence) | length | stop_text | error"),
        Field("parent_id", pa.string(), "the rollout this one left; null for one of its own"),
        Field("fork", pa.int32(), "the response token at which it left its parent", "token", least=0),
        Field("episode_id", pa.string(), "rows that are parts of one run of an agent share it; null: the row is all of it"),
        Field("part", pa.int32(), "place of the row in its episode, from 0", least=0),
        Field("lineage", pa.string(), "which line of the episode it is: a sub-agent's name, compaction …; null: the main one"),
        Field("iteration", pa.int64(), "the trainer's step that it was sampled for", least=0),
        Field("policy_start", pa.int64(), "version of the weights that its first token was sampled with", least=0),
        Field("policy_end", pa.int64(), "version of the weights that its last token was sampled with", least=0),
        Field("pair_id", pa.string(), "preference pair: two rows have the same, and their tokens under the mask are compared"),
        Field("pair_role", pa.string(), "chosen | rejected, of the pair"),
        Field("purpose", pa.string(), "train | probe | eval; probes and evals are never trained on"),
        Field("policy", pa.string(), "digest of the weights that sampled it"),
        Field("engine", pa.string(), "what generated the tokens, with its version"),
        Field("seed", pa.int64(), "the row's own sampling seed; null where the engine has one for the whole run"),
        Field("environment_seed", pa.int64(), "what the environment was reset with; the same seed, the same world"),
        Field("temperature", pa.float32(), "sampling temperature; 0 is greedy", least=0, most=HOTTEST),
        Field("top_p", pa.float32(), "nucleus mass kept; 1 is all", least=0, most=1),
        Field("top_k", pa.int32(), "most likely tokens kept; 0 is all", least=0),
        Field("logprob_kind", pa.string(), "of which distribution token.logprob is: sampling | policy"),
        Field("flags", pa.list_(pa.string()), f"{', '.join(FLAGS)} …"),
        Field("error", pa.string(), "why the rollout failed; null: it did not"),
        Field("reward", pa.float64(), "outcome reward; null is not scored", "reward"),
        Field("weight", pa.float64(), "weight of the rollout in training; null is 1", least=0),
        Field("step.start", pa.int32(), "first response token", "token"),
        Field("step.end", pa.int32(), "one past the last response token", "token"),
        Field("step.kind", pa.string(), "step | turn | tool | search | answer …"),
        Field("step.state", pa.string(), "key of the environment state the step began in"),
        Field("step.state_id", pa.int32(), "number of that state in the group: equal where the states are", least=0),
        Field("step.state_visits", pa.int32(), "steps of the group that began in the state", "steps", least=0),
        Field("step.reward", pa.float64(), "reward given for the step", "reward"),
        Field("step.value", pa.float64(), "expected reward of the state before the step", "reward"),
        Field("step.probes", pa.int32(), "probes that step.value is the mean of", "rollouts", least=0),
        Field("step.valid", pa.bool_(), "whether the environment understood the turn"),
        Field("step.advice", pa.string(), "ids of the library's entries that were shown before the turn; null: none"),
        Field("edge.src", pa.int32(), "agent that would have been read, from 0", least=0),
        Field("edge.dst", pa.int32(), "agent that would have read it", least=0),
        Field("edge.kept", pa.bool_(), "whether the edge was drawn"),
        Field("edge.probability", pa.float32(), "probability with which it was drawn", least=0, most=1),
        Field("edge.success", pa.float32(), "share of the group's teams with the edge that succeeded", "reward"),
        Field("edge.advantage", pa.float32(), "credit of the edge among those its group drew", "advantage"),
        Field("node.id", pa.int32(), "node of the group's tree: equal ids in a group are the same node"),
        Field("node.start", pa.int32(), "first response token of the node's span", "token"),
        Field("node.end", pa.int32(), "one past its last", "token"),
        Field("node.visits", pa.int32(), "rollouts of the group that pass through the node", "rollouts", least=0),
        Field("node.value", pa.float32(), "mean reward of the rollouts that pass through the node", "reward"),
        Field("token.id", pa.int32(), "token id; nothing is ever re-tokenised"),
        Field("token.mask", pa.bool_(), "true where the policy wrote the token, false for what an environment wrote"),
        Field("token.logprob", pa.float32(), "log-probability when sampled, see logprob_kind", "nat"),
        Field(
            "token.raw_logprob", pa.float32(),
            "the same under the policy at temperature 1, all tokens kept, where that differs", "nat",
        ),
        Field("token.reference_logprob", pa.float32(), "log-probability under a reference model", "nat"),
        Field("token.trainer_logprob", pa.float32(), "log-probability as a trainer computed it again", "nat"),
        Field(
            "token.trainable", pa.bool_(),
            "false where the policy wrote the token and it is not trained here: another part has it, or the trainer left it out",
        ),
        Field("token.value", pa.float32(), "what a critic expects from the state before the token", "reward"),
        Field("token.entropy", pa.float32(), "entropy of the next-token distribution", "nat", least=-0.01, most=MOST_ENTROPY),
        Field("token.advantage", pa.float32(), "credit of the token; null is not assigned", "advantage"),
    )
}  # fmt: skip


def ruler_of(path: str) -> str:
    """`token.advantage` stands on `token`; `reward` and `rewards.format` on `rollout`."""
    head = path.partition(".")[0]
    return head if head in RULERS and head != path else "rollout"


def credit_name(name: str) -> str:
    """The leaf of the token ruler that credit of this name stands in.

    >>> credit_name("advantage"), credit_name("grpo")
    ('advantage', 'advantage_grpo')
    """
    return name if name.startswith("advantage") else f"advantage_{name}"


def arrow_type(path: str) -> pa.DataType:
    """The column's Arrow type in the file: a list of the place's type unless it is on the rollout ruler."""
    return FIELDS[path].arrow


def paths_of(schema: pa.Schema) -> list[str]:
    """Every column of a file by its path, rulers opened: ["rollout_id", …, "token.id", …]."""
    paths: list[str] = []
    for field in schema:
        if pa.types.is_struct(field.type):
            paths += [f"{field.name}.{child.name}" for child in field.type]
        else:
            paths.append(field.name)
    return paths


def check_schema(schema: pa.Schema) -> None:
    """A rollout file has the identity columns and a token ruler, and its known columns have types we can compute on.

    DataError names the first column that is missing or of another kind. Unknown columns are welcome.
    """
    paths = set(paths_of(schema))
    for needed in REQUIRED:
        if needed not in paths:
            found = ", ".join(sorted(paths)) or "none"
            raise DataError(f"not a rollout file: no column {needed!r} (columns: {found})")
    for field in schema:
        children = field.type if pa.types.is_struct(field.type) else [field]
        for child in children:
            path = field.name if child is field else f"{field.name}.{child.name}"
            known = FIELDS.get(path)
            if known and not _compatible(child.type, arrow_type(path)):
                raise DataError(f"column {path!r} is {child.type}, expected {arrow_type(path)}")


def _compatible(seen: pa.DataType, needed: pa.DataType) -> bool:
    if pa.types.is_list(needed) or pa.types.is_large_list(needed):
        return (pa.types.is_list(seen) or pa.types.is_large_list(seen)) and _compatible(
            seen.value_type, needed.value_type
        )
    if pa.types.is_struct(needed):
        return pa.types.is_struct(seen)
    for same_kind in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean):
        if same_kind(needed):
            return same_kind(seen) or pa.types.is_null(seen)
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary, pa.types.is_null)
    return any(kind(seen) for kind in strings) or seen == pa.string_view()

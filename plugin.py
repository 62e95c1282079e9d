"""All that a plugin needs, in one module: `from apportion.plugin import credit_method, Segments`.

| you write        | decorated with  | it is given                                                      | and returns                  |
|------------------|-----------------|------------------------------------------------------------------|------------------------------|
| a credit method  | `credit_method` | arrays by name: `reward`, `groups`, …, or the whole `Credit`     | credit [R] or [T]            |
| a scorer         | `scorer`        | `Rollouts`, whole groups at a time                               | {column: values}             |
| a strategy       | `strategy`      | a `SamplingContext`                                              | an iterator of `Rollouts`    |
| an objective     | `objective`     | a `TokenBatch`, or a `PairBatch` of preferences                  | loss [N] and {metric: [N]}   |
| a task           | `task_family`   | what stands after `--task`, and its options                      | a `Task` with its `Problem`s |
| an engine        | `engine`        | a `ModelSource` and a seed                                       | an `Engine`                  |
| a memory         | `memory`        | batches of `Rollouts`, and the table of before                   | a table                      |
| a finding        | `finding`       | an `Examination`, a few numbers a rollout                        | a `Measured`                 |
| an importer      | `importer`      | a `Source`, one file of another system                           | an iterator of `Sample`s     |
| an exporter      | `exporter`      | batches of `Rollouts`, and a path to write                       | how many records, or a Tally |

Keyword-only parameters of the decorated function are the entry's options; a type such as `Annotated[float, Between(0, 1)]`
says what an option takes. `apportion new method NAME` writes a file to start from, and docs/plugins.md tells the rest.
The names here stay as they are; what is imported from elsewhere in apportion may move.
"""

from .formats.errors import ApportionError, DataError, UsageError
from .formats.parquet import RolloutFile
from .formats.ragged import Ragged
from .formats.rollouts import Rollouts
from .formats.schema import Field
from .formats.segments import Array, Segments
from .stages.assign_credit.kind import credit_method
from .stages.core.ranges import Above, AtLeast, Between, Inside, Range
from .stages.core.seeds import derived_seed
from .stages.core.wording import check_template, fill
from .stages.doctor.examination import Examination
from .stages.doctor.kind import Measured, finding
from .stages.exchange.kind import Batches, Sample, Source, Tally, Unmapped, exporter, importer
from .stages.models.engine import Alternatives, Completion, Engine, EngineDefaults, Request, Sampling, Usage
from .stages.models.kind import engine
from .stages.models.policy import ModelSource, render_prompt
from .stages.remember.kind import memory
from .stages.sample.context import Part, SamplingContext
from .stages.sample.kind import strategy
from .stages.sample.rows import respond, row_seeds, sampled_columns, to_rollouts
from .stages.score.kind import reward_column, scorer
from .stages.structure.ancestry import Ancestry
from .stages.structure.batch import Credit, Probes
from .stages.structure.nodes import Nodes
from .stages.structure.prefixes import Prefixes
from .stages.structure.steps import Steps, StepTexts
from .stages.structure.turns import Decisions, Siblings
from .stages.tasks import Message, Problem, StepTask, Task, task_family
from .stages.train.kind import PairBatch, TokenBatch, objective

__all__ = [
    "Above",
    "Alternatives",
    "Ancestry",
    "ApportionError",
    "Array",
    "AtLeast",
    "Batches",
    "Between",
    "Completion",
    "Credit",
    "DataError",
    "Decisions",
    "Engine",
    "EngineDefaults",
    "Examination",
    "Field",
    "Inside",
    "Measured",
    "Message",
    "ModelSource",
    "Nodes",
    "PairBatch",
    "Part",
    "Prefixes",
    "Probes",
    "Problem",
    "Ragged",
    "Range",
    "Request",
    "RolloutFile",
    "Rollouts",
    "Sample",
    "Sampling",
    "SamplingContext",
    "Segments",
    "Siblings",
    "Source",
    "StepTask",
    "StepTexts",
    "Steps",
    "Tally",
    "Task",
    "TokenBatch",
    "Unmapped",
    "Usage",
    "UsageError",
    "check_template",
    "credit_method",
    "derived_seed",
    "engine",
    "exporter",
    "fill",
    "finding",
    "importer",
    "memory",
    "objective",
    "render_prompt",
    "respond",
    "reward_column",
    "row_seeds",
    "run_command",
    "sampled_columns",
    "scorer",
    "strategy",
    "task_family",
    "to_rollouts",
]


def run_command(*words: object) -> str:
    """Run a command of `apportion` in this process, for a plugin's test: run_command("sample", "-n", 4, "-o", out).

    Entries that the process has imported are there without --plugin.

    Returns:
        What the command prints on standard output.

    Raises:
        ApportionError: the command failed; the message is what it said.
    """
    from typer.testing import CliRunner

    from .cli.main import app

    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    if result.exit_code:
        raise ApportionError(result.stderr.strip())
    return result.stdout

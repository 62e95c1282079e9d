"""What works without the extra `models`, and what says that it needs it: python core_chain.py FOLDER [--without-models].

Run by test_core.py, with --without-models where the packages are installed and are made to look absent, and by the gate in an
environment that has only what `pip install apportion` brings.
"""

import importlib.abc
import json
import sys
from pathlib import Path
from typing import Any

MODELS = {"torch", "transformers", "tokenizers", "safetensors", "datasets", "reasoning_gym", "math_verify"}
OPTIONAL = MODELS | {"gymnasium", "bm25s"}

WORKS = """
validate mine.parquet
tree-build mine.parquet -o tree.parquet
tree-build tree.parquet --by token -o - --force
assign-credit tree.parquet --method tempo -o tempo.parquet
assign-credit tempo.parquet --method grpo --as grpo -o credit.parquet
diff credit.parquet --columns advantage,advantage_grpo
inspect credit.parquet
inspect credit.parquet --html page.html
head credit.parquet -n 1
show credit.parquet
log credit.parquet
digest credit.parquet
doctor credit.parquet
eval rollouts credit.parquet
filter credit.parquet --where reward>0 --drop -o right.parquet
export credit.parquet --format flat -o flat.parquet
import own.jsonl --group-by prompt -o imported.parquet
inspect imported.parquet
split credit.parquet --shares a=1,b=1 -o parts
merge parts -o whole.parquet
upgrade mine.parquet -o new.parquet
score mine.parquet --with pattern --set regex=or -o pattern.parquet
list methods
list scorers
list strategies
list engines
list tasks
list objectives
list memories
list importers
list exporters
list findings
list recipes
list tempo
list methods --for tree.parquet
schema
schema --as arrow
schema --as recipe
run grpo --dry-run
new method mine
"""

NEEDS_MODELS = """
sample -o out.parquet
sample --task reasoning_gym/chain_sum -o out.parquet
sample --task hf:any -o out.parquet
score mine.parquet --with steps --set model=builtin:tiny -o out.parquet
train credit.parquet -o policy
eval policy
"""


class Absent(importlib.abc.MetaPathFinder):
    """Makes the optional packages look as if they were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] in OPTIONAL:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def write_rollouts(path: Path) -> None:
    """Two groups of two, as a trainer's own script would write them, and two texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = [[5, 7, 9], [5, 8], [6, 7], [6, 7, 7]]
    columns = {
        "rollout_id": ["r0", "r1", "r2", "r3"],
        "group_id": ["17+4", "17+4", "3*5", "3*5"],
        "token": [{"id": row, "mask": [True] * len(row)} for row in ids],
        "reward": [1.0, 0.0, 0.0, 1.0],
        "text": ["21 or 4", "13", "8", "15"],
    }
    pq.write_table(pa.table(columns), path)
    texts = [{"prompt": "17+4", "completion": text, "reward": reward} for text, reward in (("21", 1.0), ("13", 0.0))]
    Path("own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in texts), encoding="utf-8")


def main() -> None:
    """Runs the chain in the folder. AssertionError for the first command that does not do as it should."""
    import os

    os.chdir(sys.argv[1])
    if "--without-models" in sys.argv:
        sys.meta_path.insert(0, Absent())
    write_rollouts(Path("mine.parquet"))

    from apportion.cli.main import app
    from typer.testing import CliRunner

    for words in WORKS.strip().splitlines():
        result = CliRunner().invoke(app, words.split())
        assert result.exit_code == 0, (words, result.output, result.exception)
    for words in NEEDS_MODELS.strip().splitlines():
        result = CliRunner().invoke(app, words.split())
        assert result.exit_code == 2, (words, result.output, result.exception)
        (line,) = result.stderr.strip().splitlines()
        assert line.startswith("error: this needs the package "), (words, line)
        assert line.endswith("; run: pip install 'apportion[models]'"), (words, line)
        assert not Path("out.parquet").exists() and not Path("policy").exists(), words

    import numpy as np
    from apportion.stages.assign_credit import credit_tokens

    ids = np.array([[5, 7, 0], [5, 8, 9]])
    credit = credit_tokens("tempo", reward=[1.0, 0.0], group=["a", "a"], token_ids=ids, mask=ids > 0, scale="none")
    assert credit.tolist() == [[0.5, 1.0, 0.0], [-0.5, -1.0, -0.5]], credit
    assert not MODELS & set(sys.modules), MODELS & set(sys.modules)
    print(
        f"{len(WORKS.split(chr(10))) - 2} commands work without models, {len(NEEDS_MODELS.split(chr(10))) - 2} say what they need"
    )


if __name__ == "__main__":
    main()

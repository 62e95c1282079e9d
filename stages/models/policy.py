"""A policy: the weights and tokenizer that `--model` names."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ...formats.errors import ApportionError, UsageError
from ...formats.provenance import digest_of, digest_of_file
from ..core.extras import missing_extra
from ..core.trust import remote_code_is_trusted
from .characters import CHARACTERS, CharacterTokenizer

TINY = Path(__file__).parent / "tiny"
LOADED_AT_ONCE = 2
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ModelSource:
    """What `--model`, `--device` and `--dtype` name. Everything is loaded on first use, and only once."""

    spec: str
    device: str = "auto"
    dtype: str = "auto"

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.spec)

    @cached_property
    def directory(self) -> Path | None:
        """The directory of the weights; None for blank or Hub weights. UsageError for a model that does not exist."""
        return _directory(self.spec)

    @cached_property
    def config(self) -> Any:
        """The text model's configuration, with its `vocab_size`."""
        if self.spec == "builtin:tiny-blank":
            from .tiny.blank import blank_config

            return blank_config()
        return _hugging_face("AutoConfig", self.spec, self.directory).get_text_config(decoder=True)

    @property
    def context(self) -> int | None:
        """The model's context in tokens of prompt and response; None if its configuration does not say."""
        return getattr(self.config, "max_position_embeddings", None)

    @cached_property
    def identity(self) -> str:
        """Digest of the weights: of their files, or of the Hub's commit."""
        if self.directory is not None or self.spec.startswith("builtin:"):
            return _identity(self.spec, self.directory)
        config = _hugging_face("AutoConfig", self.spec, None)
        return _identity(self.spec, None, commit=getattr(config, "_commit_hash", None))

    def load(self) -> "Policy":
        """The policy as a transformers model; may be one that is already loaded."""
        return load_policy(self.spec, device=self.device, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class Policy:
    """A loaded policy. identity: digest of its weights. directory: their folder, None for blank or Hub weights."""

    model: Any
    tokenizer: Any
    spec: str
    identity: str
    directory: Path | None

    def save(self, folder: Path) -> None:
        """Write a Hugging Face checkpoint (safetensors) with its tokenizer."""
        _quiet_transformers()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


_loaded: OrderedDict[tuple[Any, ...], Policy] = OrderedDict()


def load_policy(spec: str, *, device: str = "auto", dtype: str = "auto", seed: int = 0, shared: bool = True) -> Policy:
    """The policy `spec` names: builtin:tiny, builtin:tiny-blank (random weights of `seed`), a directory, or a Hub id.

    shared=True may return one that is already loaded; training asks for its own. UsageError if the model does not
    exist, ApportionError if it cannot be loaded or its weights are not finite.
    """
    import torch

    place = _device(device)
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype == "auto":
        dtype = "bfloat16" if place.type == "cuda" else "float32"
    if dtype not in kinds:
        raise UsageError(f"--dtype {dtype}: choose from auto, {', '.join(kinds)}")
    directory = _directory(spec)
    key = (spec, str(place), dtype, seed, _stamp(directory))
    if shared and key in _loaded:
        _loaded.move_to_end(key)
        return _loaded[key]
    model, tokenizer = _blank(seed) if spec == "builtin:tiny-blank" else _load_pretrained(spec, directory, kinds[dtype])
    if name := not_finite(dict(model.named_parameters())):
        raise ApportionError(
            f"model {spec!r}: weights are not finite in {dtype}, e.g. {name}; use an intact checkpoint, or another --dtype"
        )
    model.to(place)
    model.eval()
    identity = _identity(spec, directory, seed=seed, commit=getattr(model.config, "_commit_hash", None))
    policy = Policy(model, tokenizer, spec, identity, directory)
    if shared:
        _loaded[key] = policy
        while len(_loaded) > LOADED_AT_ONCE:
            _loaded.popitem(last=False)
    return policy


def not_finite(tensors: Mapping[str, Any]) -> str | None:
    """The name of the first tensor with an infinite value or NaN; None if there is none."""
    return next((name for name, values in tensors.items() if not bool(values.isfinite().all())), None)


def _identity(spec: str, directory: Path | None, *, seed: int = 0, commit: str | None = None) -> str:
    if directory is None:
        return digest_of([spec, seed, commit])
    return digest_of([digest_of_file(path) for path in _weights(directory)])


def _weights(directory: Path) -> list[Path]:
    """The weight files to read: safetensors, or PyTorch's own if there are none."""
    found = [path for path in sorted(directory.glob("*.safetensors")) if path.stem != "optimizer"]
    return found or sorted(directory.glob("pytorch_model*.bin"))


def load_tokenizer(spec: str, *, look_up: bool = True) -> Any:
    """Load only the tokenizer. look_up=False: for a Hub id, use only what has already been downloaded."""
    if spec == CHARACTERS:
        return CharacterTokenizer()
    if spec == "builtin:tiny-blank":
        from .tiny.blank import blank_tokenizer

        return blank_tokenizer()
    directory = _directory(spec)
    return _hugging_face("AutoTokenizer", spec, directory, local_files_only=not look_up)


def check_recorded(spec: str) -> None:
    """Check a model that a file names, rather than the command line. UsageError unless it is here and has no code of its
    own: built in, a directory, or a Hub id that has been downloaded before. Nothing is looked up on the Hub."""
    if spec.startswith("builtin:"):
        if spec != CHARACTERS:
            _directory(spec)
        return
    folder = _directory(spec)
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(spec, "config.json")
        except ValueError as error:  # not a valid name for a model
            raise UsageError(f"model {spec!r}: the file's history names it, but it is not a valid Hub id") from error
        if not isinstance(found, str):
            raise UsageError(f"model {spec!r}: the file's history names it, but it is not on this machine")
        folder = Path(found).parent
    # Python files that no configuration refers to never run.
    if any(_maps_code(name, folder) for name in CONFIGS):
        raise UsageError(f"model {spec!r}: the file's history names it, but it comes with code of its own")


def _maps_code(name: str, folder: Path) -> bool:
    try:
        return "auto_map" in (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / name}: cannot be read ({error})") from error


def render_prompt(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """The ids a model reads before its answer, from the chat template or, without one, the contents line by line."""
    if tokenizer.chat_template:
        rendered = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return [int(token) for token in rendered]
    return tokenizer("\n".join(message["content"] for message in messages) + "\n")["input_ids"]


def _directory(spec: str) -> Path | None:
    if spec == "builtin:tiny":
        return TINY
    if spec.startswith("builtin:"):
        if spec != "builtin:tiny-blank":
            from ...formats.errors import unknown

            raise unknown("model", spec, ["builtin:tiny", "builtin:tiny-blank"])
        return None
    path = Path(spec)
    if os.path.isdir(spec):  # also False for an invalid path
        if not (path / "config.json").is_file():
            raise UsageError(f"model {spec!r}: the directory has no config.json; name a Hugging Face checkpoint")
        return path
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise UsageError(f"model {spec!r}: no such directory; name builtin:tiny, a directory, or a Hub id (owner/name)")
    return None


def _device(name: str) -> Any:
    """The torch device. UsageError if torch does not know it or it is not there."""
    import torch

    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--device {name}: {reason[:1].lower()}{reason[1:]}; choose from auto, cpu, cuda") from error
    return place


def _stamp(directory: Path | None) -> Any:
    if directory is None:
        return None
    return tuple((path.name, path.stat().st_mtime_ns) for path in _weights(directory))


def _blank(seed: int) -> tuple[Any, Any]:
    from .tiny.blank import blank_model

    return blank_model(seed)


def _load_pretrained(spec: str, directory: Path | None, dtype: Any) -> tuple[Any, Any]:
    tokenizer = _hugging_face("AutoTokenizer", spec, directory)
    model, report = _hugging_face("AutoModelForCausalLM", spec, directory, dtype=dtype, output_loading_info=True)
    if missing := sorted(report["missing_keys"]):  # the library has filled these with random values
        raise ApportionError(
            f"model {spec!r}: {len(missing)} of its weights are missing, e.g. {missing[0]}; use the complete checkpoint "
            "of a causal language model"
        )
    return model, tokenizer


def _quiet_transformers() -> Any:
    """The transformers library, silenced: progress bars and remarks must not mix with our standard error."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _hugging_face(loader: str, spec: str, directory: Path | None, **options: Any) -> Any:
    """What the library loads. A model's own code runs only if the command line allows it; nobody is prompted."""
    options["trust_remote_code"] = remote_code_is_trusted()
    try:
        return getattr(_quiet_transformers(), loader).from_pretrained(str(directory) if directory else spec, **options)
    except Exception as error:
        if missing := missing_extra(error):
            raise missing from error
        if not options["trust_remote_code"] and "trust_remote_code" in str(error):
            raise ApportionError(
                f"model {spec!r}: it comes with code of its own, which was not run; if you have read and trust that code, "
                "put --trust-remote-code before the command: apportion --trust-remote-code …"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if directory is None:
            raise ApportionError(
                f"model {spec!r}: no such directory, and the Hub has no such model or cannot be reached ({reason}); "
                "name a directory, or log in and try again"
            ) from error
        raise ApportionError(f"model {spec!r}: cannot be loaded ({reason})") from error

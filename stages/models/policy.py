"""A policy: weights and tokenizer, found by what `--model` says."""

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

TINY = Path(__file__).parent / "tiny"
LOADED_AT_ONCE = 2
CONFIGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class ModelSource:
    """What `--model`, `--device` and `--dtype` say. Nothing is loaded until it is asked for, and then once."""

    spec: str
    device: str = "auto"
    dtype: str = "auto"

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.spec)

    @cached_property
    def directory(self) -> Path | None:
        """Where the weights lie; None for blank or Hub weights. UsageError for a model that is not there."""
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
        """Tokens of prompt and response that the model was made for; None where its configuration does not say."""
        return getattr(self.config, "max_position_embeddings", None)

    @cached_property
    def identity(self) -> str:
        """Digest of the weights: of the files, or of the Hub's commit."""
        if self.directory is not None or self.spec.startswith("builtin:"):
            return _identity(self.spec, self.directory)
        config = _hugging_face("AutoConfig", self.spec, None)
        return _identity(self.spec, None, commit=getattr(config, "_commit_hash", None))

    def load(self) -> "Policy":
        """The policy as a transformers model; may be one that is loaded already."""
        return load_policy(self.spec, device=self.device, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class Policy:
    """A loaded policy. identity: digest of its weights. directory: where they lie, None for blank or Hub weights."""

    model: Any
    tokenizer: Any
    spec: str
    identity: str
    directory: Path | None

    def save(self, folder: Path) -> None:
        """As a Hugging Face checkpoint (safetensors) with its tokenizer."""
        _quiet_transformers()
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


_loaded: OrderedDict[tuple[Any, ...], Policy] = OrderedDict()


def load_policy(spec: str, *, device: str = "auto", dtype: str = "auto", seed: int = 0, shared: bool = True) -> Policy:
    """The policy `spec` names: builtin:tiny, builtin:tiny-blank (random weights of `seed`), a directory, or a Hub id.

    shared=True may return one that is loaded already; train asks for its own. Raises UsageError for a model that is not
    there and ApportionError for one that cannot be loaded, or whose weights are not finite.
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
            f"model {spec!r}: its weights are not finite in {dtype}, e.g. {name}; expected a whole checkpoint"
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
    """The files that are read: safetensors, or PyTorch's own where there are none."""
    found = [path for path in sorted(directory.glob("*.safetensors")) if path.stem != "optimizer"]
    return found or sorted(directory.glob("pytorch_model*.bin"))


def load_tokenizer(spec: str, *, look_up: bool = True) -> Any:
    """Only the tokenizer. look_up=False: of a Hub id, only what has been downloaded already."""
    if spec == "builtin:tiny-blank":
        from .tiny.blank import blank_tokenizer

        return blank_tokenizer()
    directory = _directory(spec)
    return _hugging_face("AutoTokenizer", spec, directory, local_files_only=not look_up)


def check_recorded(spec: str) -> None:
    """UsageError unless a model that a file names, and no one on the command line, is here and without code of its own:
    built in, a directory, or a Hub id that has been downloaded before. Nothing is looked up."""
    if spec.startswith("builtin:"):
        _directory(spec)
        return
    folder = _directory(spec)
    if folder is None:
        from huggingface_hub import try_to_load_from_cache

        try:
            found = try_to_load_from_cache(spec, "config.json")
        except ValueError as error:  # no name that a model can have
            raise UsageError(f"model {spec!r} is named by the file's history and is no Hub id") from error
        if not isinstance(found, str):
            raise UsageError(f"model {spec!r} is named by the file's history and is not on this machine")
        folder = Path(found).parent
    # Python files that no configuration names are never run.
    if any(_maps_code(name, folder) for name in CONFIGS):
        raise UsageError(f"model {spec!r} is named by the file's history and comes with code of its own")


def _maps_code(name: str, folder: Path) -> bool:
    try:
        return "auto_map" in (folder / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / name}: cannot be read ({error})") from error


def render_prompt(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """The ids a model reads before its answer: the chat template where there is one, else the contents by line."""
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
    if os.path.isdir(spec):  # False, too, for what can be no path
        if not (path / "config.json").is_file():
            raise UsageError(f"model {spec!r}: a directory without config.json; expected a Hugging Face checkpoint")
        return path
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise UsageError(
            f"model {spec!r}: no such directory; expected builtin:tiny, a directory, or a Hub id (owner/name)"
        )
    return None


def _device(name: str) -> Any:
    """UsageError for a device that torch does not know or that is not there."""
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
    if missing := sorted(report["missing_keys"]):  # the library has made them up
        raise ApportionError(
            f"model {spec!r}: {len(missing)} of its weights are missing, e.g. {missing[0]}; expected a whole checkpoint "
            "of a causal language model"
        )
    return model, tokenizer


def _quiet_transformers() -> Any:
    """The library without its own progress bars and remarks: standard error is ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _hugging_face(loader: str, spec: str, directory: Path | None, **options: Any) -> Any:
    """What the library loads. Code that comes with a model never runs unless the command line says so, and no one is asked."""
    options["trust_remote_code"] = remote_code_is_trusted()
    try:
        return getattr(_quiet_transformers(), loader).from_pretrained(str(directory) if directory else spec, **options)
    except Exception as error:
        if missing := missing_extra(error):
            raise missing from error
        if not options["trust_remote_code"] and "trust_remote_code" in str(error):
            raise ApportionError(
                f"model {spec!r}: it comes with code of its own, which is not run; if you have read it and trust it, "
                "put --trust-remote-code before the command: apportion --trust-remote-code …"
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if directory is None:
            raise ApportionError(
                f"model {spec!r}: no such directory, and the Hub has no such model or cannot be reached ({reason}); "
                "name a directory, or log in and try again"
            ) from error
        raise ApportionError(f"model {spec!r}: cannot be loaded ({reason})") from error

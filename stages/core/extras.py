"""What comes with an extra of the installation, and the line that says so where it is missing."""

from ...formats.errors import UsageError

EXTRAS = {
    "models": ("torch", "transformers", "tokenizers", "safetensors", "datasets", "reasoning_gym", "math_verify"),
    "openai": ("openai",),
    "environments": ("gymnasium", "bm25s"),
}


def missing_extra(error: BaseException | None) -> UsageError | None:
    """The line for an error, or what caused it, that is an extra's package which is not installed; None for another error.

    >>> str(missing_extra(ModuleNotFoundError("No module named 'torch'", name="torch")))
    "this needs the package torch; run: pip install 'apportion[models]'"
    """
    while error is not None:
        package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        for extra, packages in EXTRAS.items():
            if package in packages:
                return UsageError(f"this needs the package {package}; run: pip install 'apportion[{extra}]'")
        error = error.__cause__
    return None

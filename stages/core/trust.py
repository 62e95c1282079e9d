"""Whose code may run: apportion's, that of plugins named on the command line, and a model's own only where asked for."""

_granted = False


def trust_remote_code(granted: bool) -> None:
    """Say whether code that comes with a model may run in this process: what `--trust-remote-code` says of a command line.

    No recipe, file or server says it.
    """
    global _granted
    _granted = granted


def remote_code_is_trusted() -> bool:
    """False until someone has said otherwise."""
    return _granted

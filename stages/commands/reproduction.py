"""A history as the shell commands that make the file again."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ... import __version__
from ...formats.errors import ApportionError, DataError, UsageError
from ...formats.provenance import inputs_of
from ..core.plugins import PLUGIN, plugin_digests, plugin_files
from ..core.several import short_name
from ..core.table import Command, commands
from .shell import command_line, comment

if TYPE_CHECKING:
    from ...formats.provenance import Provenance, Record

FOREIGN = "input.parquet"


def commands_of(path: Path, provenance: "Provenance") -> list[str]:
    """One line a stage, in order; each reads what the one before it wrote, and the last writes the file's own name. One that
    put several histories together (`merge`) reads what the last of each wrote.

    What the commands alone cannot bring back (an input of another tool, a policy from a directory, another version) is
    said in a comment before the line. Whoever wrote the history, a shell that reads the lines runs nothing but these
    commands of apportion: what a record says is one quoted word, or a comment of one line. DataError for a file without
    history, UsageError where a plugin it was made with is not loaded or has changed.
    """
    history = provenance.history
    if not history:
        raise DataError(f"{path}: no history in it (another tool wrote it), so there are no commands that make it")
    outputs = _outputs(path, [record.stage for record in history])
    files = [_file_in(out, record) for out, record in zip(outputs, history, strict=True)]
    known = commands()
    lines: list[str] = []
    inputs = inputs_of(history)
    split: dict[str, str] = {}  # its line without the output -> the output
    for number, (record, out, places) in enumerate(zip(history, outputs, inputs, strict=True)):
        before = [FOREIGN if place is None else files[place] for place in places]
        if record.stage not in known or not known[record.stage].writes:
            said = f"{record.stage} {record.version}: apportion {__version__} has no command that writes such a file"
            lines.append(comment(said))
            continue
        lines += map(comment, _remarks(known[record.stage], record, places))
        if len(before) > 1 and record.stage != "merge":
            lines.append(comment(f"inputs: a directory with {', '.join(before)}"))
            before = ["inputs"]
        _check_plugins(path, record)
        try:
            line = _line(known[record.stage], record, before, out)
        except UsageError as error:
            lines.append(comment(f"apportion {record.stage}: {error}"))
            continue
        if record.stage == "split":  # one command for all parts
            alike = line.removesuffix(out)
            files[number] = _file_in(split.setdefault(alike, out), record)
            if split[alike] != out:
                continue
        lines.append(line)
    return lines


def _file_in(out: str, record: "Record") -> str:
    """The file a later stage reads: the output, or the record's part of a directory of them."""
    part = record.parameters.get("part")
    return f"{out}/{Path(str(part)).name}" if part else out


def _outputs(path: Path, stages: list[str]) -> list[str]:
    last = path.name if path.name not in ("", "-", "..") else "out.parquet"
    known = commands()
    if stages[-1] == "split":
        last = path.parent.name or known["split"].writes
    taken = {last, FOREIGN}
    outputs: list[str] = []
    for stage in stages[:-1]:
        stem, ending = (
            (known[stage].writes if stage in known else "") or "made",
            "" if stage in ("train", "split") else ".parquet",
        )
        count = 1
        while (name := f"{stem}{'' if count == 1 else f'-{count}'}{ending}") in taken:
            count += 1
        taken.add(name)
        outputs.append(name)
    return [*outputs, last]


def _line(command: Command, record: "Record", before: list[str], out: str) -> str:
    parameters = {**record.parameters, "out": out}
    values: dict[str, Any] = {}
    for key, option in command.options().items():
        if key == "force":
            continue
        if option.name == command.continues and key in record.parameters and option.positional:
            values[key] = parameters[key]  # files of another system, by their names
        elif option.name == command.continues and (option.positional or parameters.get(key)):
            values[key] = before if len(before) > 1 else before[0]
        elif option.name == "rollouts" and option.positional:
            values[key] = FOREIGN
        elif key in parameters or option.name in parameters:
            values[key] = _short(key, parameters.get(key, parameters.get(option.name)))
    unset = _defaults(command, record)
    return command_line(command, values, bare=unset, plugins=plugin_files(record.stage, record.parameters))


def _check_plugins(path: Path, record: "Record") -> None:
    """UsageError unless the plugins that the stage used are loaded, as they were then."""
    now = plugin_digests(record.stage, record.parameters)
    for role, digest in record.inputs.items():
        kind, _, name = role.partition("/")
        if kind != PLUGIN or now.get(role) == digest:
            continue
        raise UsageError(
            f"{path}: its {record.stage} used the plugin {name!r} of digest {digest}, "
            + (
                f"loaded is one of {now[role]}, which makes something else; load the one of then"
                if role in now
                else "which is not loaded; run: apportion --plugin FILE log … --shell"
            )
        )


def _short(key: str, value: Any) -> Any:
    """A credit column as its options take it by default; records hold `token.advantage` and `advantage_NAME`."""
    if key == "credit" and isinstance(value, str):
        return value.removeprefix("token.")
    if key == "as" and isinstance(value, str):
        name = value.removeprefix("advantage_")
        return value if name.startswith("advantage") else name
    return value


def _remarks(command: Command, record: "Record", places: list[int | None]) -> Iterator[str]:
    if record.version != __version__:
        yield f"made by apportion {record.version}; this is {__version__}"
    names = record.parameters.get("paths")
    if isinstance(names, list) and command.continues == "paths":
        digests = [digest for role, digest in record.inputs.items() if role.partition("/")[0] == "source"]
        yield from (f"{name}: made elsewhere, digest {digest}" for name, digest in zip(names, digests, strict=False))
    if "rollouts" in command.options():
        for role, digest in record.inputs.items():
            kind, _, number = role.partition("/")
            index = int(number) if len(places) > 1 and number.isdecimal() and len(number) < 10 else 0
            made_before = index < len(places) and places[index] is not None
            if kind != "rollouts" or (made_before and command.continues == "rollouts"):
                continue
            place = FOREIGN if not number else f"{FOREIGN} (file {number} of several)"
            yield f"{place}: made elsewhere, digest {digest}"
    model = record.parameters.get("model")
    if isinstance(model, str) and not model.startswith("builtin:") and "policy" in record.inputs:
        yield f"{model}: a policy with digest {record.inputs['policy']}"


def _defaults(command: Command, record: "Record") -> dict[str, Mapping[str, Any]]:
    """What the settings of each entry that was chosen are where nothing is set, by recipe key."""
    found: dict[str, Mapping[str, Any]] = {}
    for kind, option in command.choices():
        chosen, name = option.chooses, record.parameters.get(option.key, record.parameters.get(option.name))
        if chosen is None or not isinstance(name, str | list):
            continue
        if isinstance(name, list):
            names = [str(each) for each in name] if chosen.several else []
            known = [each for each in names if each in kind]  # a plugin's may not be loaded
            found[chosen.settings] = {
                f"{short_name(each)}.{key}": option.default
                for each in known
                for key, option in kind[each].options.items()
            }
            continue
        if kind.plural == "tasks":
            found[chosen.settings] = _task_defaults(record)
        elif (entry := kind.named_by(name)) is not None and entry in kind:  # a plugin's may not be loaded
            found[chosen.settings] = {key: each.default for key, each in kind[entry].options.items()}
    return found


def _task_defaults(record: "Record") -> Mapping[str, Any]:
    """The options of the record's task where none is set; empty for a task that is not there."""
    if not record.parameters.get("task_settings"):
        return {}
    from ..tasks import open_task

    try:
        return open_task(str(record.parameters.get("task"))).options
    except ApportionError:
        return {}

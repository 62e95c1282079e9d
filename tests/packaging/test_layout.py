"""The house rules that files can show: what is packaged, who imports whom, what a registered name comes with."""

import ast
import re
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from apportion.formats.recipes import Step, load_recipe, recipe_names
from apportion.stages.core.kinds import kinds
from apportion.stages.core.table import commands
from typer.testing import Result

ROOT = Path(__file__).parents[2]
LAYERS = ("formats", "stages", "cli")
# Libraries that take a second or more to import, or draw and train: a command loads them when it needs them.
HEAVY = {"torch", "transformers", "datasets", "safetensors", "reasoning_gym", "math_verify", "vllm", "matplotlib"}


def sources(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run on import; those under `if TYPE_CHECKING:` do not."""

    def walk(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            yield statement
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                yield from walk(statement.orelse)
                continue
            for part in ("body", "orelse", "finalbody"):
                yield from walk(getattr(statement, part, []))
            for handler in getattr(statement, "handlers", []):
                yield from walk(handler.body)

    return walk(tree.body)


def imports(path: Path, statements: Iterator[ast.AST]) -> set[str]:
    """Full names of the imported modules; relative ones are resolved to apportion.…"""
    package = ["apportion", *path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()
    for node in statements:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update({module, *(f"{module}.{alias.name}" for alias in node.names)})
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def packaged() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_every_folder_with_python_files_is_a_package_in_pyproject() -> None:
    folders = {file.parent for layer in (*LAYERS, "recipes") for file in sources(layer)}
    names = {".".join(["apportion", *folder.relative_to(ROOT).parts]) for folder in folders}
    assert {"apportion", *names} == set(packaged()["packages"])


def test_every_package_has_an_init() -> None:
    for name in packaged()["packages"]:
        assert (ROOT.joinpath(*name.split(".")[1:]) / "__init__.py").is_file(), name


def test_every_pattern_of_package_data_finds_files() -> None:
    for package, patterns in packaged()["package-data"].items():
        for pattern in patterns:
            assert list(ROOT.joinpath(*package.split(".")[1:]).glob(pattern)), (package, pattern)


def test_the_root_holds_no_python_but_the_package_itself() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py", "plugin.py"]


def test_nothing_of_the_product_imports_what_is_made_for_plugins() -> None:
    for layer in LAYERS:
        for path in sources(layer):
            assert "apportion.plugin" not in imports(path, ast.walk(parsed(path))), path


@pytest.mark.parametrize(("layer", "above"), [("formats", ("stages", "cli")), ("stages", ("cli",))])
def test_a_layer_imports_nothing_from_above(layer: str, above: tuple[str, ...]) -> None:
    for path in sources(layer):
        for name in imports(path, ast.walk(parsed(path))):
            assert not name.startswith(tuple(f"apportion.{upper}" for upper in above)), f"{path} imports {name}"


def test_no_module_takes_the_place_of_a_command_of_its_package() -> None:
    """Importing `stages/eval/curve.py` would make `stages.eval.curve` the module, not the command."""
    for command in commands().values():
        package = ROOT.joinpath(*command.function.__module__.split(".")[1:])
        assert not (package / f"{command.function.__name__}.py").exists(), command.name


def test_only_engines_import_a_model_library_at_module_level() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for layer in LAYERS
        for path in sources(layer)
        if {name.partition(".")[0] for name in imports(path, module_level(parsed(path)))} & HEAVY
    }
    assert "stages/models/transformers/_engine.py" in found
    parts = re.compile(r"stages/models/\w+/\w+\.py")  # engines, and what only they import
    assert [name for name in found if not parts.fullmatch(name)] == []


def test_only_the_command_line_knows_typer() -> None:
    for layer in ("formats", "stages"):
        for path in sources(layer):
            roots = {name.partition(".")[0] for name in imports(path, ast.walk(parsed(path)))}
            assert not roots & {"typer", "click"}, path


def test_formats_know_no_model_library() -> None:
    """`Ragged` gives and takes tensors; nothing else there touches torch, and nothing on import."""
    for path in sources("formats"):
        roots = {name.partition(".")[0] for name in imports(path, ast.walk(parsed(path)))}
        assert roots & HEAVY <= ({"torch"} if path.name == "ragged.py" else set()), path


def test_module_level_skips_what_only_a_type_checker_reads() -> None:
    tree = ast.parse(
        "if TYPE_CHECKING:\n    import a\nelse:\n    import b\ntry:\n    import c\nexcept E:\n    import d\n"
    )
    assert imports(ROOT / "cli" / "x.py", module_level(tree)) == {"b", "c", "d"}


def test_relative_imports_are_resolved() -> None:
    tree = ast.parse("from ...formats.errors import DataError\nfrom . import _method")
    assert imports(ROOT / "stages" / "score" / "x.py", ast.walk(tree)) == {
        "apportion.formats.errors", "apportion.formats.errors.DataError",
        "apportion.stages.score", "apportion.stages.score._method",
    }  # fmt: skip


REGISTERED = {
    f"{kind.noun} {entry.name}": entry
    for kind in kinds().values()
    for entry in kind
    if entry.function.__module__.startswith("apportion.stages.")  # not those of installed plugins
}


@pytest.mark.parametrize("name", REGISTERED)
def test_a_registered_name_says_what_it_does_and_where_it_is_from(name: str) -> None:
    entry = REGISTERED[name]
    assert entry.summary.endswith((".", ":"))
    assert entry.source or entry.function.__name__ != entry.name  # engines and tasks


@pytest.mark.parametrize("name", [method.name for method in kinds()["methods"]])
def test_a_credit_method_has_a_test_file_named_after_it(name: str) -> None:
    assert (ROOT / "tests" / "stages" / "assign_credit" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_loads_under_its_own_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.about
    assert all(step.options for step in recipe.steps if isinstance(step, Step))


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_plans_in_seconds_and_makes_nothing(
    name: str, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.perf_counter()
    result = cli("run", name, "--dry-run")
    assert result.exit_code == 0
    assert re.fullmatch(rf"({name}: [0-9]+ checkpoints of .* are free\n)?", result.stderr)
    assert all(line.startswith("to run      apportion ") for line in result.stdout.splitlines())
    assert time.perf_counter() - started < 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_prints_as_shell_commands(name: str, cli: Callable[..., Result]) -> None:
    result = cli("run", name, "--shell")
    assert result.exit_code == 0
    assert all(line.startswith("apportion ") for line in result.stdout.splitlines())

"""Who may import whom. A room is a folder of `stages/` with all that is in it; imports within functions count like any other."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
# From the ground up: a room imports rooms of its own floor and of those below. `cli` stands on top, `formats` below all.
FLOORS = (
    {"core"},
    {"structure"},
    {"tasks", "models"},
    {"tree_build"},
    {"score", "remember"},
    {"train", "assign_credit"},
    {"sample"},
    {"eval", "interop"},
    {"inspect", "diff", "rows", "exchange", "doctor"},
    {"commands"},
    {"run"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
Imports = dict[str, set[str]]


def files() -> dict[str, Path]:
    """{module: file} of the product, modules as `stages.sample.kind`; a package goes by its own name."""
    found = sorted(file for layer in ("formats", "stages", "cli") for file in (ROOT / layer).rglob("*.py"))
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in found}


def imports_of(module: str, file: Path, code: str, known: set[str]) -> set[str]:
    """The modules of the product that this one imports, wherever in its code. An import of a package's name that is no module
    is one of the package."""
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            found |= {full if (full := f"{base}.{name.name}") in known else base for name in node.names}
    return (found & known) - {module}


def graph() -> Imports:
    """{module: modules it imports}."""
    modules = files()
    return {
        module: imports_of(module, file, file.read_text(encoding="utf-8"), set(modules))
        for module, file in modules.items()
    }


def room_of(module: str) -> str:
    """`sample` of `stages.sample.fresh.budget`; `formats` and `cli` are rooms of their own."""
    layer, _, rest = module.partition(".")
    return rest.partition(".")[0] if layer == "stages" else layer


def circles(imports: Imports) -> list[list[str]]:
    """The sets of two and more modules that import each other around (strongly connected components, Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        path.append(module)
        for other in sorted(imports.get(module, ())):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in path:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            members = path[path.index(module) :]
            del path[path.index(module) :]
            if len(members) > 1:
                found.append(sorted(members))

    for module in sorted(imports):
        if module not in order:
            visit(module)
    return found


def upward(imports: Imports) -> list[str]:
    """`a imports b` for each import of a room on a higher floor."""
    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if (mine := room_of(module)) in FLOOR and (theirs := room_of(other)) in FLOOR and FLOOR[theirs] > FLOOR[mine]
    ]


def intrusions(imports: Imports) -> list[str]:
    """`a imports b` for each import of another room's private module."""
    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if room_of(module) != room_of(other) and any(part.startswith("_") for part in other.split("."))
    ]


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module in files() if module.startswith("stages.")}
    assert rooms == set(FLOOR)


def test_no_room_imports_a_room_above_it() -> None:
    assert upward(graph()) == []


def test_no_room_imports_a_private_module_of_another() -> None:
    assert intrusions(graph()) == []


def test_no_modules_import_each_other_around() -> None:
    assert circles(graph()) == []


def test_rooms_of_one_floor_do_not_import_each_other_around() -> None:
    rooms: Imports = defaultdict(set)
    for module, others in graph().items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    assert circles(rooms) == []


def test_no_folder_of_stages_is_crowded() -> None:
    counts = {
        folder: len(list(folder.glob("*.py")))
        for folder in (ROOT / "stages").rglob("*")
        if (folder / "__init__.py").is_file()
    }
    assert {str(folder): count for folder, count in counts.items() if count > 20} == {}


def test_the_checks_can_fail() -> None:
    imports = {
        "stages.core.a": {"stages.run.b"},
        "stages.run.b": {"stages.core.a", "stages.eval._c"},
        "stages.eval._c": set(),
    }
    assert upward(imports) == ["stages.core.a imports stages.run.b"]
    assert intrusions(imports) == ["stages.run.b imports stages.eval._c"]
    assert circles(imports) == [["stages.core.a", "stages.run.b"]]


def test_imports_within_functions_count() -> None:
    code = "def f():\n    from ..core import kinds\n    from .kind import STRATEGIES"
    known = {"stages.core.kinds", "stages.core", "stages.sample.kind", "stages.sample.x"}
    assert imports_of("stages.sample.x", Path("x.py"), code, known) == {"stages.core.kinds", "stages.sample.kind"}

"""The wheel, built from a copy of the tree, installed elsewhere and used from there. Nothing here needs a network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGED = ("cli", "formats", "stages", "recipes")


def call(*words: object, cwd: Path, **environment: str) -> str:
    """Standard output of a command; its standard error is in the failure."""
    ended = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing of an older build gets in and the tree stays as it is."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder / "source", ignore=left_out)
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "source")
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    call(sys.executable, *words, "--target", folder, wheel, cwd=folder)
    return folder


def test_the_wheel_has_every_module_and_data_file_and_nothing_else(wheel: Path) -> None:
    held = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {ROOT / name for name in ("__init__.py", "__main__.py", "plugin.py", "py.typed")}
    wanted |= {path for room in PACKAGED for path in (ROOT / room).rglob("*.py")}
    wanted |= set((ROOT / "recipes").glob("*.yaml"))
    wanted |= {ROOT / "stages" / "inspect" / f"page.{suffix}" for suffix in ("html", "css", "js")}
    wanted |= set((ROOT / "stages" / "commands" / "templates").glob("*.txt"))
    tiny = ROOT / "stages" / "models" / "tiny"
    wanted |= {path for suffix in ("json", "safetensors", "jinja") for path in tiny.glob(f"*.{suffix}")}
    assert held == {f"apportion/{path.relative_to(ROOT).as_posix()}" for path in wanted}


@pytest.mark.parametrize(
    "name",
    [
        "apportion/py.typed",
        "apportion/recipes/quickstart.yaml",
        "apportion/stages/inspect/page.html",
        "apportion/stages/models/tiny/model.safetensors",
        "apportion/stages/models/tiny/tokenizer.json",
        "apportion/stages/models/tiny/chat_template.jinja",
    ],
)
def test_the_wheel_holds(name: str, wheel: Path) -> None:
    assert ZipFile(wheel).getinfo(name).file_size == (ROOT / name.removeprefix("apportion/")).stat().st_size


def test_the_wheel_is_small_and_pure(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 4 << 20


def test_the_wheel_carries_its_licence_and_version(wheel: Path, installed: Path) -> None:
    (metadata,) = installed.glob("apportion-*.dist-info/METADATA")
    said = metadata.read_text().splitlines()
    version = wheel.name.split("-")[1]
    assert {"Name: apportion", f"Version: {version}", "License-Expression: Apache-2.0"} <= set(said)
    assert call(installed / "bin" / "apportion", "--version", cwd=installed, PYTHONPATH=str(installed)) == (
        f"apportion {version}\n"
    )


def test_the_installed_package_is_used_and_not_the_tree(installed: Path, tmp_path: Path) -> None:
    code = """
import apportion
from apportion.stages.models.policy import TINY
print(apportion.__file__, (TINY / "model.safetensors").is_file(), sep="\\n")
"""
    found = call(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).splitlines()
    assert found == [str(installed / "apportion" / "__init__.py"), "True"]


def test_the_installed_command_finds_its_recipes(installed: Path, tmp_path: Path) -> None:
    shown = call(installed / "bin" / "apportion", "list", "recipes", cwd=tmp_path, PYTHONPATH=str(installed))
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert recipe.stem in shown


def test_the_installed_module_plans_a_recipe(installed: Path, tmp_path: Path) -> None:
    words = (sys.executable, "-m", "apportion", "run", "quickstart", "--dry-run")
    assert "apportion assign-credit" in call(*words, cwd=tmp_path, PYTHONPATH=str(installed))
    assert list(tmp_path.iterdir()) == []

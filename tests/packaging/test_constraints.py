"""constraints.txt holds everything that an install brings, on every Python and platform, and fits pyproject.toml."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PLATFORMS = (
    {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "os_name": "posix", "platform_system": "Darwin", "platform_machine": "arm64"},
    {"sys_platform": "win32", "os_name": "nt", "platform_system": "Windows", "platform_machine": "AMD64"},
)
ENVIRONMENTS = {
    f"{python} {platform['sys_platform']} {platform['platform_machine']}": {
        **default_environment(), "python_version": python, "python_full_version": f"{python}.0", **platform
    }
    for python in ("3.11", "3.12", "3.13", "3.14")
    for platform in PLATFORMS
}  # fmt: skip


def pins(name: str, environment: dict[str, str] | None = None) -> dict[str, Version]:
    """{name: version} of a file, as an environment reads it. Exactly one version each."""
    found: dict[str, Version] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        [version] = requirement.specifier
        assert version.operator == "==", line
        assert not requirement.extras, line  # pip takes none in a constraint
        project = canonicalize_name(requirement.name)
        assert project not in found, f"{project} twice"
        found[project] = Version(version.version)
    return found


def direct(*extras: str) -> Iterator[Requirement]:
    """What pyproject.toml names, an extra's own extras included."""
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    for requirement in map(Requirement, [line for group in groups for line in group]):
        if requirement.name == PROJECT["name"]:
            yield from list(direct(*requirement.extras))[len(PROJECT["dependencies"]) :]
        else:
            yield requirement


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_dependency_is_pinned_within_its_bounds(name: str) -> None:
    pinned = pins("constraints.txt", ENVIRONMENTS[name])
    for requirement in direct("dev"):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version}"


def test_the_lowest_lane_has_the_lower_bounds() -> None:
    """torch apart, whose older releases bring CUDA."""
    pinned = pins(".ci/lowest.txt")
    for requirement in direct("test"):
        least = max(Version(each.version) for each in requirement.specifier if each.operator == ">=")
        version = pinned[canonicalize_name(requirement.name)]
        assert version == (Version("2.13.0") if requirement.name == "torch" else least), f"{requirement}: {version}"


def test_what_is_installed_is_all_in_it() -> None:
    """What the dependencies need in turn, as far as it is installed here."""
    pinned, seen, left = pins("constraints.txt"), set[str](), list(direct("test"))
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        assert name in pinned, name
        for need in map(Requirement, needs):
            wanted = (
                [need.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)]
                if need.marker
                else [True]
            )
            key = f"{need}"
            if any(wanted) and key not in seen:
                seen.add(key)
                left.append(need)
    assert len(seen) > 50


@pytest.mark.parametrize("name", ["constraints.txt", ".ci/lowest.txt", ".ci/peers.txt"])
def test_nothing_but_names_versions_and_markers_is_in_it(name: str) -> None:
    """No index, no place of a file, no option: it must mean the same everywhere."""
    first, *lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    assert first == "# Made by .ci/resolve."
    for line in lines:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9a-z.+!]+( ; [a-zA-Z0-9_ .'<>=!()]+)?", line), line
    assert len(lines) > 100


def test_the_readme_the_gate_and_contributing_use_them() -> None:
    readme, contributing, gate = (
        ROOT.joinpath(name).read_text() for name in ("README.md", "CONTRIBUTING.md", ".ci/run")
    )
    assert "pip install -c constraints.txt -e '.[models]' && apportion run quickstart" in readme
    assert "pip install -c constraints.txt -e '.[test]' && pytest -n auto" in readme
    assert "pip install -c constraints.txt -e '.[dev]'" in contributing
    assert ".ci/resolve" in contributing
    assert "-c constraints.txt -e '.[dev]'" in gate

"""The oldest versions that are tested are the oldest that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
BOUND = re.compile(r"([\w-]+)[>=]=([\w.]+)")


def test_the_oldest_set_holds_every_lower_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for name in extras if name != "dev" for line in extras[name])]
    bounds = dict(found.groups() for line in asked if (found := BOUND.fullmatch(line)))
    assert len(bounds) + sum(line.startswith("bcos_vit[") for line in asked) == len(set(asked))
    oldest = dict(BOUND.findall((ROOT / "constraints-oldest.txt").read_text()))
    assert {name: same(oldest[name]) for name in bounds} == {name: same(bound) for name, bound in bounds.items()}


def same(version: str) -> str:
    """1.26 is 1.26.0."""
    return version if version.count(".") > 1 else same(f"{version}.0")

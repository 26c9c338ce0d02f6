"""The rules of reading that hold for every line of the project: nothing unpickles, unpacks or runs what it reads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    [*(ROOT / "bcos_vit").rglob("*.py"), *(ROOT / f"{name}.py" for name in ("train", "evaluate", "hubconf"))]
)
FORBIDDEN = ("weights_only=" + "False", "pickle.load", "Unpickler", "torch.jit.load", "extractall", "marshal.load")
UNSAFE = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
RUNNERS = ("eval", "exec", "__import__", "compile")


def _calls(source: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def faults(source: str) -> list[str]:
    """What breaks the rules in a file."""
    found = [word for word in FORBIDDEN if word in source]
    for call in _calls(source):
        name = ast.unparse(call.func)
        safe = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}.get("weights_only") == "True"
        if (name == "torch.load" and not safe) or name in RUNNERS:
            found.append(ast.unparse(call))
        if name.endswith("load_from_checkpoint") or name.endswith("extract"):
            found.append(ast.unparse(call))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in UNSAFE]
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            unsafe = names - {"UnpicklingError"} if node.module in UNSAFE else names & {"load", "jit"}
            found += [f"{node.module}.{name}" for name in unsafe if node.module in {*UNSAFE, "torch"}]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_run(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_weights_are_read_in_one_place() -> None:
    assert [
        path.name for path in FILES if any(ast.unparse(c.func) == "torch.load" for c in _calls(path.read_text()))
    ] == ["reading.py"]


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=safe)",
        f"torch.load(path, {FORBIDDEN[0]})",
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "pickle.loads(content)",
        "torch.jit.load(path)",
        "archive.extractall(folder)",
        "archive.extract(entry)",
        "eval(text)",
        "exec(text)",
        "Model.load_from_checkpoint(path)",
    ],
)
def test_the_rules_find_what_breaks_them(line: str) -> None:
    assert faults(line)


def test_the_rules_let_pass_what_is_safe() -> None:
    assert faults("torch.load(path, map_location='cpu', weights_only=True, mmap=True)") == []
    assert faults("from pickle import UnpicklingError\nimport pickletools\nmodel.eval()") == []

"""The facade: public names that are loaded when they are asked for, and a command that answers without torch."""

import ast
import pickle
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import bcos_vit

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "numpy", "PIL", "huggingface_hub", "safetensors")
BLOCKED = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))"
"""Makes every import of them an error."""


def loaded(code):
    """Which of :data:`HEAVY` a fresh Python has loaded after ``code``."""
    code = f"import sys\n{code}\nprint([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import bcos_vit; bcos_vit.__version__, dir(bcos_vit), bcos_vit.__all__",
        "import bcos_vit\ntry: bcos_vit.creat_model\nexcept AttributeError: pass",
        "import bcos_vit.cli.main",
        "import bcos_vit.config",
    ],
)
def test_asking_for_names_loads_nothing(code):
    assert loaded(code) == "[]"


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--help"], 0, "usage: bcos-vit"),
        (["--version"], 0, f"bcos-vit {bcos_vit.__version__}"),
        (["explain", "--help"], 0, "--fit {crop,whole,pad}"),
        (["export", "--help"], 0, "usage: bcos-vit export"),
        ([], 2, "the following arguments are required: VERB"),
        (["expalin"], 2, "invalid choice: 'expalin'"),
        (["explain", "a.png"], 2, "the following arguments are required: --model"),
        (["explain", "a.png", "--model", "x", "--fit", "squash"], 2, "invalid choice: 'squash'"),
        (["explain", "a.png", "--model", "x", "--batch-size", "many"], 2, "invalid int value: 'many'"),
        (["export", "--model", "x", "--out", "y", "--precision", "int4"], 2, "invalid choice: 'int4'"),
        (["models", "--markdwon"], 2, "unrecognized arguments: --markdwon"),
    ],
)
def test_help_and_wrong_arguments_load_nothing(arguments, status, sentence):
    done = subprocess.run(
        [sys.executable, "-c", f"{BLOCKED}; from bcos_vit.cli.main import main; main({arguments})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert sentence in done.stdout + done.stderr


def test_python_m_is_the_command():
    call = [sys.executable, "-m", "bcos_vit", "explain"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bcos-vit explain")


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_scripts_help_before_torch_is_loaded(script):
    run = f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')"
    assert "torch" not in loaded(f"import runpy; sys.argv = ['', '--help']\ntry: {run}\nexcept SystemExit: pass")


def test_the_names_of_editors_are_those_that_are_loaded():
    body = ast.parse(Path(bcos_vit.__file__).read_text()).body
    (block,) = [node for node in body if isinstance(node, ast.If)]
    seen = {}
    for node in block.body:
        seen |= {alias.name: node.module.removeprefix("bcos_vit").lstrip(".") for alias in node.names}
    names = {name: home for name, home in seen.items() if home}
    assert names == bcos_vit._HOME
    assert {*names, "__version__"} == set(bcos_vit.__all__)
    assert {name for name in seen if name not in names} <= set(dir(bcos_vit))


def test_star_import_and_pickles_work(monkeypatch):
    for name in bcos_vit._HOME:
        monkeypatch.delitem(vars(bcos_vit), name, raising=False)  # as if none had been asked for yet
    names = {}
    exec("from bcos_vit import *", names)
    assert set(bcos_vit.__all__) <= names.keys()
    assert pickle.loads(pickle.dumps(names["TopK"](3))) == bcos_vit.TopK(3)


def test_help_shows_the_public_names():
    text = pydoc.plain(pydoc.render_doc(bcos_vit))
    for name in ("create_model", "class ViTSpec", "explain(", "read_photo"):
        assert name in text


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(AttributeError, match=r"has no attribute 'creat_model', did you mean 'create_model'\?"):
        _ = bcos_vit.creat_model
    with pytest.raises(AttributeError, match=r"has no attribute '_explain'$"):
        _ = bcos_vit._explain
    with pytest.raises(ImportError, match="cannot import name 'explian'"):
        exec("from bcos_vit import explian")


def test_modules_are_attributes_as_they_were(monkeypatch):
    for name in ("export", "explanation", "layers", "models", "photos", "checks"):
        monkeypatch.delitem(vars(bcos_vit), name, raising=False)
        assert getattr(bcos_vit, name) is sys.modules[f"bcos_vit.{name}"]

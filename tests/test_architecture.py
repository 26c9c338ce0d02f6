"""The floor plan: arrows, a light facade, and names that do not hide each other."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import bcos_vit

ROOT = Path(__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.walk_packages(bcos_vit.__path__, "bcos_vit."))
HEAVY = ("lightning", "hydra", "captum", "wandb", "matplotlib", "gradio", "sklearn", "torchmetrics", "timm")


def test_arrows_go_down_only():
    pytest.importorskip("importlinter", reason="import-linter is of the extra dev")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_facade_is_light():
    code = f"import sys, bcos_vit; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_needs_no_trainer(tmp_path):
    packages = [*(name for name in HEAVY if name != "matplotlib"), "omegaconf", "tensorboard"]
    block = f"import sys; sys.modules.update(dict.fromkeys({packages}))"
    photo = tmp_path / "grey.png"
    Image.new("L", (9, 8), 128).save(photo)
    command = ["explain", str(photo), "--model", "bcos_vit_digits", "--out", str(tmp_path / "out")]
    code = f"{block}; from bcos_vit.cli.main import main; sys.exit(main({command}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    "package",
    ["training", *(pytest.param(p, marks=pytest.mark.slow) for p in ("data", "metrics", "evaluation", "config"))],
)
def test_a_missing_extra_is_answered_with_the_line_that_installs_it(package):
    missing = {"config": "hydra", "metrics": "torchmetrics"}.get(package, "lightning")
    code = f"import sys; sys.modules[{missing!r}] = None; from bcos_vit.{package} import *"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert last.endswith("is not installed: pip install 'bcos_vit[train]'")


def test_functions_of_maps_need_no_trainer():
    block = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}))"
    code = f"{block}; import torch, bcos_vit; print(float(bcos_vit.metrics.lattice_share(torch.eye(2), 2)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1.0\n", "")


def test_facade_has_the_public_names():
    names = "collapse explain frozen create_model list_models predict TopK Contrast LinearMap Explanation LedgerError"
    for name in [*names.split(), "ViTSpec", "__version__"]:
        assert name in bcos_vit.__all__
        assert hasattr(bcos_vit, name)


@pytest.mark.parametrize("name", ["bcos_vit", *MODULES])
def test_no_module_bears_the_name_of_something_exported_beside_it(name):
    module = importlib.import_module(name)
    for sub in pkgutil.iter_modules(getattr(module, "__path__", [])):
        beside = getattr(module, sub.name, None)
        assert beside is None or beside is sys.modules.get(f"{name}.{sub.name}"), f"{name}.{sub.name}"


@pytest.mark.parametrize("name", ["bcos_vit", *MODULES])
def test_everything_exported_exists_and_is_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported)
        if exported != "__version__":
            assert getattr(module, exported).__doc__, exported


def test_files_are_short():
    files = [*ROOT.glob("bcos_vit/**/*.py"), *ROOT.glob("tests/**/*.py")]
    long = {str(p): n for p in files if (n := len(p.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long


def test_nothing_reads_outside_the_repository():
    # a user has the repository only
    for path in [*ROOT.glob("bcos_vit/**/*.py"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("configs/**/*.yaml")]:
        if path != Path(__file__):
            assert "../shared" not in path.read_text(), path

"""The page on extending tells the truth: its Python runs, and its configurations plug in by name."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from lightning import Trainer

import bcos_vit
from bcos_vit.config import build
from bcos_vit.evaluation import evaluate
from bcos_vit.evaluation.trainer import given_callbacks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """All of the page's classes in the two modules that its configurations name, and these in a folder."""
    for name in ("squares", "negative", "records"):
        (tmp_path / f"{name}.py").write_text("\n".join(PYTHON))
    files = (("data", "squares.yaml"), ("metrics", "negative.yaml"), ("callbacks", "records.yaml"))
    for (group, file), content in zip(files, YAML, strict=True):
        (tmp_path / group).mkdir()
        (tmp_path / group / file).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_data_set_and_metric_plug_in_by_name(modules):
    search = f"hydra.searchpath=[file://{modules}]"
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("evaluate", [search, "data=squares", "metrics=[accuracy,negative]"])
    model = bcos_vit.create_model("bcos_vit_digits", num_classes=2, logit_bias=-2.0)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = Trainer(accelerator="cpu", **quiet)
    report = evaluate(model, build(config.data), build(config.metrics), trainer=trainer)
    assert report.images == 16
    assert 0 <= report.figures["negative"]["negative_share"] <= 1
    assert any(line.startswith("negative contributions") for line in report.table())


def test_callback_plugs_in_by_name_beside_the_one_that_comes_with_the_project(modules):
    search = f"hydra.searchpath=[file://{modules}]"
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [search, "callbacks=[early_stopping,records]", "callbacks.records.least=0.5"])
    stopping, records = given_callbacks(config)
    assert (stopping.monitor, stopping.mode) == ("val_accuracy", "max")
    assert (type(records).__name__, records.best) == ("Records", 0.5)


def test_every_public_name_has_an_example_that_runs():
    for name in bcos_vit.__all__:
        if name != "__version__":  # a doctest of the package: pytest runs them all
            assert ">>> " in (getattr(bcos_vit, name).__doc__ or ""), name

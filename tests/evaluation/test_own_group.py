"""A group of metrics of one's own plugs in by its name."""

import pytest
import torch
from omegaconf import OmegaConf
from torchmetrics import SumMetric

from bcos_vit.config import build
from bcos_vit.evaluation import evaluate
from bcos_vit.metrics import Group
from evaluations import quiet, serve, ten_classes, thirteen
from runs import config


@pytest.fixture(name="model")
def _model():
    return ten_classes()


@pytest.fixture(name="thirteen")
def _thirteen(model):
    return thirteen(model)


class Brightness(Group):
    """The mean brightness of all images, times ``factor``."""

    def __init__(self, model, *, factor=1.0):
        super().__init__(model)
        self.factor = factor
        self.sum, self.count = SumMetric(), SumMetric()

    def update(self, batch):
        self.sum.update(batch.images.mean((1, 2, 3)))
        self.count.update(len(batch.images))

    def compute(self):
        return {"mean": self.factor * float(self.sum.compute() / self.count.compute())}

    def rows(self, found):
        return {"brightness": f"{found['mean']:.3f}"}


def test_it_is_chosen_by_its_class(model, thirteen):
    words = (f"+metrics.light._target_={__name__}.Brightness", "+metrics.light._partial_=true")
    chosen = config(*words, "+metrics.light.factor=100", "metrics=[accuracy]", name="evaluate")
    report = evaluate(model, serve(*thirteen), build(chosen.metrics), trainer=quiet())
    assert list(report.figures) == ["accuracy", "light"]
    torch.testing.assert_close(report.figures["light"]["mean"], float(100 * thirteen[0].mean()), rtol=1e-5, atol=0)
    assert report.rows["brightness"] in "\n".join(report.table())


def test_it_is_chosen_by_its_file(model, thirteen, tmp_path):
    (tmp_path / "metrics").mkdir()
    mine = {"light": {"_target_": f"{__name__}.Brightness", "_partial_": True, "factor": 2}}
    OmegaConf.save(OmegaConf.create(mine), tmp_path / "metrics" / "brightness.yaml")
    chosen = config(f"hydra.searchpath=[file://{tmp_path}]", "metrics=[completeness,brightness]", name="evaluate")
    report = evaluate(model, serve(*thirteen), build(chosen.metrics), trainer=quiet())
    assert list(report.figures) == ["completeness", "light"]
    torch.testing.assert_close(report.figures["light"]["mean"], float(2 * thirteen[0].mean()), rtol=1e-5, atol=0)

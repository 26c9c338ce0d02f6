"""Checkpoints of the reference's training, read by their path: its models, whatever else lies beside them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bcos_vit import create_model
from bcos_vit.models.zoo import CARDS
from reference import assert_same, by_hand, published
from toys import perturb_norms, random_images

sanitize_config = pytest.importorskip("bcos.experiments.utils").sanitize_config
ExponentialMovingAverage = pytest.importorskip("bcos.training.ema").ExponentialMovingAverage

NAMES = (
    "bcos_simple_vit_ti_patch16_224",
    "bcos_vitc_ti_patch1_14",
    "standard_simple_vit_ti_patch16_224",
    "standard_vitc_ti_patch1_14",
)


class Training(nn.Module):
    """Where the reference's training keeps its parts: the model, and the average of its weights if there is one."""

    def __init__(self, model: nn.Module, *, ema: bool) -> None:
        super().__init__()
        self.model = model
        self.ema = ExponentialMovingAverage(model, decay=0.9) if ema else None


def reference_of(name: str, classes: int = 1000) -> nn.Module:
    """Drawn by the reference: its own entry point, or its classes put together where that has no such model."""
    if classes == 1000:
        return perturb_norms(getattr(published, name.removeprefix("bcos_"))(pretrained=False)).eval()
    return perturb_norms(by_hand(dataclasses.replace(CARDS[name].spec, num_classes=classes)))


def save_checkpoint(path: Path, reference: nn.Module, *, ema: bool = False, **more: Any) -> None:
    training = Training(reference, ema=ema)
    if training.ema is not None:
        nn.init.constant_(next(training.ema.parameters()), 7.0)  # unlike the model's own
    content = {
        "epoch": 3,
        "global_step": 1234,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": training.state_dict(),
        "hparams_name": "kwargs",
        "hyper_parameters": {"dataset": "ImageNet", "base_network": "vit_final", "experiment_name": "vit", "lr": 1e-3},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}}, "param_groups": []}],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [0.001]}],
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "", "current_score": None}},
        "loops": {"fit_loop": {"state_dict": {}}},
    }
    torch.save(content | more, path)


@pytest.mark.parametrize("ema", [False, True], ids=["plain", "averaged"])
@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_are_the_references_models(
    name: str, ema: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference, path = reference_of(name), tmp_path / "last.ckpt"
    save_checkpoint(path, reference, ema=ema)
    with caplog.at_level(logging.WARNING, logger="bcos_vit"):
        model = create_model(path)
    path.unlink()
    said = [record.getMessage() for record in caplog.records if record.name == "bcos_vit"]
    assert said == ["the checkpoint's averaged weights (ema.n_averaged, ...) are left out"] * ema
    assert model.spec == CARDS[name].spec
    assert (model.class_names, model.about, model.training) == (None, {}, False)
    assert_same(model, reference, random_images(1, (64, 96)))


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_with_other_classes(name: str, tmp_path: Path) -> None:
    """The logit bias is in no file: log(1/4) for five classes, as the reference's own is."""
    reference, path = reference_of(name, classes=5), tmp_path / "last.ckpt"
    save_checkpoint(path, reference, ema=True)
    model = create_model(path)
    path.unlink()
    assert model.spec == dataclasses.replace(CARDS[name].spec, num_classes=5)
    assert_same(model, reference, random_images(2, (64, 96)))


@pytest.mark.parametrize("name", ["bcos_simple_vit_ti_patch16_224", "standard_vitc_ti_patch1_14"])
def test_checkpoints_with_the_hyper_parameters_of_an_entry_point(name: str, tmp_path: Path) -> None:
    """What its training notes down: the whole configuration, made plain by its own function."""
    reference, path = reference_of(name), tmp_path / "last.ckpt"
    plain = sanitize_config(reference.config)
    assert {"model", "optimizer", "lr_scheduler"} <= plain.keys()
    save_checkpoint(path, reference, hyper_parameters=plain | {"dataset": "ImageNet"})
    assert_same(create_model(path), reference, random_images(1, 32))
    path.unlink()


def test_a_checkpoint_of_the_average_alone_is_none(tmp_path: Path) -> None:
    """Averaged weights are left out even where nothing else is left: they are never taken for the model's."""
    reference, path = reference_of(NAMES[0]), tmp_path / "last.ckpt"
    state = {key: tensor for key, tensor in Training(reference, ema=True).state_dict().items() if "ema." in key}
    save_checkpoint(path, reference, state_dict=state)
    with pytest.raises(ValueError, match=r"last\.ckpt holds no weights"):
        create_model(path)
    path.unlink()


def test_checkpoints_take_other_classes_and_sizes(tmp_path: Path) -> None:
    reference, path = reference_of(NAMES[0]), tmp_path / "last.ckpt"
    save_checkpoint(path, reference)
    model = create_model(path, num_classes=3, image_size=64)
    path.unlink()
    assert (model.spec.num_classes, model.spec.image_size) == (3, 64)
    assert torch.equal(model.tokens.project.weight, reference.state_dict()["0.to_patch_embedding.linear.linear.weight"])
    assert model(random_images(1, 64)).shape == (1, 3)

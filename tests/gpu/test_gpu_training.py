"""Training on the device: mixed precision, averaged weights, checkpoints that can be gone on with."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from bcos_vit import create_model, explain
from bcos_vit.models.vit import ViT
from devices import DEVICE, IS_CUDA, exact, images_like, off, on_device

TARGETS = torch.tensor([1, 3, 5, 7])


def loss_of(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    logits = model(images)
    hot = nn.functional.one_hot(TARGETS.to(logits.device), 10).to(logits.dtype)
    return nn.functional.binary_cross_entropy_with_logits(logits, hot)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["rope", "stem"])
def test_a_step_in_mixed_precision(kind: str, low: torch.dtype) -> None:
    model = exact(kind).train()
    here = on_device(model)
    loss_of(model, images_like(model)).backward()
    optimizer = torch.optim.Adam(here.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**10, enabled=low == torch.float16)
    with torch.autocast(DEVICE.type, low):
        loss = loss_of(here, images_like(here))
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    pairs = [(p.grad, q.grad) for p, q in zip(here.parameters(), model.parameters(), strict=True)]
    mine, theirs = (torch.cat([g.detach().double().cpu().flatten() for g in side]) for side in zip(*pairs, strict=True))
    assert torch.nn.functional.cosine_similarity(mine, theirs, 0) >= 0.999
    scaler.step(optimizer)
    scaler.update()
    with torch.autocast(DEVICE.type, low):
        assert loss_of(here, images_like(here)) < loss
    assert all(bool(p.isfinite().all()) for p in here.parameters())
    explain(here.eval(), images_like(here)).check()


def steps(model: ViT, optimizer: torch.optim.Optimizer, count: int, average: AveragedModel | None = None) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model, images_like(model)).backward()
        optimizer.step()
        if average is not None:
            average.update_parameters(model)


def test_averaged_weights_are_explained() -> None:
    model = on_device(exact("rope"))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    steps(model, optimizer, 1, average)  # the first one is copied
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(3):
        steps(model, optimizer, 1, average)
        expected = {name: 0.9 * expected[name] + 0.1 * p.detach() for name, p in model.named_parameters()}
    for name, p in average.module.named_parameters():
        assert off(p, expected[name]) <= 1e-5, name
    e = explain(average, images_like(model), 3).check()
    assert not torch.equal(e.logit, explain(model, images_like(model), 3).logit)


def test_a_checkpoint_is_gone_on_with(tmp_path: Path) -> None:
    start = on_device(exact("rope"))

    def fresh() -> tuple[ViT, torch.optim.Optimizer]:
        model = copy.deepcopy(start)
        return model, torch.optim.Adam(model.parameters(), lr=1e-3, fused=IS_CUDA)

    whole, optimizer = fresh()
    steps(whole, optimizer, 6)
    cut, optimizer = fresh()
    steps(cut, optimizer, 3)
    torch.save({"model": cut.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "last.ckpt")
    again, optimizer = fresh()
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True, map_location="cpu")
    again.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    steps(again, optimizer, 3)
    for (name, mine), theirs in zip(again.named_parameters(), whole.named_parameters(), strict=True):
        assert off(mine, theirs[1]) <= 1e-3, name  # a GPU adds up in any order


def test_the_command_s_training_is_cut_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("hydra", "omegaconf", "lightning", "timm", "torchmetrics", "sklearn"):
        pytest.importorskip(package)
    import runs
    from bcos_vit.data import DataModule

    monkeypatch.setattr(DataModule, "train_dataloader", lambda self: self.evaluation_loader("train"))  # in one order
    words = ("recipe.epochs=3", "explanations.every=1", "ema=0.9", "trainer.deterministic=false")
    words += (f"trainer.accelerator={'gpu' if IS_CUDA else 'cpu'}",)
    whole = runs.train(*words, f"output={tmp_path / 'whole'}")
    with pytest.raises(runs.Cut):
        runs.train(*words, f"output={tmp_path / 'cut'}", watcher=runs.Recorder(cut=6))
    last = tmp_path / "cut/checkpoints/last.ckpt"
    again = runs.train(*words, f"output={tmp_path / 'again'}", f"resume={last}")
    assert whole is not None
    assert again is not None
    assert again.figures["accuracy"]["top1"] == pytest.approx(whole.figures["accuracy"]["top1"], abs=0.02)
    models = [create_model(tmp_path / name / "model.safetensors") for name in ("whole", "again")]
    for mine, theirs in zip(*(model.parameters() for model in models), strict=True):
        assert mine.device.type == "cpu"
        assert off(mine, theirs) <= 1e-2
    explain(models[1].to(DEVICE), images_like(models[1])).check()


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_the_command_trains_in_mixed_precision(tmp_path: Path, precision: str) -> None:
    for package in ("hydra", "omegaconf", "lightning", "timm", "torchmetrics", "sklearn"):
        pytest.importorskip(package)
    if precision == "16-mixed" and not IS_CUDA:
        pytest.skip("Lightning has no float16 on the CPU")
    import runs

    accelerator = f"trainer.accelerator={'gpu' if IS_CUDA else 'cpu'}"
    report = runs.train(accelerator, f"trainer.precision={precision}", f"output={tmp_path / 'run'}")
    assert report is not None
    assert report.figures["completeness"]["largest_residual"] <= 2e-2

"""Exported files as others run them, and how far what they say is from the model in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import onnxruntime
import torch
from skimage import data as bundled
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.export import ExportedProgram
from torchvision.transforms.v2.functional import resize

from bcos_vit import ViT, explain
from bcos_vit.export import Certificate

EXPLAINED = ("logits", "target", "contributions", "position", "bias", "residual")
"""Outputs of the file of a B-cos model."""
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field")
"""Of scikit-image's, in colour."""


class Exported(NamedTuple):
    """A model, how it was before it was exported, and what became of it: a file, by way of a program."""

    model: ViT
    before: dict[str, object]
    path: Path
    certificate: Certificate
    program: ExportedProgram


def snapshot(model: ViT) -> dict[str, object]:
    """All that a caller could see changed: bytes of weights, gradients and logits, modes, wants of gradients."""
    size = model.spec.image_size
    with torch.no_grad():
        logits = model(torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(5)))
    return {
        "weights": {name: (t.dtype, t.device, t.numpy().tobytes()) for name, t in model.state_dict().items()},
        "gradients": {n: None if p.grad is None else p.grad.numpy().tobytes() for n, p in model.named_parameters()},
        "wanted": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "about": (dict(model.about), model.class_names, model.spec),
        "logits": logits.numpy().tobytes(),
    }


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def outputs(file: Path | onnxruntime.InferenceSession, images: Tensor, target: Tensor | None = None) -> dict:
    """The outputs of a file by its own names for them."""
    opened = session(file) if isinstance(file, Path) else file
    feed = {"image": images.numpy()} | ({} if target is None else {"target": target.numpy()})
    names = [output.name for output in opened.get_outputs()]
    return {name: torch.from_numpy(found) for name, found in zip(names, opened.run(None, feed), strict=True)}


def unseen(model: ViT, count: int = 100) -> Tensor:
    """Images on which no file was verified: half noise, half views of photographs, (count, 3, H, W)."""
    size, generator = model.spec.image_size, torch.Generator().manual_seed(11)
    noise = torch.rand(count - count // 2, 3, size, size, generator=generator)
    photos = [*(getattr(bundled, name)() for name in PHOTOS), *load_sample_images().images]
    views = []
    for number in range(count // 2):
        photo = torch.from_numpy(photos[number % len(photos)].copy()).permute(2, 0, 1).float() / 255
        side = int(min(photo.shape[1:]) * (0.4 + 0.6 * float(torch.rand((), generator=generator))))
        top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in photo.shape[1:])
        views.append(resize(photo[:, top : top + side, left : left + side], [size, size], antialias=True).clamp(0, 1))
    return torch.cat([noise, *(view[None] for view in views)])


def errors(model: ViT, found: dict[str, Tensor], images: Tensor) -> dict[str, float]:
    """The largest error of every output as a share of the largest value of that output in PyTorch, and the ledger's.

    The ledger is that of the file's own numbers, added up in float64 as a user would.
    """
    with torch.no_grad():
        right = {"logits": model(images)}
    if model.dynamic_linear:
        e = explain(model, images, found["target"])
        zero = torch.zeros(len(images))
        right |= {"contributions": e.contributions, "bias": e.constants["bias"], "weights": e.weights}
        right["position"] = e.constants.get("position", zero)
    wrong = {}
    for name, expected in right.items():
        if name in found:
            assert found[name].shape == expected.shape, name
            off, scale = float((found[name] - expected).abs().max()), float(expected.abs().max())
            wrong[name] = off / scale if scale else off
    return wrong | ({"ledger": ledger(found)} if model.dynamic_linear else {})


def assert_exact(wrong: dict[str, float]) -> None:
    """That errors are no more than rounding: 1e-5, and of what is read off the rows 3e-5."""
    maps = ("contributions", "position", "weights")
    assert all(error <= (3e-5 if name in maps else 1e-5) for name, error in wrong.items()), wrong


def ledger(found: dict[str, Tensor]) -> float:
    """The largest relative residual, from the outputs of a file alone; its own residual must be that one."""
    wide = {name: t.double() for name, t in found.items() if name != "target"}
    logit = wide["logits"].gather(1, found["target"][:, None])[:, 0]
    lines = (wide["contributions"].sum((1, 2)), wide["position"], wide["bias"])
    residual = logit - sum(lines)
    added = wide["contributions"].abs().sum((1, 2)) + wide["position"].abs() + wide["bias"].abs()
    scale = torch.maximum(added, logit.abs())
    return float((torch.maximum(residual.abs(), wide["residual"].abs()) / scale).max())

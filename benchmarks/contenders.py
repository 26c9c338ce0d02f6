"""What is compared: a model of ours, its conventional twin, the reference's same model, and timm's of that size."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bcos.models.pretrained
import onnx.utils
import onnxruntime
import timm
import torch
from torch import Tensor, nn
from train_step import DEVICE

import bcos_vit
from bcos_vit.export import to_onnx

Works = dict[str, Callable[[], object]]
TIMM = {"ti": "vit_tiny_patch16_224", "s": "vit_small_patch16_224", "b": "vit_base_patch16_224"}


class Contenders:
    """The models, untrained, and ``batch`` random images."""

    def __init__(self, name: str, batch: int) -> None:
        self.name = name
        self.model = bcos_vit.create_model(name).eval().to(DEVICE)
        self.twin = bcos_vit.create_model(twin_of(name)).eval().to(DEVICE)
        self.reference = reference(name)
        size = next(size for size in TIMM if f"_{size}_" in name)
        self.timm = timm.create_model(TIMM[size]).eval().to(DEVICE)
        self.images = torch.rand(batch, 3, 224, 224, device=DEVICE)

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits, without a graph."""
        with torch.no_grad():
            logits: Tensor = model(encoded(images) if model is self.reference else images)
        return logits

    def twin_gradient(self) -> Tensor:
        """The twin's gradient of its largest logits by the images."""
        images = self.images.clone().requires_grad_()
        return torch.autograd.grad(self.twin(images).amax(1).sum(), images)[0]

    def reference_gradient(self) -> Tensor:
        """The reference's rows of its largest logits, batched by hand."""
        given = encoded(self.images).requires_grad_()
        with self.reference.explanation_mode():
            logits = self.reference(given)
        return torch.autograd.grad(logits.amax(1).sum(), given)[0]

    def reference_explain(self, images: Tensor, target: int | None = None) -> None:
        """The reference's own ``explain()``, which takes one image at a time and renders it."""
        for image in images:
            self.reference.explain(encoded(image[None]).requires_grad_(), idx=target)


def twin_of(name: str) -> str:
    """The conventional model of the same sizes."""
    return name.replace("bcos_", "standard_").replace("_rope", "")


def reference(name: str) -> Any:
    """The same model of the reference, untrained."""
    return getattr(bcos.models.pretrained, name.removeprefix("bcos_"))(pretrained=False).eval().to(DEVICE)


def encoded(images: Tensor) -> Tensor:
    """The six channels that the reference takes."""
    return torch.cat((images, 1 - images), 1)


def compiled_copy(model: bcos_vit.ViT) -> bcos_vit.ViT:
    """The same model, compiled."""
    faster = copy.deepcopy(model)
    faster.compile()
    return faster


def onnx_sessions(c: Contenders, images: Tensor) -> Works:
    """Three files on as many threads as PyTorch has: of the model all, of the model the logits alone, of the twin."""
    with tempfile.TemporaryDirectory() as folder:
        whole, logits, twin = (Path(folder, f"{name}.onnx") for name in ("whole", "logits", "twin"))
        to_onnx(c.model, whole)
        onnx.utils.extract_model(whole, logits, ["image"], ["logits"])
        to_onnx(c.twin, twin)
        sessions = [session(path) for path in (whole, logits, twin)]
    names = ("ONNX file, one image", "onnxruntime's forward", "onnxruntime's forward of the twin")
    given = {"image": images.numpy()}
    return {name: lambda run=s.run: run(None, given) for name, s in zip(names, sessions, strict=True)}  # type: ignore[misc]


def session(path: Path) -> onnxruntime.InferenceSession:
    """Threads that wait for work only while there is a run: between runs they would slow PyTorch."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

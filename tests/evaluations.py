"""What the tests of evaluation share: a small model, images for it, and ``evaluate.py`` as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

from bcos_vit import create_model, save_model
from bcos_vit.data import DataModule
from bcos_vit.models import ViT
from toys import toy

ROOT = Path(__file__).parents[1]
TEN = tuple("0123456789")


class Images(Dataset):
    """One part of a data set, from tensors."""

    licence = "none"

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        class_names: tuple[str, ...],
        transform: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.images, self.labels, self.class_names, self.transform = images, labels, class_names, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), int(self.labels[index])


def serve(
    images: Tensor,
    labels: Tensor,
    *,
    class_names: tuple[str, ...] = TEN,
    split: str = "test",
    batch_size: int = 5,
    **transforms: Any,
) -> DataModule:
    """A data module whose ``split`` holds these images and labels; its other parts are empty."""
    held = split

    def part(split: str, transform: Callable[[Tensor], Tensor] | None) -> Images:
        size = len(images) if split == held else 0
        return Images(images[:size], labels[:size], class_names, transform)

    return DataModule(part, batch_size=batch_size, **transforms)


def quiet() -> Trainer:
    """A trainer of one process that does nothing but evaluate."""
    without = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", devices=1, **without)


def ten_classes() -> ViT:
    """A toy of ten classes, with logits that are not all alike."""
    return toy("bcos_vit_digits", num_classes=10, logit_scale=20.0)


def chequered(count: int, seed: int = 0) -> Tensor:
    """(count, 3, 8, 8): 2 x 2 pixels of black and white in each channel, repeated; a toy predicts many classes."""
    tiles = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).round()
    return tiles.repeat(1, 1, 4, 4)


def thirteen(model: ViT) -> tuple[Tensor, Tensor]:
    """Images and labels of which ``model`` gets all right but the first four."""
    images = chequered(13)
    labels = model(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % 10
    return images, labels


# --- evaluate.py as users start it ---


class Ended(subprocess.CompletedProcess):
    """How a process ended."""

    def error(self) -> str:
        """What it says is wrong, where it ends as it should: with status 1 and a sentence at last."""
        assert self.returncode == 1, self.stderr
        assert "Traceback" not in self.stderr, self.stderr
        last = self.stderr.rstrip().splitlines()[-1]
        assert last.startswith("error: "), self.stderr
        return last.removeprefix("error: ")


def start(folder: Path, *arguments: str) -> Callable[[], Ended]:
    """Starts ``python evaluate.py`` in ``folder``, where own modules are found; what it returns waits for the end."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "evaluate.py"), "trainer.accelerator=cpu", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
    )

    def wait() -> Ended:
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()
        return Ended(process.args, process.returncode, out, err)

    return wait


def write_scans(folder: Path, count: int) -> None:
    """The first digits of scikit-learn in ``folder/photos/test/CLASS``, and a model in ``folder/model.safetensors``."""
    pixels, labels = load_digits(return_X_y=True)
    for label in range(10):
        (folder / "photos" / "test" / str(label)).mkdir(parents=True)
    for number in range(count):
        grey = (pixels[number].reshape(8, 8) * 255 / 16).astype(np.uint8)
        Image.fromarray(grey).save(folder / "photos" / "test" / str(labels[number]) / f"{number}.png")
    images = torch.as_tensor(pixels[:300], dtype=torch.float32).view(-1, 1, 8, 8) / 16
    save_model(_nearest_mean(images.expand(-1, 3, -1, -1), labels[:300]), folder / "model.safetensors")


def _nearest_mean(images: Tensor, labels: np.ndarray) -> ViT:
    """A model that has learnt as much as one step can teach: its classes are the mean features of these images."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        # positions are added, so that image shares differ; a scale, so that residuals are not lost in the bias
        model = create_model("bcos_vit_digits", position="sincos", depth=2, logit_scale=20.0)
        seen: list[Tensor] = []
        with model.head.classify.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
            model(images)
        means = torch.stack([seen[0][labels == label].mean(0) for label in range(10)])
        model.head.classify.weight.copy_(means - seen[0].mean(0))
    return model

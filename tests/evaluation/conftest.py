"""A small model, images with labels to evaluate it on, a quiet trainer, and ``evaluate.py`` as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

from bcos_vit import create_model, save_model
from bcos_vit.data import DataModule
from bcos_vit.models import ViT
from runs import ROOT
from toys import toy

TEN = tuple("0123456789")


class Images(Dataset):
    """One part of a data set, from tensors."""

    licence = "none"

    def __init__(self, images: Tensor, labels: Tensor, class_names: tuple[str, ...], transform) -> None:
        self.images, self.labels, self.class_names, self.transform = images, labels, class_names, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return image if self.transform is None else self.transform(image), int(self.labels[index])


@pytest.fixture
def trainer() -> Trainer:
    """One process, and nothing but the evaluation."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", devices=1, **quiet)


@pytest.fixture
def model() -> ViT:
    """Of ten classes, with logits that are not all alike."""
    return toy("bcos_vit_digits", num_classes=10, logit_scale=20.0)


@pytest.fixture
def serve() -> Callable[..., DataModule]:
    """Makes a data module whose ``split`` holds these images and labels; its other parts are empty."""

    def make(images, labels, *, class_names=TEN, split="test", batch_size=5, **transforms) -> DataModule:
        def part(split, transform):
            here = split == held
            chosen = (images, labels) if here else (images[:0], labels[:0])
            return Images(*chosen, class_names, transform)

        held = split
        return DataModule(part, batch_size=batch_size, **transforms)

    return make


def chequered(count: int, seed: int = 0) -> Tensor:
    """(count, 3, 8, 8): 2 x 2 pixels of black and white in each channel, repeated; a toy predicts many classes."""
    tiles = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).round()
    return tiles.repeat(1, 1, 4, 4)


@pytest.fixture(name="chequered")
def _chequered() -> Callable[..., Tensor]:
    return chequered


@pytest.fixture
def thirteen(model: ViT) -> tuple[Tensor, Tensor]:
    """Images and labels of which ``model`` gets all right but the first four."""
    images = chequered(13)
    labels = model(images).argmax(1)
    labels[:4] = (labels[:4] + 1) % 10
    return images, labels


class Ended(subprocess.CompletedProcess):
    """How a process ended."""

    def error(self) -> str:
        """What it says is wrong, where it ends as it should: with status 1 and a sentence at last."""
        assert self.returncode == 1, self.stderr
        assert "Traceback" not in self.stderr, self.stderr
        last = self.stderr.rstrip().splitlines()[-1]
        assert last.startswith("error: "), self.stderr
        return last.removeprefix("error: ")


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Callable[[], Ended]]:
    """Starts ``python evaluate.py`` in ``tmp_path``; what it returns waits for the end."""
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str) -> Callable[[], Ended]:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "evaluate.py"), "trainer.accelerator=cpu", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        )
        running.append(process)

        def wait() -> Ended:
            out, err = process.communicate(timeout=600)
            return Ended(process.args, process.returncode, out, err)

        return wait

    yield begin
    for process in running:
        process.kill()


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


@pytest.fixture
def scans(tmp_path: Path) -> Callable[[int], None]:
    """Writes the first digits of scikit-learn to ``photos/test/CLASS``, and a model to ``model.safetensors``."""
    pixels, labels = load_digits(return_X_y=True)

    def write(count: int) -> None:
        for label in range(10):
            (tmp_path / "photos" / "test" / str(label)).mkdir(parents=True)
        for number in range(count):
            grey = (pixels[number].reshape(8, 8) * 255 / 16).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / "photos" / "test" / str(labels[number]) / f"{number}.png")
        grey = torch.as_tensor(pixels[:300], dtype=torch.float32).view(-1, 1, 8, 8) / 16
        save_model(_nearest_mean(grey.expand(-1, 3, -1, -1), labels[:300]), tmp_path / "model.safetensors")

    return write

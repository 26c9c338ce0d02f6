"""Training on drawn shapes: other images in every epoch, and targets of several classes."""

from __future__ import annotations

from typing import Any

import pytest
from lightning import Callback
from torch import Tensor

from runs import Cut, train

ONE = ("+trainer.limit_val_batches=1", "+trainer.limit_test_batches=1")


class Seen(Callback):
    """Keeps all training batches, and ends the run before batch number ``cut``."""

    def __init__(self, cut: int | None = None) -> None:
        self.cut = cut
        self.images: list[Tensor] = []
        self.targets: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if len(self.images) == self.cut:
            raise Cut
        self.images.append(batch[0])
        self.targets.append(batch[1])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_epoch_has_its_own_images(tmp_path: Any, workers: int) -> None:
    seen = Seen()
    words = ["model=bcos_vit_shapes", "data=shapes", "recipe.epochs=3", "data.dataset.canvases_from=1"]
    words += ["trainer.limit_train_batches=2", *ONE, "explanations.every=null"]
    train(*words, f"data.num_workers={workers}", f"output={tmp_path / 'run'}", watcher=seen)
    assert [tuple(images.shape[1:]) for images in seen.images] == [(3, s, s) for s in (32, 32, 48, 48, 32, 32)]
    assert all(targets.shape == (32, 10) for targets in seen.targets)
    assert seen.targets[2].sum(1).max() > 1
    first, last = (
        {image.sum().item() for batch in part for image in batch} for part in (seen.images[:2], seen.images[4:])
    )
    assert not first & last


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_images_of_its_epoch(tmp_path: Any) -> None:
    cut, again = Seen(cut=5), Seen()
    words = ["model=bcos_vit_shapes", "data=shapes", "recipe.epochs=4", "data.dataset.canvases_from=2"]
    words += ["trainer.limit_train_batches=2", *ONE, "explanations.every=null"]
    with pytest.raises(Cut):
        train(*words, f"output={tmp_path / 'cut'}", watcher=cut)
    last = tmp_path / "cut/checkpoints/last.ckpt"
    train(*words, f"output={tmp_path / 'again'}", f"resume={last}", watcher=again)
    sizes = [[images.shape[-1] for images in seen.images] for seen in (cut, again)]
    assert sizes == [[32, 32, 32, 32, 48], [48, 48, 32, 32]]


def test_a_loss_that_trains_other_probabilities_is_warned_of(tmp_path: Any) -> None:
    words = ["model=standard_vit_shapes", "data=shapes", "recipe.epochs=1", f"output={tmp_path / 'run'}"]
    words += ["trainer.limit_train_batches=1", *ONE, "explanations.every=null"]
    with pytest.warns(UserWarning, match=r"OneVsRest trains logits whose sigmoid .* give \+model.outputs=sigmoid"):
        train(*words, "+model.outputs=softmax")

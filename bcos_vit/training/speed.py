"""What makes training faster or smaller and, but for rounding, changes nothing else."""

from __future__ import annotations

import functools

import torch

from bcos_vit.training.classifier import Classifier
from bcos_vit.training.compilation import Compile


def speed_up(
    classifier: Classifier,
    *,
    compile: Compile = False,
    checkpointing: bool = False,
    channels_last: bool = False,
    fused: bool = False,
) -> None:
    """Set a classifier up before it is trained.

    None of it belongs to the recipe: a run may be resumed with other switches.

    Parameters
    ----------
    compile
        ``torch.compile`` the model, in place: names of weights stay as they are. With ``"auto"`` nothing is done here:
        :class:`~bcos_vit.training.compilation.Compilation` does it where it pays.
    checkpointing
        Compute activations of the blocks a second time in the backward pass instead of keeping them: less memory for a
        third more arithmetic.
    channels_last
        Keep images, and the feature maps of a stem, with channels innermost, as convolutions of GPUs like them.
    fused
        Let the optimiser update all weights in one kernel.

    Raises
    ------
    TypeError
        For an optimiser that has no fused form.
    """
    model = classifier.model
    model.set_grad_checkpointing(checkpointing)
    if channels_last:
        classifier.memory_format = torch.channels_last
        model.tokens.stem.to(memory_format=torch.channels_last)
    if fused:
        classifier.optimizer = functools.partial(classifier.optimizer, fused=True)
    if compile is True:
        model.compile()

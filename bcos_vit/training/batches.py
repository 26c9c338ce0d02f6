"""How the images of one step are shared among devices, and taken in turns by each of them."""

from __future__ import annotations

from typing import NamedTuple


class Split(NamedTuple):
    """``devices * turns * images`` are the images of one step."""

    devices: int
    turns: int
    """Forward and backward passes of each device whose gradients are added up before the step."""
    images: int
    """Of one such pass."""

    def __str__(self) -> str:
        total = self.devices * self.turns * self.images
        return f"{total} images a step: {self.devices} device(s) x {self.turns} turn(s) x {self.images} images"


def split_batch(batch_size: int, *, devices: int, at_once: int) -> Split:
    """Share the images of one step of the optimiser, so that a recipe means the same on any number of devices.

    The fewest turns are taken in which a device has the same number of images each time.

    >>> split_batch(1024, devices=8, at_once=128)
    Split(devices=8, turns=1, images=128)
    >>> split_batch(1024, devices=1, at_once=128)
    Split(devices=1, turns=8, images=128)

    Parameters
    ----------
    batch_size
        Images of one step, on all devices together.
    devices
        How many there are, on all machines.
    at_once
        The most images that fit a device.

    Raises
    ------
    ValueError
        If the devices cannot have equal shares.
    """
    share, rest = divmod(batch_size, devices)
    if rest or not share:
        below, above = share * devices, (share + 1) * devices
        fits = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"recipe.batch_size {batch_size} cannot be shared equally by {devices} devices: give {fits}, or another "
            "number of devices"
        )
    images = max(count for count in range(1, min(share, at_once) + 1) if share % count == 0)
    return Split(devices, share // images, images)


def turn_weight(turn: int, size: int, turns: int, epoch: int, images: int) -> float:
    """By what to multiply the mean loss of one turn, of which the trainer takes the mean over ``turns``.

    1, but for the last step of an epoch, which has fewer turns, and the last of these fewer images. Images that were
    skipped because they cannot be read count as if they had been there, with no gradient.

    Parameters
    ----------
    turn, size
        Its number in the epoch, from 0, and its images.
    turns
        Of a full step.
    epoch, images
        Images of an epoch, and of a full turn, on one device.
    """
    first = turn - turn % turns
    of_step = min(epoch, (first + turns) * images) - first * images
    return turns * size / of_step

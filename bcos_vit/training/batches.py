"""How the images of one step are shared among devices, and taken in micro-batches by each of them."""

from __future__ import annotations

from typing import NamedTuple


class Split(NamedTuple):
    """``devices * micro_batches * images`` are the images of one step."""

    devices: int
    micro_batches: int
    """Of each device: forward and backward passes whose gradients are added up before the step."""
    images: int
    """Of one micro-batch."""

    def __str__(self) -> str:
        total = self.devices * self.micro_batches * self.images
        parts = f"{self.devices} device(s) x {self.micro_batches} micro-batch(es) x {self.images} images"
        return f"{total} images a step: {parts}"


def split_batch(batch_size: int, *, devices: int, at_once: int) -> Split:
    """Share the images of one step of the optimiser, so that a recipe means the same on any number of devices.

    The fewest micro-batches are taken that have the same number of images each.

    >>> split_batch(1024, devices=8, at_once=128)
    Split(devices=8, micro_batches=1, images=128)
    >>> split_batch(1024, devices=1, at_once=128)
    Split(devices=1, micro_batches=8, images=128)

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
        If the devices cannot have equal shares, or a share only divides into micro-batches of less than half of what
        fits.
    """
    share, rest = divmod(batch_size, devices)
    if rest or not share:
        below, above = share * devices, (share + 1) * devices
        fits = f"{below} or {above}" if below else f"{above}"
        raise ValueError(
            f"recipe.batch_size {batch_size} cannot be shared equally by {devices} devices: give {fits}, or another "
            "number of devices"
        )
    divisors = [count for count in range(1, share + 1) if share % count == 0]
    images = max(count for count in divisors if count <= at_once)
    if images < share and 2 * images < at_once:
        larger = min(count for count in divisors if count > at_once)
        raise ValueError(
            f"{share} images, a device's share of recipe.batch_size {batch_size}, make no equal micro-batches of about "
            f"data.batch_size {at_once}, only of {images}: give data.batch_size={larger} or {images}, or another "
            "recipe.batch_size"
        )
    return Split(devices, share // images, images)


def micro_batch_weight(number: int, size: int, per_step: int, epoch: int, images: int) -> float:
    """By what to multiply the mean loss of one micro-batch, of which the trainer takes the mean over ``per_step``.

    1, but for the last step of an epoch, which has fewer of them, and the last of these fewer images. Images that were
    skipped because they cannot be read count as if they had been there, with no gradient.

    Parameters
    ----------
    number, size
        Its number in the epoch, from 0, and its images.
    per_step
        Micro-batches of a full step.
    epoch, images
        Images of an epoch, and of a full micro-batch, on one device.
    """
    first = number - number % per_step
    of_step = min(epoch, (first + per_step) * images) - first * images
    return per_step * size / of_step

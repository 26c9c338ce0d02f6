"""Means over images of what one map is worth, with their standard errors: how good, and how clean, maps are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from bcos_vit.metrics.energy import border_energy, energy_in_mask
from bcos_vit.metrics.frequencies import lattice_share, white_noise_share
from bcos_vit.metrics.grid import grid_pointing


class MeanShare(Metric):
    """The mean of shares in [0, 1], one of each image, and how sure it is.

    A subclass gives :meth:`update` its arguments and calls :meth:`add`. The shares themselves are kept, and gathered
    from all processes in :meth:`compute`, so that no figure depends on batches or on the number of processes; a share
    that is no number makes the mean none.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import MeanShare
    >>> class Positive(MeanShare):
    ...     def update(self, maps):
    ...         self.add((maps > 0).float().mean((1, 2)), chance=0.5)
    >>> metric = Positive()
    >>> metric.update(torch.tensor([[[1.0, -1.0]], [[2.0, 3.0]]]))
    >>> {name: float(value) for name, value in metric.compute().items()}
    {'mean': 0.75, 'standard_error': 0.25, 'chance': 0.5, 'count': 2.0}
    """

    full_state_update = False
    is_differentiable = False
    shares: list[Tensor]
    chances: list[Tensor]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("shares", default=[], dist_reduce_fx="cat")
        self.add_state("chances", default=[], dist_reduce_fx="cat")

    def add(self, shares: Tensor, chance: Tensor | float) -> None:
        """Take in shares of any shape, and what a map that says nothing would have, the same for all or one each."""
        shares = shares.detach().flatten()
        self.shares.append(shares)
        chances = torch.as_tensor(chance, dtype=shares.dtype, device=shares.device)
        self.chances.append(chances.detach().flatten().expand_as(shares))

    def compute(self) -> dict[str, Tensor]:
        """Four scalars in float64, on the CPU, of all that was taken in.

        Returns
        -------
        dict
            ``mean``; ``standard_error`` of it, the sample's standard deviation divided by the root of ``count`` and
            NaN for one share (mean +- 1.96 standard errors is a 95 % interval); ``chance``, the mean of a map that
            says nothing; ``count``.

        Raises
        ------
        ValueError
            If nothing was taken in.
        """
        if len(self.shares) == 0:
            raise ValueError(f"{type(self).__name__} has seen no maps: call update first")
        # Sorted: processes hand them in by turns, and a sum is rounded by its order.
        shares, chances = (dim_zero_cat(state).cpu().double().sort().values for state in (self.shares, self.chances))
        count = len(shares)
        error = shares.std() / math.sqrt(count) if count > 1 else torch.tensor(math.nan, dtype=torch.float64)
        numbers = {"mean": shares.mean(), "standard_error": error, "chance": chances.mean()}
        return numbers | {"count": torch.tensor(count, dtype=torch.float64)}


class LatticeShare(MeanShare):
    """How much of a checkerboard maps are: the mean of :func:`lattice_share`.

    Property: freedom from artefacts of the model's strides and patches, which repeat whatever the image shows.
    Formula: energy on the frequencies k / s divided by all energy, the mean removed. Range [0, 1], lower is better;
    chance is white noise, and a smooth map lies below it. A ranking can change with the period: compare models by
    their own, each with its chance beside it, since a long period on a small map holds many frequencies.

    Parameters
    ----------
    strides
        Period or periods in pixels, as in :func:`lattice_share`.
    options
        Of :class:`torchmetrics.Metric`.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import LatticeShare
    >>> metric = LatticeShare(16)
    >>> metric.update(torch.randn(200, 64, 64, generator=torch.Generator().manual_seed(0)))
    >>> found = metric.compute()
    >>> f"{found['mean']:.3f} +- {found['standard_error']:.4f}, white noise {found['chance']:.3f}"
    '0.062 +- 0.0004, white noise 0.062'
    """

    higher_is_better = False

    def __init__(self, strides: int | Iterable[int], **options: Any) -> None:
        super().__init__(**options)
        self.strides = strides if isinstance(strides, int) else tuple(strides)

    def update(self, maps: Tensor) -> None:
        """Take in (..., H, W) maps; errors as in :func:`lattice_share`."""
        shares = lattice_share(maps, self.strides)
        self.add(shares, white_noise_share(maps.shape[-2], maps.shape[-1], self.strides))


class EnergyInMask(MeanShare):
    """How far maps point at the object: the mean of :func:`energy_in_mask`, the energy-based pointing game.

    Property: localisation. Formula: sum of the positive part inside the mask divided by the sum of the positive part.
    Range [0, 1], higher is better; chance is a uniform map, which has the mask's area. A map without any positive
    value counts as 0. A ranking can change with smoothing (none here: it spills out of small masks), with the class
    that is explained (true or predicted), with the choice of images (all or rightly classified ones), and since
    negative contributions do not count.

    Parameters
    ----------
    options
        Of :class:`torchmetrics.Metric`.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import EnergyInMask
    >>> masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    >>> masks[:, 2:6, 2:6] = True
    >>> metric = EnergyInMask()
    >>> metric.update(torch.stack([masks[0].float(), torch.ones(8, 8)]), masks)
    >>> {name: f"{float(value):.3f}" for name, value in metric.compute().items()}
    {'mean': '0.625', 'standard_error': '0.375', 'chance': '0.250', 'count': '2.000'}
    """

    higher_is_better = True

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Take in (..., H, W) maps and boolean masks; errors as in :func:`energy_in_mask`."""
        self.add(energy_in_mask(maps, masks), energy_in_mask(torch.ones_like(maps), masks))


class GridPointing(MeanShare):
    """How far the maps of several classes point at their own tiles: the mean of :func:`grid_pointing`.

    Property: whether maps tell classes apart. Formula: sum of the positive part, smoothed if asked for, in the tile
    of the explained class divided by the sum over the grid. Range [0, 1], higher is better; chance is a uniform map,
    1 / n^2. A map without any positive value counts as 0. The tiles of one grid share it, so that their mean is one
    share and the standard error is over grids. A ranking can change with ``smooth`` (compare every method at its
    best), with n, with tiles at full or at reduced size, and with the choice of images (:func:`confident_grids`).

    Parameters
    ----------
    n
        Tiles of a side, at least 2.
    smooth
        An odd number of pixels to average over; 1 smooths nothing.
    options
        Of :class:`torchmetrics.Metric`.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import GridPointing
    >>> metric = GridPointing(2)
    >>> metric.update(torch.ones(3, 4, 8, 8))
    >>> {name: float(value) for name, value in metric.compute().items()}
    {'mean': 0.25, 'standard_error': 0.0, 'chance': 0.25, 'count': 3.0}
    """

    higher_is_better = True

    def __init__(self, n: int, smooth: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.n = n
        self.smooth = smooth

    def update(self, maps: Tensor) -> None:
        """Take in (B, n * n, H, W) maps, map k of the class of tile k; errors as in :func:`grid_pointing`."""
        shares = grid_pointing(maps, self.smooth)
        if shares.shape[1] != self.n**2:
            raise ValueError(f"grids of {self.n} x {self.n} need {self.n**2} maps each, found {shares.shape[1]}")
        self.add(shares.mean(1), 1 / self.n**2)


class BorderEnergy(MeanShare):
    """How much of maps lies on the border: the mean of :func:`border_energy`.

    Property: artefacts of padding. Formula: sum of magnitudes on the outermost pixels divided by the sum of magnitudes.
    Range [0, 1]; chance is a uniform map. Neither high nor low is good by itself: far above chance, or far from what
    the same model shows with another padding, is suspicious, while maps of objects at the centre lie below chance. A
    ranking can change with ``width``, which should reach as far as the padding does.

    Parameters
    ----------
    width
        Of the border, in pixels.
    options
        Of :class:`torchmetrics.Metric`.

    Examples
    --------
    >>> import torch
    >>> from bcos_vit.metrics import BorderEnergy
    >>> metric = BorderEnergy(width=2)
    >>> metric.update(torch.ones(3, 32, 32))
    >>> f"{float(metric.compute()['mean']):.4f}"
    '0.2344'
    """

    higher_is_better = None

    def __init__(self, width: int = 2, **options: Any) -> None:
        super().__init__(**options)
        self.width = width

    def update(self, maps: Tensor) -> None:
        """Take in (..., H, W) maps; errors as in :func:`border_energy`."""
        self.add(border_energy(maps, self.width), border_energy(torch.ones_like(maps), self.width))

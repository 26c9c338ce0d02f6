"""Means of shares with their standard errors: over batches, over processes, and of nothing."""

import math

import numpy as np
import pytest
import torch

from bcos_vit.metrics import (
    BorderEnergy,
    EnergyInMask,
    GridPointing,
    LatticeShare,
    border_energy,
    energy_in_mask,
    grid_pointing,
    lattice_share,
)


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


MAPS, MASKS = drawn(7, 8, 12), drawn(7, 8, 12, seed=1) > 0.5
GRIDS = drawn(7, 4, 8, 12)
CASES = {
    "lattice": (lambda: LatticeShare(4), (MAPS,), lattice_share(MAPS, 4), 15 / 95),
    "mask": (EnergyInMask, (MAPS, MASKS), energy_in_mask(MAPS, MASKS), float(MASKS.double().mean())),
    "grid": (lambda: GridPointing(2, smooth=3), (GRIDS,), grid_pointing(GRIDS, 3).mean(1), 1 / 4),
    "border": (lambda: BorderEnergy(1), (MAPS,), border_energy(MAPS, 1), 1 - 6 * 10 / 96),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def expected_of(shares, chance):
    return {
        "mean": pytest.approx(np.mean(shares.numpy()), abs=1e-14),
        "standard_error": pytest.approx(np.std(shares.numpy(), ddof=1) / math.sqrt(len(shares)), abs=1e-14),
        "chance": pytest.approx(chance, abs=1e-14),
        "count": len(shares),
    }


@pytest.mark.parametrize("sizes", [(7,), (3, 4), (1,) * 7])
def test_mean_and_standard_error_do_not_depend_on_batches(case, sizes):
    make, given, shares, chance = case
    metric = make()
    for batch in zip(*(values.split(sizes) for values in given), strict=True):
        metric.update(*batch)
    assert metric.compute() == expected_of(shares, chance)


def test_two_processes_find_together_what_one_does(case):
    make, given, shares, chance = case
    one, two = make(), make()
    one.update(*(values[:3] for values in given))
    two.update(*(values[3:5] for values in given))
    two.update(*(values[5:] for values in given))
    one.merge_state(two)
    assert one.compute() == expected_of(shares, chance)


def test_figures_do_not_depend_on_the_order_of_images_by_a_single_bit():
    forwards, backwards = BorderEnergy(), BorderEnergy()
    maps = drawn(99, 8, 8)
    forwards.update(maps)
    backwards.update(maps.flip(0))
    assert forwards.compute() == backwards.compute()


def test_reset_forgets_and_nothing_has_no_mean(case):
    make, given, shares, chance = case
    metric = make()
    metric.update(*given)
    metric.reset()
    with (
        pytest.warns(UserWarning, match="before the ``update`` method"),
        pytest.raises(ValueError, match=f"{type(metric).__name__} has seen no maps: call update first"),
    ):
        metric.compute()
    metric.update(*given)
    assert metric.compute() == expected_of(shares, chance)


def test_one_image_has_a_mean_without_an_error():
    metric = BorderEnergy()
    metric.update(torch.ones(1, 8, 8))
    found = metric.compute()
    assert found["mean"] == 0.75
    assert found["standard_error"].isnan()


def test_a_map_without_positive_values_counts_as_zero_and_one_that_is_no_number_is_not_left_out():
    metric = EnergyInMask()
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    metric.update(torch.stack([torch.ones(4, 4), -torch.ones(4, 4)]), masks)
    assert metric.compute()["mean"] == 0.5
    metric.update(torch.full((1, 4, 4), math.nan), masks[:1])
    assert metric.compute()["mean"].isnan()


def test_grids_of_another_number_of_tiles_are_refused():
    with pytest.raises(ValueError, match="grids of 3 x 3 need 9 maps each, found 4"):
        GridPointing(3).update(GRIDS)


def test_the_graph_of_maps_is_not_kept():
    metric = LatticeShare(4)
    metric.update(MAPS.clone().requires_grad_())
    assert not metric.shares[0].requires_grad

"""The learning rate of every step of the recipes of ImageNet, against the schedules of the live reference."""

import copy
import math
from functools import cache

import pytest
import torch
from bcos.data.datamodules import ImageNetDataModule
from lightning import Callback, Trainer
from torch.utils.data import Dataset

from bcos_vit.config import build
from bcos_vit.data import DataModule
from bcos_vit.training.batches import split_batch
from reference import NAMES
from runs import Cut, config
from toys import toy

IMAGES = ImageNetDataModule.NUM_TRAIN_EXAMPLES
SHORTER = 100
"""By so much the images and the warm-up are fewer in the fast tests."""
KINDS = {
    "small": "bcos_vitc_ti_patch1_14",
    "small twin": "standard_simple_vit_s_patch16_224",
    "big": "bcos_simple_vit_b_patch16_224",
    "big twin": "standard_vitc_l_patch1_14",
}
"""One name of each kind."""


@pytest.fixture(scope="module")
def published():
    """Our name -> the reference's own configuration."""
    from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS  # seconds

    return {name: CONFIGS[name.removeprefix("standard_")] for name in NAMES}


@cache
def composed(name):
    return config(f"experiment=imagenet/{name}", "image_size=224")


def kind(name):
    """What the rates depend on."""
    recipe = composed(name).recipe
    classifier = recipe.classifier
    return (
        *(classifier.optimizer._target_, classifier.optimizer.lr, *sorted(classifier.schedule.items())),
        *(recipe.epochs, recipe.batch_size),
    )


def rates(optimizer, schedule, steps):
    """(steps + 1,) the rate of every step, and that after the last one."""
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return torch.tensor([*found, optimizer.param_groups[0]["lr"]], dtype=torch.float64)


def our_rates(name, steps, shorter=1):
    recipe = composed(name).recipe.copy()
    recipe.classifier.schedule.warmup_steps //= shorter
    classifier = build(recipe.classifier)(model=toy(name), recipe={})
    optimizer = classifier.optimizer([torch.nn.Parameter(torch.zeros(1))])
    return rates(optimizer, classifier.schedule(optimizer, steps), steps)


def their_rates(theirs, steps, shorter=1):
    factory = copy.copy(theirs["lr_scheduler"])  # its own with_epochs would lose the warm-up
    factory.warmup_steps //= shorter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of AdamW and centred norms
        optimizer = theirs["optimizer"].create(torch.nn.Linear(1, 1))
    created = factory.create(optimizer, total_steps=steps)
    assert created["interval"] == "step"
    return rates(optimizer, created["scheduler"], steps)


def steps_of(name, shorter=1):
    recipe = composed(name).recipe
    return recipe.epochs * math.ceil((IMAGES // shorter) / recipe.batch_size)


def assert_same_rates(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_these_are_all_kinds_of_rates():
    found = {kind(name) for name in NAMES}
    assert {kind(name) for name in KINDS.values()} == found
    assert len(found) == len(KINDS)


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_rate_of_every_step_of_a_shortened_training_is_the_published_one(name, published):
    steps, factory = steps_of(name, SHORTER), published[name]["lr_scheduler"]
    assert steps == factory.epochs * (steps // factory.epochs)  # T of the reference leaves no rest
    found = our_rates(name, steps, SHORTER)
    assert_same_rates(found, their_rates(published[name], steps, SHORTER))
    warmup = factory.warmup_steps // SHORTER
    assert 0 < warmup < steps
    assert found.argmax() == warmup
    assert found[0] == pytest.approx(found[warmup] / 100)
    assert found[-1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [KINDS["small"]], ids=["small"])  # of all others, every hundredth step is looked at
def test_rate_of_every_step_of_the_training_is_the_published_one(name, published):
    steps = steps_of(name)
    assert steps in (112_680, 225_270)
    assert_same_rates(our_rates(name, steps), their_rates(published[name], steps))


class Labels(Dataset):
    """So many images that are never looked at."""

    class_names = tuple("abcde")

    def __init__(self, split, transform, count=0):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        raise Cut


class BeforeTheFirstStep(Callback):
    def on_train_start(self, trainer, module):
        (self.config,) = trainer.lr_scheduler_configs
        self.steps = trainer.estimated_stepping_batches
        raise Cut


def scheduled(name, images, devices, **trainer_options):
    """How the trainer has set a training up, before its first step."""
    chosen = composed(name)
    data = DataModule(lambda **given: Labels(**given, count=images), batch_size=chosen.data.batch_size)
    shared = split_batch(chosen.recipe.batch_size, devices=devices, at_once=data.batch_size)
    data.train_batch_size = shared.images * devices  # what all devices take together
    classifier = build(chosen.recipe.classifier)(model=toy(name), recipe={})
    start = BeforeTheFirstStep()
    trainer = Trainer(
        max_epochs=chosen.recipe.epochs,
        accelerator="cpu",
        callbacks=[start],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=shared.micro_batches,
    )
    with pytest.raises(Cut):
        trainer.fit(classifier, data)
    return start


@pytest.mark.parametrize("devices", [1, 4, 8])
@pytest.mark.parametrize("name", [KINDS["small"], KINDS["big twin"]], ids=["small", "big twin"])
def test_trainer_plans_as_many_steps_as_the_release_on_any_number_of_devices(name, devices, published):
    start = scheduled(name, IMAGES, devices)
    factory = published[name]["lr_scheduler"]
    assert start.steps == steps_of(name)
    assert (start.config.interval, start.config.frequency) == ("step", 1)
    warmup, cosine = start.config.scheduler._schedulers
    assert start.config.scheduler._milestones == [factory.warmup_steps]
    assert (warmup.start_factor, warmup.end_factor) == (factory.warmup_decay, 1)
    assert warmup.total_iters == factory.warmup_steps
    whole = factory.epochs * (start.steps // factory.epochs)
    assert (cosine.T_max, cosine.eta_min) == (whole - factory.warmup_steps, factory.lr_min)

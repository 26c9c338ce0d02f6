"""Steps of a training on ImageNet, one after the other, against a plain loop of the live reference's own parts."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from bcos.data.transforms import RandomMixup
from bcos.training.agc import adaptive_clip_grad_
from lightning import Callback
from torch.utils.data import DataLoader, Dataset, Sampler

from bcos_vit.config import build
from bcos_vit.data import DataModule
from bcos_vit.models.weights import to_published
from bcos_vit.training.batches import split_batch
from bcos_vit.training.classifier import Classifier
from imagenet_tree import imagenet_tree
from reference import NAMES, by_hand
from runs import config, train
from toys import deviation, random_images, toy

CASES = {
    "bcos simple": ("bcos_simple_vit_ti_patch16_224", {"image_size": 32, "patch_size": 8}),
    "bcos stem": ("bcos_vitc_ti_patch1_14", {"image_size": 64}),
    "standard simple": ("standard_simple_vit_ti_patch16_224", {"image_size": 32, "patch_size": 8}),
    "standard stem": ("standard_vitc_ti_patch1_14", {"image_size": 64}),
}
SIZES = {"width": 24, "heads": 3, "mlp_width": 48, "depth": 2, "num_classes": 12}
EPOCHS, STEPS, WARMUP, BATCH = 3, 30, 6, 8
LIMITS = {torch.float32: (1e-5, 1e-5), torch.float64: (1e-12, 1e-11)}
"""Of the losses and of the final weights, as shares of the maximum."""


@pytest.fixture(scope="module")
def published():
    """Our name -> the reference's own configuration."""
    from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS  # seconds

    return {name: CONFIGS[name.removeprefix("standard_")] for name in NAMES}


@pytest.fixture(params=CASES)
def case(request):
    """A name, and a tiny model of its structure."""
    name, sizes = CASES[request.param]
    return name, {**SIZES, **sizes}


def raw_batches(size: int, dtype: torch.dtype):
    """(images, class numbers) of every step."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(SIZES["num_classes"], (STEPS, BATCH), generator=generator)
    return [(random_images(BATCH, size, dtype=dtype, seed=step), labels[step]) for step in range(STEPS)]


class Losses(Callback):
    def __init__(self):
        self.found, self.rates, self.steps = [], [], None

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.found.append(float(outputs["loss"]))

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.steps = trainer.estimated_stepping_batches


class Batches(Losses):
    """All that the reference needs to do the same."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def on_train_start(self, trainer, module):
        self.spec, self.start = module.model.spec, published_state(module.model)

    def on_train_batch_start(self, trainer, module, batch, index):
        super().on_train_batch_start(trainer, module, batch, index)
        self.batches.append(batch)

    def on_train_end(self, trainer, module):
        self.end = published_state(module.model)


class EveryEpochItsOwn(Sampler):
    """The batches of an epoch, other ones in each, as shuffled ones are."""

    epoch = 0

    def __len__(self):
        return STEPS // EPOCHS

    def __iter__(self):
        return iter(range(self.epoch * len(self), (self.epoch + 1) * len(self)))

    def set_epoch(self, epoch):
        self.epoch = epoch


def ours(name, model, dtype):
    """Our training, through Lightning: losses, rates and the weights under the published keys."""
    chosen = config(
        *(f"experiment=imagenet/{name}", f"recipe.classifier.schedule.warmup_steps={WARMUP}"),
        *(f"recipe.epochs={EPOCHS}", "trainer.accelerator=cpu", "+trainer.enable_progress_bar=false"),
    )
    mix = build(chosen.data.mix)(num_classes=model.spec.num_classes)
    batches = []
    for step, (images, labels) in enumerate(raw_batches(model.spec.image_size, dtype)):
        torch.manual_seed(step)
        torch.rand(1)  # which the reference draws before
        if mixes(step):  # of class numbers it would make float32
            given = labels if dtype == torch.float32 else F.one_hot(labels, model.spec.num_classes).to(dtype)
            images, labels = mix(images, given)
        batches.append((images, labels))
    losses = Losses()
    classifier: Classifier = build(chosen.recipe.classifier)(model=model, recipe={})
    trainer = build(chosen.trainer)(callbacks=[losses], logger=False, enable_checkpointing=False)
    trainer.fit(classifier, DataLoader(batches, batch_size=None, sampler=EveryEpochItsOwn()))
    assert losses.steps == trainer.global_step == STEPS
    return losses.found, losses.rates, to_published(model)


def mixes(step: int) -> bool:
    """Some batches are not mixed, so that class numbers are learnt from, too."""
    return step % 3 != 2


def published_batches(published, model, dtype):
    """The same images and targets, encoded and mixed by the reference."""
    encode = published["data"]["train_transform"].transforms.transforms[-1]
    mixup = RandomMixup(model.spec.num_classes, p=1.0, alpha=published["data"]["mixup_alpha"])
    for step, (images, labels) in enumerate(raw_batches(model.spec.image_size, dtype)):
        encoded = torch.stack([encode(image) for image in images])
        torch.manual_seed(step)
        yield mixup(encoded, labels) if mixes(step) else (encoded, labels)


def theirs(published, spec, start, batches, epochs):
    """A plain loop of what the reference uses, on encoded batches: losses, rates and weights."""
    reference = by_hand(spec).to(next(iter(start.values())).dtype)
    reference.load_state_dict(start)
    reference.train()
    factory = copy.copy(published["lr_scheduler"])
    factory.warmup_steps, factory.epochs = WARMUP, epochs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of AdamW and centred norms
        optimizer = published["optimizer"].create(reference)
    schedule = factory.create(optimizer, total_steps=STEPS)["scheduler"]
    losses, rates = [], []
    for images, targets in batches:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        loss = published["criterion"](reference(images), targets)
        loss.backward()
        if published["use_agc"]:
            adaptive_clip_grad_(reference.parameters())
        else:
            torch.nn.utils.clip_grad_norm_(reference.parameters(), published["trainer"]["gradient_clip_val"])
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
    return losses, rates, reference.state_dict()


def assert_same_training(found, expected, start, dtype):
    (losses, rates, weights), (expected_losses, expected_rates, expected_weights) = found, expected
    assert rates == pytest.approx(expected_rates, rel=1e-9)
    assert len(losses) == len(expected_losses) == STEPS
    assert weights.keys() == expected_weights.keys()
    most_loss, most = LIMITS[dtype]
    assert max(abs(a / b - 1) for a, b in zip(losses, expected_losses, strict=True)) <= most_loss
    for key, tensor in expected_weights.items():
        assert deviation(weights[key], tensor) <= most, key
        assert deviation(start[key], tensor) > 1e-3, f"{key} has learnt nothing"


def published_state(model):
    return {key: tensor.clone() for key, tensor in to_published(model).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_thirty_steps_are_those_of_the_reference(case, dtype, published):
    name, sizes = case
    model = toy(name, dtype=dtype, **sizes).train()
    start = published_state(model)
    found = ours(name, model, dtype)
    batches = published_batches(published[name], model, dtype)
    assert_same_training(found, theirs(published[name], model.spec, start, batches, EPOCHS), start, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["bcos stem", "standard simple"], indirect=True)
def test_a_run_from_files_to_weights_is_that_of_the_reference(case, published, tmp_path):
    """One epoch of 30 steps, the last of them short, on batches that the run has made of photos."""
    name, sizes = case
    root = imagenet_tree(tmp_path / "imagenet", train=1, val=1)
    watcher = Batches()
    train(
        *(f"experiment=imagenet/{name}", f"data.root={root}", "data.num_workers=0", f"output={tmp_path / 'run'}"),
        *(f"recipe.classifier.schedule.warmup_steps={WARMUP}", "recipe.epochs=1", "recipe.batch_size=34"),
        *(f"++model.{field}={value}" for field, value in (SIZES | sizes | {"num_classes": 1000}).items()),
        *("++trainer.limit_train_batches=1.0", "trainer.accelerator=cpu"),
        watcher=watcher,
    )
    assert [len(images) for images, _ in watcher.batches] == [34] * 29 + [14]
    encode = published[name]["data"]["train_transform"].transforms.transforms[-1]
    batches = [(torch.stack([encode(image) for image in images]), targets) for images, targets in watcher.batches]
    expected = theirs(published[name], watcher.spec, watcher.start, batches, 1)
    assert_same_training((watcher.found, watcher.rates, watcher.end), expected, watcher.start, torch.float32)


# --- the gradient of a step that is taken in turns ---


class FewPhotos(Dataset):
    """So many that the last step of an epoch is short, and so is its last turn."""

    class_names = tuple("abcdefghijkl")

    def __init__(self, split, transform):
        self.images = random_images(21, 32, dtype=torch.float64, seed=5)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % len(self.class_names)


class Gradients(Callback):
    """Of every step, before they are clipped."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.found.append(torch.cat([p.grad.flatten() for p in module.parameters()]))


def gradients(name, sizes, at_once):
    """Of the steps of two epochs, 8 images a step, ``at_once`` of them at a time; and of what turns they were."""
    chosen = config(
        *(f"experiment=imagenet/{name}", "recipe.classifier.schedule.warmup_steps=3", "recipe.epochs=2"),
        *("recipe.batch_size=8", f"data.batch_size={at_once}", "data.num_workers=0", "trainer.accelerator=cpu"),
        "+trainer.enable_progress_bar=false",
    )
    data = DataModule(FewPhotos, batch_size=chosen.data.batch_size)
    shared = split_batch(chosen.recipe.batch_size, devices=1, at_once=data.batch_size)
    data.train_batch_size = shared.images
    model = toy(name, dtype=torch.float64, **sizes).train()
    watcher = Gradients()
    trainer = build(chosen.trainer)(
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        accumulate_grad_batches=shared.micro_batches,
        limit_val_batches=0,
    )
    torch.manual_seed(7)
    trainer.fit(build(chosen.recipe.classifier)(model=model, recipe={}), data)
    return torch.stack(watcher.found), shared.micro_batches


@pytest.mark.parametrize("case", ["bcos simple", "standard simple"], indirect=True)
def test_gradient_of_a_step_in_turns_is_that_of_the_whole_batch(case):
    whole, once = gradients(*case, at_once=8)
    assert (len(whole), once) == (6, 1)  # of 8, 8 and 5 images
    for at_once, expected_turns in ((4, 2), (3, 4), (1, 8)):
        found, turns = gradients(*case, at_once=at_once)
        assert turns == expected_turns
        assert len(found) == len(whole)
        for step, expected in enumerate(whole):
            assert deviation(found[step], expected) < 1e-9, (at_once, step)

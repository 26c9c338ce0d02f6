"""The batch of a step: shared among devices, taken in turns, and whatever the shares, the same step."""

import itertools
import math
import re

import pytest
import torch
from lightning import Callback

import runs
from bcos_vit.training.batches import Split, micro_batch_weight, split_batch

PHOTOS, BATCH = 37, 16
FEW = {f"train/{name}": n for name, n in zip("abc", (13, 12, 12), strict=True)}
FEW |= {f"{part}/{name}": 1 for part in ("val", "test") for name in "abc"}
# Not scale invariant, so that a wrong factor of a gradient is seen; nothing is drawn at random but the order.
PLAIN = ("recipe.classifier.optimizer._target_=torch.optim.SGD", "trainer.precision=64-true")
PLAIN += ("data=folder", "data.num_workers=0", "data.train_transform=${data.eval_transform}")
PLAIN += ("explanations.every=null", "trainer.limit_train_batches=1.0", f"recipe.batch_size={BATCH}")
PLAIN += ("recipe.classifier.schedule.warmup_steps=1",)
BCOS = (*PLAIN, "recipe.classifier.optimizer.lr=0.3", "recipe.classifier.clip.clip_factor=1e9")
TWIN = ("model=standard_vit_digits", *PLAIN, "recipe.classifier.clip.max_norm=1e9")
TWIN += ("recipe.classifier.optimizer.lr=0.3",)
FAMILIES = pytest.mark.parametrize("family", [BCOS, TWIN], ids=["bcos", "standard"])


# --- the shares ---


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 16, 64, 1000])
@pytest.mark.parametrize("devices", [1, 2, 3, 4, 8])
def test_shares_are_equal_fit_the_device_and_make_the_fewest_micro_batches(devices, at_once):
    for share in (1, 2, 7, 12, 16, 37, 64, 96):
        largest = max(n for n in range(1, min(share, at_once) + 1) if share % n == 0)
        if largest < share and 2 * largest < at_once:
            continue  # refused: see below
        split = split_batch(share * devices, devices=devices, at_once=at_once)
        assert split.devices * split.micro_batches * split.images == share * devices
        assert split.devices == devices
        assert 1 <= split.images <= at_once
        fewer = [count for count in range(1, split.micro_batches) if share % count == 0 and share // count <= at_once]
        assert not fewer


def test_the_published_batches_are_shared_as_the_release_shared_them():
    assert split_batch(1024, devices=8, at_once=128) == (8, 1, 128)
    assert split_batch(512, devices=8, at_once=128) == (8, 1, 64)
    assert split_batch(1024, devices=1, at_once=128) == (1, 8, 128)


@pytest.mark.parametrize("devices", [2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 63, 65, 1023])
def test_what_cannot_be_shared_is_refused_with_the_nearest_numbers_that_can(batch_size, devices):
    if batch_size % devices == 0:
        assert split_batch(batch_size, devices=devices, at_once=batch_size).devices == devices
        return
    with pytest.raises(
        ValueError, match=rf"^recipe\.batch_size {batch_size} cannot be .* {devices} devices: "
    ) as caught:
        split_batch(batch_size, devices=devices, at_once=64)
    named = [int(number) for number in re.findall(r"\d+", str(caught.value).split(": give")[1])]
    possible = [n for n in range(1, 2 * batch_size + devices) if n % devices == 0]
    below, above = [n for n in possible if n < batch_size], [n for n in possible if n > batch_size]
    assert named == below[-1:] + above[:1]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("batch_size", "devices", "at_once", "found", "larger"),
    [(1009, 1, 128, 1, 1009), (514, 1, 128, 2, 257), (508, 2, 126, 2, 127), (254, 1, 100, 2, 127)],
)
def test_a_share_without_fair_micro_batches_is_refused_with_numbers_that_fit(
    batch_size, devices, at_once, found, larger
):
    share = batch_size // devices
    advice = f"only of {found}: give data.batch_size={larger} or {found}, or another recipe.batch_size"
    sentence = (
        f"{share} images, a device's share of recipe.batch_size {batch_size}, make no equal micro-batches of about"
    )
    with pytest.raises(ValueError, match=f"^{sentence} data.batch_size {at_once}, {advice}$"):
        split_batch(batch_size, devices=devices, at_once=at_once)
    for fits in (larger, found):
        assert split_batch(batch_size, devices=devices, at_once=fits).images == fits


def test_a_split_reads_as_a_product():
    assert str(Split(2, 3, 4)) == "24 images a step: 2 device(s) x 3 micro-batch(es) x 4 images"


# --- the weight of a micro-batch ---


@pytest.mark.parametrize(("turns", "images"), [(1, 4), (2, 3), (4, 4), (8, 1), (3, 5)])
def test_weighted_turns_add_up_to_the_mean_over_the_images_of_their_step(turns, images):
    for epoch in range(1, 2 * turns * images + 2):
        losses = torch.rand(epoch, dtype=torch.float64)
        sizes = [min(images, epoch - first) for first in range(0, epoch, images)]
        for first in range(0, len(sizes), turns):
            step = sizes[first : first + turns]
            parts = losses[first * images : first * images + sum(step)].split(step)
            weights = [micro_batch_weight(first + i, size, turns, epoch, images) for i, size in enumerate(step)]
            found = sum(w * part.mean() / turns for w, part in zip(weights, parts, strict=True))
            assert float(found) == pytest.approx(float(torch.cat(parts).mean()), rel=1e-13)
            if sum(step) == turns * images:
                assert weights == [1] * turns


# --- a whole run ---


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """37 photos to learn from: two full steps of 16 and one of 5."""
    return runs.write_photos(tmp_path_factory.mktemp("photos") / "photos", FEW, size=8)


class Exact(Callback):
    """Compares the gradient of every step with that of the mean loss over its images."""

    def __init__(self):
        self.turns, self.images, self.sizes, self.worst = [], [], [], 0.0

    def on_train_batch_start(self, trainer, module, batch, index):
        self.turns.append(batch)

    def on_before_optimizer_step(self, trainer, module, optimizer):
        images, targets = (torch.cat(parts) for parts in zip(*self.turns, strict=True))
        weights = list(module.parameters())
        with trainer.precision_plugin.forward_context():
            expected = torch.autograd.grad(module.loss(module.model(images), targets), weights)
        largest = max(float(gradient.abs().max()) for gradient in expected)
        differences = (float((p.grad - g).abs().max()) for p, g in zip(weights, expected, strict=True))
        self.worst = max(self.worst, *(difference / largest for difference in differences))
        self.sizes.append(len(images))
        self.images.append([len(batch[0]) for batch in self.turns])
        self.turns = []


@FAMILIES
@pytest.mark.parametrize(
    ("at_once", "limit", "sizes", "last"),
    [
        (16, "1.0", [16, 16, 5], [5]),
        (4, "1.0", [16, 16, 5], [4, 1]),
        (3, "1.0", [16, 16, 5], [2, 2, 1]),  # 3 do not divide 16
        (4, "9", [16, 16, 4], [4]),
        (8, "3", [16, 8], [8]),
    ],
)
def test_the_gradient_of_every_step_is_that_of_the_mean_over_its_images(
    photos, tmp_path, family, at_once, limit, sizes, last
):
    seen = Exact()
    words = (f"data.root={photos}", f"data.batch_size={at_once}", f"trainer.limit_train_batches={limit}")
    runs.train(*family, *words, f"output={tmp_path / 'run'}", "recipe.epochs=1", watcher=seen)
    assert seen.sizes == sizes
    assert seen.images[-1] == last
    assert seen.worst <= 1e-12


def test_mixed_images_in_turns_give_that_gradient_too(photos, tmp_path):
    seen = Exact()
    mix = "+data.mix={_target_: torchvision.transforms.v2.MixUp, _partial_: true, alpha: 0.2}"
    runs.train(*BCOS, f"data.root={photos}", "data.batch_size=4", mix, f"output={tmp_path / 'run'}", watcher=seen)
    assert seen.sizes == [16, 16, 5] * 2
    assert seen.worst <= 1e-12


@pytest.fixture(scope="module", params=[BCOS, TWIN], ids=["bcos", "standard"])
def splits(request, photos, tmp_path_factory):
    """Two epochs in one turn and in several: at once -> output and what was seen."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    for at_once in (64, 8, 3):
        seen = runs.Recorder()
        words = (f"data.root={photos}", f"data.batch_size={at_once}", f"output={folder / str(at_once)}")
        runs.train(*request.param, *words, watcher=seen)
        found[at_once] = folder / str(at_once), seen
    return found


def last_weights(output):
    return runs.checkpoint(output)["state_dict"]


def worst(found, expected):
    assert found.keys() == expected.keys()
    return max(float((found[name] - tensor).abs().max() / tensor.abs().max()) for name, tensor in expected.items())


def test_what_is_learnt_in_turns_is_what_is_learnt_at_once(splits):
    whole, seen = splits[64]
    expected = last_weights(whole)
    assert worst(expected, {f"model.{name}": w for name, w in seen.weights[0].items()}) > 1e-3  # it has learnt
    for at_once in (8, 3):
        assert worst(last_weights(splits[at_once][0]), expected) <= 1e-12


def test_the_number_of_steps_and_their_rates_do_not_depend_on_the_split(splits):
    steps = math.ceil(PHOTOS / BATCH)
    whole = splits[64][1].rates
    assert len(whole) == 2 * steps
    for output, seen in splits.values():
        assert runs.checkpoint(output)["global_step"] == 2 * steps
        assert {step for _, step in seen.places} == set(range(2 * steps))
        assert [rate for rate, _ in itertools.groupby(seen.rates)] == whole


def test_the_training_loss_is_the_mean_over_the_epoch_whatever_the_split(splits):
    losses = {
        at_once: [loss for _, loss in runs.logged(output)["train_loss"]] for at_once, (output, _) in splits.items()
    }
    assert losses[8] == pytest.approx(losses[64], rel=1e-6)
    assert losses[3] == pytest.approx(losses[64], rel=1e-6)


def test_the_split_is_said(photos, tmp_path, capsys):
    runs.train(*BCOS, f"data.root={photos}", "data.batch_size=5", f"output={tmp_path / 'run'}")
    said = [line for line in capsys.readouterr().out.splitlines() if "a step" in line]
    assert said == ["16 images a step: 1 device(s) x 4 micro-batch(es) x 4 images"]
    runs.train(f"output={tmp_path / 'default'}", "explanations.every=null")
    said = [line for line in capsys.readouterr().out.splitlines() if "a step" in line]
    assert said == ["64 images a step: 1 device(s) x 1 micro-batch(es) x 64 images"]


# --- two processes ---


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    """Every step sees all photos, since the order within an epoch differs."""
    counts = {"train/a": 12, "train/b": 12, "val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2}
    root = runs.write_photos(tmp_path / "photos", counts, size=8)
    (tmp_path / "work").mkdir()
    words = (*runs.SMALL, *BCOS, f"data.root={root}", "recipe.epochs=4", "recipe.batch_size=24")
    found = {}
    for name, devices, at_once, split in (
        ("one", 1, 24, "1 device(s) x 1 micro-batch(es) x 24 images"),
        ("two", 2, 12, "2 device(s) x 1 micro-batch(es) x 12 images"),
        ("turns", 2, 5, "2 device(s) x 3 micro-batch(es) x 4 images"),
    ):
        share = (f"trainer.devices={devices}", "+trainer.strategy=ddp", f"data.batch_size={at_once}")
        done = runs.command(*words, *share, f"output={name}", folder=tmp_path / "work")
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stdout.splitlines() if "a step" in line] == [f"24 images a step: {split}"]
        assert runs.checkpoint(tmp_path / "work" / name)["global_step"] == 4
        found[name] = last_weights(tmp_path / "work" / name)
    for name in ("two", "turns"):
        assert worst(found[name], found["one"]) <= 1e-12


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused_in_a_sentence(tmp_path):
    words = (*runs.SMALL, "trainer.devices=2", "+trainer.strategy=ddp", "recipe.batch_size=63", "output=run")
    done = runs.command(*words, folder=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = {line for line in done.stderr.splitlines() if line.startswith("error: ")}
    assert said == {
        "error: recipe.batch_size 63 cannot be shared equally by 2 devices: give 62 or 64, or another number of devices"
    }
    assert list(tmp_path.iterdir()) == []

"""A recipe for ImageNet on a tree in its shape: by ``train.py`` and, with a smaller model, in process."""

import json
import math
import re
import shlex
import tempfile

import pytest
import torch
from safetensors import safe_open

import runs
from bcos_vit import create_model
from bcos_vit.evaluation import Report
from bcos_vit.models.zoo import IMAGENET
from bcos_vit.photos import PhotoError
from bcos_vit.training import run as training
from imagenet_tree import CLASSES, add_corrupt, add_oddities, imagenet_tree
from runs import Recorder, config, logged

RECIPE = "experiment=imagenet/bcos_vitc_ti_patch1_14"
SHORT = (
    *("recipe.epochs=1", "recipe.batch_size=32", "data.batch_size=16", "data.num_workers=2"),
    *("++trainer.limit_train_batches=6", "++trainer.limit_val_batches=3", "++trainer.limit_test_batches=3"),
)
TINY = (
    *("+model.depth=1", "+model.width=24", "+model.heads=3", "+model.mlp_width=32", "image_size=48", "threads=1"),
    *("data.num_workers=0", "+trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"),
)
SPOILT = list(CLASSES)[::4]
"""Every fourth class has a training photo that cannot be read: chance meets some of them."""
EARLY = ("n01443537", "n01491361", "n01530575")
"""Classes with a validation photo that cannot be read, among those that a short validation sees."""


def spoil(root, *, train, val):
    """Write over photos; those of validation come behind the one that can be read. Returns the files of each part."""
    files = {"train": [root / "train" / wnid / f"{train:05}.JPEG" for wnid in SPOILT]}
    files["val"] = [root / "val" / wnid / f"{val:05}.JPEG" for wnid in EARLY]
    for file in (*files["train"], *files["val"]):
        file.write_bytes(b"no photo")
    return files


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A photo of each class in each part, some of them with another that cannot be read: root and these."""
    root = imagenet_tree(tmp_path_factory.mktemp("small") / "imagenet", train=1, val=1)
    return root, spoil(root, train=1, val=1)


def learn(root, output, *overrides, watcher=None):
    """A short run of a recipe with a small model, in process and without a gallery: its report."""
    original = training._callbacks
    words = (RECIPE, f"data.root={root}", "data.corrupt=skip", *SHORT, *TINY, f"output={output}", *overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Report, "draw_gallery", lambda *_: False)
        if watcher is not None:
            patch.setattr(training, "_callbacks", lambda *given: [watcher, *original(*given)])
        return training.train(config(*words))


def check_run(output, report, files):
    """What a short run leaves: three real steps, figures that are finite, and who was left out."""
    found = logged(output)
    for name in ("train_loss", "val_loss", "val_accuracy", "images_per_second", "skipped_images"):
        assert len(found[name]) == 1, name
        assert math.isfinite(found[name][0][1]), name
    # 1,000 questions, each at first answered with 1/1000, and targets that are clamped to as much
    assert 0.007 < found["train_loss"][0][1] < 0.02
    last = runs.checkpoint(output)
    assert last["global_step"] == 3
    steps = [round(state["step"].item()) for state in last["optimizer_states"][0]["state"].values()]
    assert set(steps) == {3}
    reasons = (output / "skipped.txt").read_text().splitlines()
    named = {reason.split(" is ")[0] for reason in reasons}
    assert 0 < len(reasons) == len(named) == found["skipped_images"][0][1]
    assert named <= set(map(str, files["train"]))
    assert len(named) < len(files["train"])
    assert report["images"] == report["completeness"]["ledgers"] == 48 - len(files["val"])
    assert [reason.split(" is ")[0] for reason in report["skipped"]] == [str(file) for file in files["val"]]
    assert {"top1", "top5"} <= set(report["accuracy"])


def check_weights(file, spec):
    """A model of a thousand classes with their names, in the file itself as well."""
    model = create_model(file)
    assert model.class_names == tuple(IMAGENET)
    assert model.spec.num_classes == 1000
    assert (model.spec.depth, model.spec.width, model.spec.image_size) == spec
    assert model(torch.rand(2, 3, spec[2], spec[2])).shape == (2, 1000)
    with safe_open(file, "pt") as content:
        assert json.loads(content.metadata()["class_names"]) == list(IMAGENET)


def test_a_recipe_runs_on_a_tree_with_damaged_files(small, tmp_path, capsys):
    root, files = small
    recorder, output = Recorder(), tmp_path / "run"
    with pytest.warns(UserWarning, match="the warm-up of 10000 steps is not shorter than the training of 3:"):
        learn(root, output, watcher=recorder)
    check_run(output, json.loads((output / "report.json").read_text()), files)
    check_weights(output / "model.safetensors", (1, 24, 48))
    # 1 % of the rate of the recipe, and then a ten thousandth of the way a step
    assert recorder.rates[::2] == recorder.rates[1::2]
    assert recorder.rates[::2] == pytest.approx([1e-5 + 0.99e-3 * step / 10_000 for step in range(3)], rel=1e-6)
    assert not runs.equal(recorder.weights[0], recorder.weights[-1])
    assert runs.equal(recorder.weights[1], recorder.weights[2])  # a turn, before its step
    said = capsys.readouterr().out
    assert "32 images a step: 1 device(s) x 2 micro-batch(es) x 16 images" in said
    assert f"training images cannot be read and are left out: {output}/skipped.txt" in said


def test_batches_of_the_recipe_are_mixed(small, tmp_path):
    batches = []

    class Keeper(Recorder):
        def on_train_batch_start(self, trainer, module, batch, index):
            batches.append(batch)

        def on_validation_batch_start(self, trainer, module, batch, index, *_):
            batches.append(batch)

    learn(small[0], tmp_path / "run", "recipe.classifier.schedule=null", watcher=Keeper())
    shapes = [tuple(targets.shape) for _, targets in batches]
    trained = [targets for _, targets in batches if targets.dim() == 2]
    assert len(trained) == 6
    assert all(targets.shape[1] == 1000 for targets in trained)
    assert len(shapes) > len(trained)
    for targets in trained:
        assert torch.allclose(targets.sum(1), torch.ones(len(targets)), atol=1e-6)
    assert all(images.shape[1:] == (3, 48, 48) for images, _ in batches)
    assert all(targets.dtype == torch.int64 for _, targets in batches if targets.dim() == 1)


def test_the_conventional_twin_learns_from_mixed_batches(small, tmp_path):
    twin = "experiment=imagenet/standard_vitc_ti_patch1_14"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("test_imagenet_command.RECIPE", twin)
        report = learn(small[0], tmp_path / "run", "recipe.classifier.schedule=null")
    assert logged(tmp_path / "run")["train_loss"][0][1] == pytest.approx(math.log(1000), abs=0.8)
    assert report.images == 45


def test_without_skipping_the_first_damaged_file_ends_the_run(small, tmp_path):
    root, files = small
    with pytest.raises(PhotoError, match=f"^{re.escape(str(files['val'][0]))} is no image that can be read"):
        learn(root, tmp_path / "run", "data.corrupt=raise", "recipe.classifier.schedule=null")
    assert list(tmp_path.iterdir()) == []


def test_debug_batch_runs_everything_once(small, tmp_path):
    output = tmp_path / "run"
    words = ("debug=batch", "++trainer.limit_train_batches=1", "++trainer.limit_val_batches=1")
    report = learn(small[0], output, *words, "++trainer.limit_test_batches=1")
    assert report.images == 16 - len([wnid for wnid in EARLY if list(CLASSES).index(wnid) < 13])
    assert runs.checkpoint(output)["global_step"] == 1
    assert [p.name for p in (output / "explanations").iterdir()] == ["epoch_0001.png"]
    check_weights(output / "model.safetensors", (1, 24, 48))


# --- as users start it ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """3,000 photos, odd ones in either part, and many files that cannot be read: root and these."""
    root = imagenet_tree(tmp_path_factory.mktemp("whole") / "imagenet", train=2, val=1)
    for part in ("train", "val"):
        add_oddities(root, part)
        add_corrupt(root, part)
    files = spoil(root, train=2, val=1)
    files["train"] += sorted((root / "train").rglob("corrupt_*.JPEG"))
    return root, files


@pytest.fixture
def command(tmp_path):
    """``train.py`` in a folder of its own, ``work``; sockets of the processes that load must have short names."""
    (tmp_path / "work").mkdir()
    with tempfile.TemporaryDirectory() as short:
        yield lambda *words: runs.command(*words, folder=tmp_path / "work", TMPDIR=short)


@pytest.mark.slow
def test_the_command_trains_as_the_recipe_says(whole, tmp_path, command):
    root, files = whole
    words = (RECIPE, f"data.root={root}", "data.corrupt=skip", *SHORT, "trainer.accelerator=cpu", "output=run")
    done = command(*words)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "work/run"
    check_run(output, json.loads((output / "report.json").read_text()), files)
    check_weights(output / "model.safetensors", (11, 192, 224))
    assert "the warm-up of 10000 steps is not shorter than the training of 3:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "images left out, unreadable" in done.stdout
    assert (output / "gallery.png").exists() or "gallery: none" in done.stdout
    card = json.loads((output / "card.json").read_text())
    assert card["command"] == shlex.join(["python", "train.py", *words])
    assert card["data"] == "bcos_vit.data.ImageNet"
    assert card["results"]["images"] == 45
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "val"])
def test_the_command_names_a_file_that_it_cannot_read(whole, tmp_path, command, part):
    root, _ = whole
    sanity = ("+trainer.num_sanity_val_steps=0",) if part == "train" else ()
    words = (RECIPE, f"data.root={root}", *SHORT, "trainer.accelerator=cpu", "output=run", "image_size=64")
    done = command(*words, *sanity)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    pattern = rf"error: {re.escape(str(root))}/{part}/n\d{{8}}/\w+\.JPEG (is|cannot) [^\n]*"
    assert re.fullmatch(pattern, done.stderr.strip().splitlines()[-1]), done.stderr
    if part == "val":
        assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_the_command_runs_everything_once_with_one_batch(whole, tmp_path, command):
    root, _ = whole
    words = (RECIPE, "debug=batch", f"data.root={root}", "data.corrupt=skip", "data.num_workers=1", "output=run")
    small = ("data.batch_size=8", "recipe.batch_size=8", "trainer.accelerator=cpu")
    done = command(*words, *small)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "work/run"
    assert "warm-up" not in done.stderr
    assert runs.checkpoint(output)["global_step"] == 1
    check_weights(output / "model.safetensors", (11, 192, 224))
    assert [p.name for p in (output / "explanations").iterdir()] == ["epoch_0001.png"]

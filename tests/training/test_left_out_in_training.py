"""Training with files that cannot be read: the run ends with their name, or goes on without them and says so."""

import re

import pytest
import torch

import runs
from bcos_vit import create_model
from bcos_vit.data import DataModule, Folder
from bcos_vit.models.zoo import preprocessing
from bcos_vit.photos import PhotoError
from bcos_vit.training import OneVsRest
from runs import Recorder, logged, train, write_photos

COUNTS = {"train": 5, "val": 2, "test": 2}
"""Photos of each of two classes."""
DAMAGED = ("train/a/-1.png", "train/a/2a.png", "train/b/9.png")
"""Before, between and after the photos that can be read."""
WITHOUT_CHANCE = (
    *("data.num_workers=0", "data.train_transform=${data.eval_transform}", "recipe.epochs=1"),
    *("recipe.classifier.schedule=null", "trainer.log_every_n_steps=1", "explanations.every=null", "image_size=8"),
)


@pytest.fixture
def clean(tmp_path):
    return write_photos(tmp_path / "clean", {f"{part}/{c}": n for part, n in COUNTS.items() for c in "ab"})


@pytest.fixture
def root(tmp_path):
    """The same photos and three files that cannot be read."""
    root = write_photos(tmp_path / "photos", {f"{part}/{c}": n for part, n in COUNTS.items() for c in "ab"})
    for name in DAMAGED:
        (root / name).write_bytes(b"" if name.endswith("9.png") else b"no photo")
    return root


def learn(root, output, *overrides, watcher=None):
    """A run over a folder, skipping unless said otherwise: the report."""
    words = ("data=folder", f"data.root={root}", "data.corrupt=skip", *WITHOUT_CHANCE, f"output={output}")
    return train(*words, *overrides, watcher=watcher)


def test_raise_ends_the_run_with_the_name_of_the_file(root, tmp_path):
    with pytest.raises(PhotoError, match=re.escape(f"{root}/train/") + r"(a/-1|a/2a|b/9)\.png is (empty|no image)"):
        learn(root, tmp_path / "run", "data.corrupt=raise")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_log_counts_and_a_file_names_what_was_left_out(root, tmp_path, workers, capsys):
    output = tmp_path / "run"
    learn(root, output, f"data.num_workers={workers}", "data.batch_size=5", "recipe.batch_size=5", "recipe.epochs=2")
    assert [count for _, count in logged(output)["skipped_images"]] == [3, 3]
    reasons = (output / "skipped.txt").read_text().splitlines()
    unreadable = "is no image that can be read: the formats are "
    assert [reason.split(unreadable)[0] for reason in reasons] == [
        *(f"{root}/train/a/-1.png ", f"{root}/train/a/2a.png ", f"{root}/train/b/9.png is empty")
    ]
    said = [line for line in capsys.readouterr().out.splitlines() if "cannot be read" in line]
    assert said == [f"note: 3 training images cannot be read and are left out: {output}/skipped.txt"]


def test_a_whole_folder_has_nothing_to_name(clean, tmp_path):
    output = tmp_path / "run"
    report = learn(clean, output, "data.batch_size=5", "recipe.batch_size=5")
    assert [count for _, count in logged(output)["skipped_images"]] == [0]
    assert not (output / "skipped.txt").exists()
    assert report.skipped == []
    assert "skipped" not in report.numbers()


def test_raise_counts_nothing(clean, tmp_path):
    learn(clean, tmp_path / "run", "data.corrupt=raise", "data.batch_size=5", "recipe.batch_size=5")
    assert "skipped_images" not in logged(tmp_path / "run")


def test_what_damage_comes_to_light_later_is_added(root, tmp_path):
    """One batch of an epoch sees some of the files only; the list grows, and is never shorter than before."""
    output, seen = tmp_path / "run", []

    class Reader(Recorder):
        def on_train_epoch_start(self, trainer, module):
            file = output / "skipped.txt"
            seen.append(len(file.read_text().splitlines()) if file.exists() else 0)

    learn(
        *(root, output, "data.batch_size=3", "recipe.batch_size=3", "recipe.epochs=12"),
        *("++trainer.limit_train_batches=1", "seed=3"),
        watcher=Reader(),
    )
    counts = [count for _, count in logged(output)["skipped_images"]]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert seen == [0, *counts[:-1]]
    assert len(set(counts)) > 1


@pytest.mark.parametrize("family", ["bcos", "standard"])
def test_weights_are_those_of_the_data_without_the_damaged_files(root, clean, tmp_path, family):
    """In one batch that holds everything, in which the order makes a difference by rounding only."""
    words = ("data.batch_size=13", "recipe.batch_size=13", "recipe.epochs=3", f"model={family}_vit_digits")
    words += ("recipe.classifier.optimizer._target_=torch.optim.SGD", "recipe.classifier.optimizer.lr=0.1")
    found, expected = Recorder(), Recorder()
    learn(root, tmp_path / "run", *words, watcher=found)
    learn(clean, tmp_path / "other", *words, watcher=expected)
    assert len(found.weights) == len(expected.weights) == 3
    assert found.norms == pytest.approx(expected.norms, rel=1e-4)
    for name, weight in expected.weights[-1].items():
        assert torch.allclose(found.weights[-1][name], weight, rtol=1e-4, atol=1e-6), name
    assert not runs.equal(found.weights[-1], found.weights[0])
    losses = [dict(logged(tmp_path / name))["train_loss"] for name in ("run", "other")]
    assert [loss for _, loss in losses[0]] == pytest.approx([loss for _, loss in losses[1]], rel=1e-5)


@pytest.mark.parametrize("turns", [1, 2])
def test_the_training_loss_is_the_mean_over_readable_images(root, clean, tmp_path, turns):
    """At a rate at which nothing is learnt; the batches have unequal numbers of readable images."""
    output = tmp_path / "run"
    words = ("data.batch_size=10", f"recipe.batch_size={10 * turns}", "recipe.classifier.optimizer.lr=1e-30")
    learn(root, output, *words)
    found = logged(output)["train_loss"]
    part = Folder("train", preprocessing(8), root=str(clean))
    images, labels = torch.stack([image for image, _ in part]), torch.tensor([label for _, label in part])
    model = create_model(output / "checkpoints/last.ckpt").train()
    expected = float(OneVsRest()(model(images).detach(), labels))
    assert [loss for _, loss in found] == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(("at_once", "share"), [(14, 1), (7, 10 / 13)], ids=["at once", "micro-batches"])
def test_a_step_follows_the_mean_over_its_readable_images(root, clean, tmp_path, at_once, share):
    """In micro-batches, those that cannot be read count as if they had been there, with no gradient."""
    found, expected = Recorder(), Recorder()
    learn(root, tmp_path / "run", "recipe.batch_size=14", f"data.batch_size={at_once}", watcher=found)
    learn(clean, tmp_path / "other", "recipe.batch_size=14", "data.batch_size=14", watcher=expected)
    assert len(found.norms) == len(expected.norms) == 1
    assert found.norms == pytest.approx([share * expected.norms[0]], rel=1e-4)


def test_batches_of_damaged_files_only_do_not_end_the_run(root, tmp_path):
    """Of training, where another image is taken instead, and of validation and test, where there is nothing to do."""
    for part in ("val", "test"):
        (root / part / "a/-1.png").write_bytes(b"")
    words = ("data.batch_size=1", "recipe.batch_size=1", "++trainer.limit_train_batches=13")
    report = learn(root, tmp_path / "run", *words)
    assert report.images == 4
    assert [len(logged(tmp_path / "run")[name]) for name in ("train_loss", "val_loss")] == [1, 1]
    assert logged(tmp_path / "run")["skipped_images"][-1][1] == 3


def test_a_run_on_damaged_files_only_ends_with_a_sentence(root, tmp_path):
    for file in (root / "train").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^no image of the train part's class 'a' can be read, such as: .*-1\.png is empty$"
    ):
        learn(root, tmp_path / "run", "data.batch_size=4", "recipe.batch_size=4")
    assert not (tmp_path / "run").exists()


def test_files_of_validation_and_test_are_left_out_as_well(root, clean, tmp_path):
    for part in ("val", "test"):
        (root / part / "a/-1.png").write_bytes(b"")
        (root / part / "b/9.png").write_bytes(b"")
    # two batches, of three readable images and of one; nothing is learnt
    words = ("data.batch_size=4", "recipe.batch_size=4", "recipe.classifier.optimizer.lr=1e-30")
    report = learn(root, tmp_path / "run", *words)
    assert report.images == 4
    assert report.skipped == [f"{root}/test/a/-1.png is empty", f"{root}/test/b/9.png is empty"]
    other = learn(clean, tmp_path / "other", *words)
    assert report.figures["accuracy"] == other.figures["accuracy"]
    for name in ("val_loss", "val_accuracy"):
        ours, theirs = (logged(tmp_path / run)[name][-1][1] for run in ("run", "other"))
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_data_module_forgets_nothing_between_its_loaders(root):
    data = DataModule(Folder, root=str(root), batch_size=20, corrupt="skip", train_transform=preprocessing(8))
    list(data.train_dataloader())
    assert int(data.damaged("train").sum()) == 3
    data.train_dataloader()
    assert int(data.damaged("train").sum()) == 3

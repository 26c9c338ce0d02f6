"""``evaluate.py`` on two processes finds what it finds on one, image by image, however the numbers divide."""

import json

import pytest

from evaluations import start, write_scans

MODEL = ("model.name=model.safetensors", "data=folder", "data.root=photos")
# A group of one's own, as users write it: the prediction of every image, under a number made of its pixels.
OWN = """
import torch
from torchmetrics import CatMetric

from bcos_vit.metrics import Group


class Predictions(Group):
    def __init__(self, model):
        super().__init__(model)
        self.keys, self.predicted = CatMetric(), CatMetric()

    def update(self, batch):
        pixels = (255 * batch.images).round().long().flatten(1)
        factors = torch.randint(1000, (pixels.shape[1],), generator=torch.Generator().manual_seed(0))
        self.keys.update((pixels * factors).sum(1) % 2**24)
        self.predicted.update(batch.predicted)

    def compute(self):
        keys, predicted = self.keys.compute().tolist(), self.predicted.compute().tolist()
        return {f"{key:.0f}": value for key, value in zip(keys, predicted)}

    def rows(self, found):
        return {"images told apart": str(len(found))}
"""
OWN_FILE = "predictions: { _target_: own.Predictions, _partial_: true }\n"


def reports(folder, *arguments):
    """The reports of one and of two processes, and what the two printed."""
    (folder / "own.py").write_text(OWN)
    (folder / "mine" / "metrics").mkdir(parents=True)
    (folder / "mine" / "metrics" / "predictions.yaml").write_text(OWN_FILE)
    words = (*MODEL, f"hydra.searchpath=[file://{folder}/mine]", "metrics=[accuracy,completeness,lattice,predictions]")
    waits = [start(folder, *words, *arguments, f"trainer.devices={n}", f"output=on_{n}") for n in (1, 2)]
    ends = [wait() for wait in waits]
    for done in ends:
        assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"on_{n}" / "report.json").read_text()) for n in (1, 2)], ends[1]


def compare(one, two, images):
    """That two reports agree: exactly where numbers are counted, to 1e-6 where rounding may depend on the batch."""
    for report in (one, two):
        assert report["images"] == report["completeness"]["ledgers"] == len(report["predictions"]) == images
    assert two["predictions"] == one["predictions"]
    assert two["accuracy"]["top1"] == one["accuracy"]["top1"]
    assert two["accuracy"]["top5"] == one["accuracy"]["top5"]
    for group in ("accuracy", "completeness", "lattice"):
        assert two[group] == pytest.approx(one[group], rel=1e-6, abs=1e-6)


@pytest.mark.slow
def test_two_processes_report_what_one_does(tmp_path):
    write_scans(tmp_path, 37)
    (one, two), printed = reports(tmp_path, "data.batch_size=1", "data.num_workers=0")
    compare(one, two, 37)
    for group in ("completeness", "lattice"):
        assert two[group] == one[group]  # in batches of one, nothing is rounded in another way
    assert one["completeness"]["largest_residual"] > 0
    assert one["lattice"]["standard_error"] > 0
    assert one["completeness"]["smallest_image_share"] < one["completeness"]["median_image_share"]
    assert len(set(one["predictions"].values())) > 3
    assert 0 < one["accuracy"]["top1"] < one["accuracy"]["top5"] < 1
    pictures = [(tmp_path / f"on_{n}" / "gallery.png").read_bytes() for n in (1, 2)]
    assert pictures[0] == pictures[1]
    table = [line for line in printed.stdout.splitlines() if line.startswith("images, each counted once")]
    assert len(table) == 1  # one of them reports
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("mine", "model.safetensors", "on_1", "on_2", "own.py", "photos")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("images", "batch_size", "workers"), [(37, 5, 2), (7, 64, 0), (2, 1, 0)])
def test_however_the_numbers_divide(tmp_path, images, batch_size, workers):
    write_scans(tmp_path, images)
    arguments = (f"data.batch_size={batch_size}", f"data.num_workers={workers}")
    (one, two), _ = reports(tmp_path, *arguments)
    compare(one, two, images)


@pytest.mark.slow
def test_fewer_images_than_processes_are_refused(tmp_path):
    write_scans(tmp_path, 1)
    done = start(tmp_path, *MODEL, "trainer.devices=2", "output=runs/out")()
    assert done.error() == "the test part holds 1 images, too few to share among 2 processes"
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0/0.png", "1/1.png"], ids=["first", "second"])
def test_a_photo_that_one_process_cannot_read_ends_both(tmp_path, name):
    write_scans(tmp_path, 6)
    (tmp_path / "photos" / "test" / name).write_text("no photo")
    done = start(tmp_path, *MODEL, "trainer.devices=2", "data.num_workers=1", "output=runs/out")()
    assert done.returncode == 1
    assert f"error: photos/test/{name} is no image that can be read" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()

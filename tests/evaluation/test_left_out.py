"""Evaluation without the files that cannot be read finds what it finds where they are not there at all."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from bcos_vit import create_model
from bcos_vit.data import DataModule, Folder
from bcos_vit.evaluation import evaluate
from bcos_vit.evaluation.command import evaluate_as
from bcos_vit.metrics import Accuracy, Completeness
from bcos_vit.models.zoo import preprocessing
from bcos_vit.photos import PhotoError
from evaluations import quiet, start, write_scans
from runs import config

SCANS = 60
DAMAGED = ("0/!.png", "0/0a.png", "3/13a.png", "3/13b.png", "3/13c.png", "5/!.png", "9/9z.png", "9/z.png")
"""Before all photos, between them, three in a row, and behind all."""
METRICS = {"accuracy": Accuracy, "completeness": Completeness}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model; photos of digits in ``photos`` and, with files among them that cannot be read, in ``spoilt``."""
    folder = tmp_path_factory.mktemp("work")
    write_scans(folder, SCANS)
    shutil.copytree(folder / "photos", folder / "spoilt")
    for number, name in enumerate(DAMAGED):
        (folder / "spoilt/test" / name).write_bytes(b"" if number % 2 else b"no photo")
    return folder


def measure(work, photos, batch_size=7, workers=0, corrupt="skip"):
    """The report on a folder, and its data."""
    data = DataModule(
        *(Folder,),
        **{"root": str(work / photos), "batch_size": batch_size, "num_workers": workers, "corrupt": corrupt},
        eval_transform=preprocessing(8),
    )
    model = create_model(work / "model.safetensors")
    return evaluate(model, data, METRICS, trainer=quiet()), data


def reasons(folder):
    """A sentence for each damaged file, in the order of the files."""
    unreadable = "is no image that can be read: the formats are AVIF, BMP,"
    return [f"{folder}/test/{name} {'is empty' if n % 2 else unreadable}" for n, name in enumerate(DAMAGED)]


def agree(found, expected):
    """That two groups of figures agree: where numbers are counted exactly, else but for rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0, abs=1e-6), name


@pytest.mark.parametrize(("batch_size", "workers"), [(7, 0), (5, 2), (64, 0), (1, 0)])
def test_figures_are_those_of_the_readable_images(work, batch_size, workers):
    found, data = measure(work, "spoilt", batch_size, workers)
    expected, _ = measure(work, "photos")
    assert found.images == expected.images == SCANS
    assert found.images + len(found.skipped) == len(data.part("test")) == SCANS + len(DAMAGED)
    assert found.figures["accuracy"]["top1"] == expected.figures["accuracy"]["top1"]
    assert found.figures["accuracy"]["top5"] == expected.figures["accuracy"]["top5"]
    assert 0 < found.figures["accuracy"]["top1"] < found.figures["accuracy"]["top5"]
    for group in METRICS:
        agree(found.figures[group], expected.figures[group])
    assert found.figures["completeness"]["ledgers"] == SCANS


def test_reasons_are_in_the_report_and_its_table(work):
    found, _ = measure(work, "spoilt")
    assert [reason.split(" BMP,")[0] for reason in found.skipped] == [
        reason.split(" BMP,")[0] for reason in reasons(work / "spoilt")
    ]
    assert found.numbers()["skipped"] == list(found.skipped)
    rows = {line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in found.table()[1:-1]}
    assert rows["images, each counted once"] == str(SCANS)
    assert rows["images left out, unreadable"] == str(len(DAMAGED))


def test_where_all_can_be_read_nothing_is_said_of_it(work):
    for corrupt in ("skip", "raise"):
        found, _ = measure(work, "photos", corrupt=corrupt)
        assert list(found.skipped) == []
        assert "skipped" not in found.numbers()
        assert not [line for line in found.table() if "left out" in line]


@pytest.mark.parametrize(("batch_size", "workers"), [(7, 0), (5, 2), (64, 0)])
def test_pictures_show_the_right_images(work, batch_size, workers):
    """Though their numbers in the folder are others."""
    found, _ = measure(work, "spoilt", batch_size, workers)
    expected, _ = measure(work, "photos")
    for name in ("gallery", "mistakes"):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert len(ours) == len(theirs) > 2, name
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.target, theirs.target)
        assert torch.allclose(ours.logit, theirs.logit, atol=1e-6)


def test_a_second_evaluation_of_the_same_data_finds_the_same(work):
    """When it is known from the start what cannot be read."""
    first, data = measure(work, "spoilt")
    model = create_model(work / "model.safetensors")
    again = evaluate(model, data, METRICS, trainer=quiet())
    assert again.figures == first.figures
    assert (again.images, again.skipped) == (first.images, first.skipped)
    assert torch.equal(again.gallery.images, first.gallery.images)
    assert torch.equal(again.mistakes.images, first.mistakes.images)


def test_every_kind_of_split_is_skipped_for_itself(work, tmp_path):
    shutil.copytree(work / "photos/test", tmp_path / "both/val")
    shutil.copytree(work / "spoilt/test", tmp_path / "both/test")
    data = DataModule(
        Folder, root=str(tmp_path / "both"), batch_size=9, corrupt="skip", eval_transform=preprocessing(8)
    )
    model = create_model(work / "model.safetensors")
    val = evaluate(model, data, METRICS, trainer=quiet(), split="val")
    test = evaluate(model, data, METRICS, trainer=quiet(), split="test")
    assert (len(val.skipped), len(test.skipped)) == (0, len(DAMAGED))
    assert val.figures["accuracy"]["top1"] == test.figures["accuracy"]["top1"]


def test_where_nothing_can_be_read_there_is_no_report(work, tmp_path):
    for name in ("8", "9"):
        (tmp_path / "spoilt/test" / name).mkdir(parents=True)
        (tmp_path / "spoilt/test" / name / "0.png").write_bytes(b"")
    (tmp_path / "model.safetensors").symlink_to(work / "model.safetensors")
    for digit in range(8):
        (tmp_path / "spoilt/test" / str(digit)).mkdir()
    with pytest.raises(ValueError, match=r"^no image of the test part can be read$"):
        measure(tmp_path, "spoilt")


def test_raise_names_the_first_file(work):
    with pytest.raises(PhotoError, match=r"spoilt/test/0/!\.png is no image that can be read"):
        measure(work, "spoilt", corrupt="raise")


def words(work, photos, output, *more):
    return (
        *(f"model.name={work}/model.safetensors", "data=folder", f"data.root={work}/{photos}", "data.num_workers=0"),
        *("metrics=[accuracy,completeness]", "data.batch_size=7", "data.corrupt=skip", f"output={output}", *more),
    )


def report_of(output: Path):
    return json.loads((output / "report.json").read_text())


def test_the_report_on_disk_has_the_reasons(work, tmp_path, capsys):
    evaluate_as(config(*words(work, "spoilt", tmp_path / "out"), name="evaluate"))
    found = report_of(tmp_path / "out")
    assert found["images"] == SCANS
    assert len(found["skipped"]) == len(DAMAGED)
    for reason, expected in zip(found["skipped"], reasons(work / "spoilt"), strict=True):
        assert reason.startswith(expected)
    assert "images left out, unreadable" in capsys.readouterr().out
    evaluate_as(config(*words(work, "photos", tmp_path / "clean"), name="evaluate"))
    expected = report_of(tmp_path / "clean")
    assert "skipped" not in expected
    agree(found["accuracy"], expected["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_leave_out_what_one_does(work, tmp_path, workers):
    """Of which either knows only half."""
    more = ("threads=1", "data.batch_size=4")
    waits = [
        start(tmp_path, *words(work, "spoilt", f"on_{n}", *more), f"trainer.devices={n}", f"data.num_workers={workers}")
        for n in (1, 2)
    ]
    ends = [wait() for wait in waits]
    for done in ends:
        assert done.returncode == 0, done.stderr
    one, two = (report_of(tmp_path / f"on_{n}") for n in (1, 2))
    assert one["images"] == two["images"] == one["completeness"]["ledgers"] == two["completeness"]["ledgers"] == SCANS
    assert one["skipped"] == two["skipped"]
    assert len(one["skipped"]) == len(DAMAGED)
    assert one["accuracy"]["top1"] == two["accuracy"]["top1"]
    for group in METRICS:
        agree(two[group], one[group])
    pictures = [(tmp_path / f"on_{n}/gallery.png").read_bytes() for n in (1, 2)]
    assert pictures[0] == pictures[1]
    assert math.isfinite(one["completeness"]["largest_residual"])


@pytest.mark.slow
def test_the_command_names_a_file_that_it_cannot_read(work, tmp_path):
    done = start(tmp_path, *words(work, "spoilt", "out"), "data.corrupt=raise")()
    assert done.error().startswith(f"{work}/spoilt/test/0/!.png is no image that can be read")
    assert not (tmp_path / "out").exists()

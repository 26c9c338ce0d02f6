"""``evaluate.py`` as users start it: what it prints, and how it says what is wrong."""

import json

import pytest

from evaluations import start, write_scans

MODEL = ("model.name=model.safetensors", "data=folder", "data.root=photos")


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def test_evaluates_photos_in_folders(tmp_path):
    write_scans(tmp_path, 12)
    done = start(tmp_path, *MODEL, "output=out")()
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["model"], report["split"], report["images"]) == ("model.safetensors", "test", 12)
    assert report["speed"]["explanations_per_prediction"] > 0
    table = done.stdout[done.stdout.index("\n-----") :]  # what comes before is the progress bar's
    assert table.isascii()
    assert "images, each counted once" in table
    assert table.splitlines()[-2:] == ["report: out/report.json", "gallery: out/gallery.png"]
    assert left(tmp_path) == ["model.safetensors", "out", "photos"]  # nothing of Hydra's or Lightning's
    assert "litlogger" not in done.stderr  # no advertisements


@pytest.mark.slow
def test_a_photo_that_cannot_be_read_is_named(tmp_path):
    write_scans(tmp_path, 3)
    (tmp_path / "photos" / "test" / "2" / "2.png").write_text("no photo")
    done = start(tmp_path, *MODEL, "output=runs/out", "data.num_workers=1")()
    assert done.error().startswith("photos/test/2/2.png is no image that can be read: the formats are AVIF, ")
    assert left(tmp_path) == ["model.safetensors", "photos"]


@pytest.mark.slow
def test_a_missing_file_is_named_and_no_folder_is_left(tmp_path):
    done = start(tmp_path, "model.name=runs/mine/model.safetensors")()
    assert done.error() == "there is no weights file runs/mine/model.safetensors"
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            "metrics=[acc]",
            "there is no metrics/acc, did you mean accuracy? metrics can be: accuracy, completeness, lattice, speed",
        ),
        pytest.param("trainer.foo=1", "'trainer.foo'", marks=pytest.mark.slow),
        pytest.param("data=photos", "data/photos", marks=pytest.mark.slow),
    ],
)
def test_words_that_no_configuration_knows_are_answered_by_a_sentence(tmp_path, words, answer):
    done = start(tmp_path, words)()
    assert done.returncode == 1
    assert answer in done.error()
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("+foo=1", "unknown config key 'foo'"),
        ("split=dev", "split must be train, val or test, found 'dev'"),
        ("split=val", "there is no folder photos/val for the val part"),
        ("output=.", "output folder . already holds "),
        ("model.name=bcos_vit_digit", "no model is named 'bcos_vit_digit', did you mean 'bcos_vit_digits'?"),
        ("trainer.accelerator=tpux", "You selected an invalid accelerator name"),
    ],
)
def test_wrong_words_are_answered_by_a_sentence(tmp_path, words, answer):
    write_scans(tmp_path, 3)
    assert start(tmp_path, *MODEL, words)().error().startswith(answer)
    assert left(tmp_path) == ["model.safetensors", "photos"]


@pytest.mark.slow
def test_a_traceback_shows_where_an_error_is(tmp_path):
    done = start(tmp_path, "model.name=none.safetensors", "traceback=true")()
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "there is no weights file none.safetensors" in done.stderr

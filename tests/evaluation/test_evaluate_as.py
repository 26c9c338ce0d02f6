"""An evaluation from configuration to files, in this process."""

import json
import re

import pytest
import torch
from omegaconf import OmegaConf

from bcos_vit import create_model, save_model
from bcos_vit.data import Digits
from bcos_vit.evaluation.command import evaluate_as
from runs import config, train, write_photos
from toys import toy

QUIET = ("trainer.accelerator=cpu", "+trainer.enable_progress_bar=false", "metrics=[accuracy,completeness,lattice]")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights of small models by name, and a folder of photos."""
    folder = tmp_path_factory.mktemp("files")
    for name, family, names in (
        ("bcos", "bcos", "0123456789"),
        ("twin", "standard", "0123456789"),
        ("reversed", "bcos", "9876543210"),
        ("overlapping", "bcos", "012345678x"),
        ("letters", "standard", "abcdefghij"),
    ):
        model = toy(f"{family}_vit_digits", num_classes=10, logit_scale=20.0)
        model.class_names = tuple(names)
        save_model(model, folder / f"{name}.safetensors")
    save_model(toy("bcos_vit_digits", num_classes=1, logit_bias=0.0), folder / "one.safetensors")
    write_photos(folder / "one", {"val/a": 2})
    write_photos(folder / "photos", {"val/a": 2, "val/b": 1, "val/c": 3})
    return folder


def evaluated(model, output, *overrides):
    return evaluate_as(config(*QUIET, f"model.name={model}", f"output={output}", *overrides, name="evaluate"))


def figures(report):
    """All figures by one name each, to be compared."""
    return {f"{group} {name}": value for group, found in report.figures.items() for name, value in found.items()}


def near(report):
    """Like ``figures``, up to rounding."""
    return pytest.approx(figures(report), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("split", ["val", "test"])
def test_writes_report_config_and_gallery(files, tmp_path, capsys, split):
    output = tmp_path / "out"
    report = evaluated(files / "bcos.safetensors", output, f"split={split}")
    assert sorted(p.name for p in output.iterdir()) == ["config.yaml", "gallery.png", "report.json"]
    described = {"model": str(files / "bcos.safetensors"), "pretrained": True, "split": split}
    described |= {"data": "bcos_vit.data.Digits", "seed": 0}
    assert json.loads((output / "report.json").read_text()) == described | report.numbers()
    assert report.images == len(Digits(split))
    part = Digits(split)
    logits = create_model(files / "bcos.safetensors")(part.images)
    right = (logits.argmax(1) == torch.tensor(part.labels)).sum()
    assert report.figures["accuracy"]["top1"] == pytest.approx(float(right) / len(part))
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in report.table()] == report.table()
    assert printed[-2:] == [f"report: {output / 'report.json'}", f"gallery: {output / 'gallery.png'}"]


def test_config_yaml_repeats_the_evaluation(files, tmp_path):
    first = evaluated(files / "bcos.safetensors", tmp_path / "first", "split=val", "data.batch_size=50")
    kept = OmegaConf.load(tmp_path / "first" / "config.yaml")
    assert (kept.image_size, kept.split, kept.data.batch_size) == (8, "val", 50)
    kept.output = str(tmp_path / "second")
    assert figures(evaluate_as(kept)) == near(first)


def test_a_conventional_model_has_no_gallery(files, tmp_path, capsys):
    report = evaluated(files / "twin.safetensors", tmp_path / "out")
    assert report.figures["completeness"] == {}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["config.yaml", "report.json"]
    assert capsys.readouterr().out.splitlines()[-1] == "gallery: none, a conventional model has no linear map"


def test_a_checkpoint_of_a_training_run_is_the_model_that_it_wrote(tmp_path):
    report = train(f"output={tmp_path / 'run'}")
    again = evaluated(tmp_path / "run" / "checkpoints" / "best.ckpt", tmp_path / "best")
    final = evaluated(tmp_path / "run" / "model.safetensors", tmp_path / "final")
    assert figures(again) == near(final)
    assert figures(final) == near(report)


def test_random_weights_are_said_and_follow_the_seed(tmp_path, capsys):
    small = ("model.pretrained=false", "+model.depth=1", "+model.width=24", "+model.mlp_width=32", "split=val")
    name = "standard_vit_digits"
    first = evaluated(name, tmp_path / "first", *small, "seed=3")
    assert capsys.readouterr().out.splitlines()[-1] == "note: random weights, seed 3"
    assert json.loads((tmp_path / "first" / "report.json").read_text())["pretrained"] is False
    again = evaluated(name, tmp_path / "again", *small, "seed=3")
    other = evaluated(name, tmp_path / "other", *small, "seed=4")
    assert figures(first) == near(again)
    assert figures(first) != near(other)


@pytest.mark.parametrize("pretrained", ["true", "false"])
def test_a_file_is_trained_whatever_is_said(files, tmp_path, capsys, pretrained):
    evaluated(files / "twin.safetensors", tmp_path / "out", f"model.pretrained={pretrained}", "split=val")
    assert "random" not in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["pretrained"] is True


def test_photos_get_the_size_of_the_model(files, tmp_path):
    model = toy("bcos_vit_digits", num_classes=3)
    save_model(model, tmp_path / "three.safetensors")
    photos = ("data=folder", f"data.root={files / 'photos'}", "data.num_workers=0")
    report = evaluated(tmp_path / "three.safetensors", tmp_path / "out", *photos, "split=val")
    assert report.images == 6
    test = evaluated(tmp_path / "three.safetensors", tmp_path / "test", *photos, "data.dataset.parts.test=val")
    assert figures(test) == near(report)
    assert (report.gallery or report.mistakes).images.shape[1:] == (3, 8, 8)


def test_classes_in_another_order_are_paired_by_name(files, tmp_path):
    report = evaluated(files / "reversed.safetensors", tmp_path / "out", "split=val")
    model, part = create_model(files / "reversed.safetensors"), Digits("val")
    predicted = [model.class_names[n] for n in model(part.images).argmax(1).tolist()]
    right = sum(name == str(label) for name, label in zip(predicted, part.labels, strict=True))
    assert report.figures["accuracy"]["top1"] == pytest.approx(right / len(part))
    assert report.class_names == tuple("9876543210")


# --- what is refused, and leaves nothing behind ---


@pytest.mark.parametrize(
    ("kind", "overrides", "sentence"),
    [
        (TypeError, ["+foo=1"], "unknown config key 'foo'"),
        (TypeError, ["+outptu=x"], "unknown config key 'outptu', did you mean 'output'"),
        (TypeError, ["+trainer.max_epoch=1"], "max_epoch"),
        (TypeError, ["+metrics.speed.rounds=1", "metrics=[speed]"], "rounds"),
        (ValueError, ["metrics.speed.batches=0", "metrics=[speed]"], "at least 1 batch and 1 repeat, found 0 and 3"),
        (ValueError, ["split=dev"], "split must be train, val or test, found 'dev'"),
        (
            ValueError,
            ["model.name=bcos_vit_digit"],
            "'bcos_vit_digit', did you mean 'bcos_vit_digits'",
        ),
        (
            ValueError,
            ["model.name=bcos_vitc_s_rope_patch1_14"],
            "bcos_vitc_s_rope_patch1_14 has no trained weights, nobody has trained it yet",
        ),
        (FileNotFoundError, ["model.name=none.safetensors"], "there is no weights file none.safetensors"),
        (FileNotFoundError, ["model.name=none.ckpt"], "there is no weights file none.ckpt"),
        (TypeError, ["+model.depth=3"], "holds its own spec and weights, with depth 2: drop depth"),
        (ValueError, ["model.name=FILES/overlapping.safetensors"], "the model does not know the data's classes '9'"),
        (ValueError, ["model.name=FILES/letters.safetensors"], "the model does not know the data's classes '0', '1'"),
        (
            ValueError,
            ["data=folder", "data.root=FILES/one", "split=val", "model.name=FILES/one.safetensors"],
            "the model has one logit, which is right about every image: give one of two classes or more",
        ),
        (ValueError, ["data=folder"], "no folder is given: say where the images lie, as data.root=FOLDER"),
        (FileNotFoundError, ["data=folder", "data.root=FILES/none"], "there is no folder FILES/none"),
        (FileNotFoundError, ["data=folder", "data.root=FILES/photos"], "there is no folder FILES/photos/test"),
        (
            ValueError,
            ["data=folder", "data.root=FILES/photos", "split=val"],
            "the model does not know the data's classes 'a', 'b', 'c': the data's are 'a', 'b', 'c', the model's '0', ",
        ),
        (FileNotFoundError, ["data=cifar10", "data.root=FILES"], "CIFAR-10 is missing from FILES"),
        (ValueError, ["data.batch_size=0"], "batch_size must be a whole number of at least 1, found 0"),
        (ValueError, ["seed=-1"], "seed must be a whole number from 0 to 4294967295, found -1"),
        (ValueError, ["threads=0"], "threads must be a whole number of at least 1, or null for all, found 0"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_wrong_settings_are_answered_by_a_sentence(files, tmp_path, kind, overrides, sentence):
    overrides = [text.replace("FILES", str(files)) for text in overrides]
    with pytest.raises(kind, match=re.escape(sentence.replace("FILES", str(files)))):
        evaluated(files / "bcos.safetensors", tmp_path / "runs" / "out", *overrides)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_in_use_is_not_written_over(files, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already holds kept\.txt: give an empty or a new one"):
        evaluated(files / "bcos.safetensors", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_an_output_folder_that_cannot_be_written_is_refused_before_anything_is_built(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=f"cannot write to output folder {tmp_path / 'file' / 'out'}"):
        evaluated("never_built", tmp_path / "file" / "out")


def test_an_empty_output_folder_that_was_there_is_taken(files, tmp_path):
    (tmp_path / "out").mkdir()
    assert evaluated(files / "twin.safetensors", tmp_path / "out", "split=val").images == 180

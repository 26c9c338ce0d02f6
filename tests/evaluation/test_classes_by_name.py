"""An evaluation pairs classes by name: figures, gallery and report speak of the model's, whatever their order."""

import json
import os
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics import CatMetric

from bcos_vit import create_model, save_model
from bcos_vit.data import Digits
from bcos_vit.evaluation import Report, evaluate
from bcos_vit.evaluation.command import evaluate_as
from bcos_vit.evaluation.setting import model_and_data
from bcos_vit.metrics import Accuracy, Group
from evaluations import chequered, quiet, serve
from runs import config, write_photos
from toys import toy

QUIET = ("trainer.accelerator=cpu", "+trainer.enable_progress_bar=false", "metrics=[accuracy]", "data=folder")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Labels(Group):
    """The labels that metrics get to see."""

    def __init__(self, model):
        super().__init__(model)
        self.kept = CatMetric()

    def update(self, batch):
        self.kept.update(batch.labels.float())

    def compute(self):
        self.seen = self.kept.compute().tolist()
        return {}

    def rows(self, found):
        return {}


def digits_in(root, names, count=4, part="test"):
    """So many test digits of each class in ``root/part/NAME``."""
    digits = Digits("test")
    for number, name in names.items():
        (root / part / name).mkdir(parents=True, exist_ok=True)
        for index in [i for i, label in enumerate(digits.labels) if label == number][:count]:
            grey = (digits.images[index, 0].numpy() * 255).round().astype(np.uint8)
            Image.fromarray(grey).save(root / part / name / f"{index}.png")
    return root


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(Report, "draw_gallery", lambda *_: False)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """The shipped model, whose classes are called zero, one, ... nine."""
    model = create_model("bcos_vit_digits", pretrained=True)
    model.class_names = WORDS
    path = tmp_path_factory.mktemp("named") / "words.safetensors"
    save_model(model, path)
    return path


def evaluated(model, root, output, *overrides):
    words = (f"model.name={model}", f"data.root={root}", "data.num_workers=0", f"output={output}")
    return evaluate_as(config(*QUIET, *words, *overrides, name="evaluate"))


def test_sort_order_does_not_matter(named, tmp_path):
    root = digits_in(tmp_path / "photos", dict(enumerate(WORDS)))  # eight, five, four, ...
    report = evaluated(named, root, tmp_path / "out")
    assert report.images == 40
    assert report.figures["accuracy"]["top1"] > 0.9
    assert report.class_names == WORDS
    assert report.absent == []
    assert "absent_classes" not in json.loads((tmp_path / "out" / "report.json").read_text())


def test_some_classes_are_evaluated_among_all_and_the_absent_are_named(named, tmp_path, capsys):
    root = digits_in(tmp_path / "photos", {3: "three", 8: "eight", 9: "nine"})
    (root / "test" / "one").mkdir()  # an empty folder is no image
    report = evaluated(named, root, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "report.json").read_text())
    assert kept["absent_classes"] == list(report.absent) == [w for w in WORDS if w not in ("three", "eight", "nine")]
    assert kept["images"] == 12
    model, digits = create_model(named), Digits("test")
    chosen = [i for label in (8, 9, 3) for i in [i for i, found in enumerate(digits.labels) if found == label][:4]]
    predicted = model(digits.images[chosen]).argmax(1)
    right = (predicted == torch.tensor(digits.labels)[chosen]).float().mean()
    assert report.figures["accuracy"]["top1"] == pytest.approx(float(right), abs=0.1)  # pixels are rounded to bytes
    assert "top5" in report.figures["accuracy"]
    said = capsys.readouterr()
    assert "note: no image of 7 of the model's 10 classes: 'zero', 'one', 'two', 'four'" in said.err
    assert "classes without an image" in said.out


@pytest.mark.parametrize("how", ["mapping", "file"])
def test_other_names_are_refused_until_it_is_said_which_is_which(named, tmp_path, how):
    german = {3: "drei", 8: "acht", 4: "four"}
    root = digits_in(tmp_path / "photos", german)
    with pytest.raises(
        ValueError, match=r"the model does not know the data's classes 'acht', 'drei': .*data\.classes="
    ):
        evaluated(named, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "said.yaml").write_text("drei: three\nacht: 8\n")
    said = {"mapping": "data.classes={drei: three, acht: 8}", "file": f"data.classes={tmp_path}/said.yaml"}[how]
    report = evaluated(named, root, tmp_path / "out", said)
    assert report.figures["accuracy"]["top1"] > 0.9


def test_names_in_other_bytes_or_case_are_the_same(tmp_path, capsys):
    model = toy("bcos_vit_digits", num_classes=3)
    model.class_names = ("Zebra", "Kätzchen", "blue tit")
    save_model(model, tmp_path / "m.safetensors")
    folders = (unicodedata.normalize("NFD", "Kätzchen"), os.fsdecode("Kätzchen".encode("latin-1")))
    found = []
    for number, folder in enumerate(folders):
        root = write_photos(tmp_path / f"{number}", {f"test/{n}": 2 for n in (folder, "Blue_Tit", "zebra")}, size=8)
        found.append(evaluated(tmp_path / "m.safetensors", root, tmp_path / f"out{number}"))
    assert "by a name in another spelling: 2, such as 'Blue_Tit' with 'blue tit'" in capsys.readouterr().err
    assert found[0].figures == found[1].figures
    assert found[0].class_names == ("Zebra", "Kätzchen", "blue tit")


def test_a_subset_of_imagenet_by_its_ids(tmp_path):
    model = create_model("bcos_vitc_ti_patch1_14", image_size=16, depth=1, width=24, heads=3, mlp_width=32)
    save_model(model, tmp_path / "m.safetensors")
    root = write_photos(tmp_path / "photos", {f"test/{n}": 1 for n in ("n02123045", "n01440764", "golden_retriever")})
    chosen = config(*QUIET, f"model.name={tmp_path}/m.safetensors", f"data.root={root}", name="evaluate")
    model, data = model_and_data(chosen, "test", adapt=False)
    made = []
    report = evaluate(model, data, {"labels": lambda m: made.append(Labels(m)) or made[0]}, trainer=quiet())
    assert made[0].seen == [207, 0, 281]  # golden_retriever, n01440764 (tench), n02123045 (tabby)
    assert len(report.absent) == 997


def test_classes_of_the_training_part_that_are_not_evaluated_need_not_be_known(named, tmp_path):
    root = digits_in(tmp_path / "photos", {3: "three", 8: "eight"})
    for name in ("three", "eight", "letter"):
        (root / "train" / name).mkdir(parents=True)
    assert evaluated(named, root, tmp_path / "out").figures["accuracy"]["top1"] > 0.8
    shutil.copytree(root / "test" / "three", root / "test" / "letter")
    with pytest.raises(ValueError, match="does not know the data's classes 'letter': "):
        evaluated(named, root, tmp_path / "other")


# --- the library function ---


@pytest.fixture(name="model")
def _model():
    model = toy("bcos_vit_digits", num_classes=4, logit_scale=20.0)
    model.class_names = ("d", "b", "a", "c")
    return model


def labels_seen(model, data):
    made = []
    report = evaluate(
        model, data, {"labels": lambda m: made.append(Labels(m)) or made[0], "a": Accuracy}, trainer=quiet()
    )
    return made[0].seen, report


def test_metrics_and_gallery_get_the_models_numbers(model):
    images = chequered(20)
    predicted = model(images).argmax(1)
    order = ("a", "b", "c", "d")
    own = torch.tensor([order.index(model.class_names[n]) for n in predicted.tolist()])
    own[:2] = (own[:2] + 1) % 4  # two mistakes
    seen, report = labels_seen(model, serve(images, own, class_names=order))
    assert seen == [model.class_names.index(order[n]) for n in own.tolist()]
    assert report.figures["a"]["top1"] == pytest.approx(0.9)
    assert report.gallery.target.tolist() == sorted(set(predicted[2:].tolist()))
    assert report.mistakes.target.tolist() == predicted[:2].tolist()
    assert [model.class_names[n] for n in report.mistakes.against.tolist()] == [order[n] for n in own[:2].tolist()]


def test_a_part_of_the_classes(model):
    seen, report = labels_seen(model, serve(chequered(4), torch.tensor([0, 1, 1, 0]), class_names=("b", "d")))
    assert seen == [1, 0, 0, 1]
    assert report.absent == ["a", "c"]


def test_what_is_said_in_python(model):
    data = serve(chequered(2), torch.tensor([0, 1]), class_names=("x", "y"), classes={"x": "c", "y": "b"})
    assert labels_seen(model, data)[0] == [3, 1]


def test_a_model_without_names_is_paired_by_order_but_not_silently(model, capsys):
    model.class_names = None
    seen, report = labels_seen(model, serve(chequered(2), torch.tensor([3, 1]), class_names=("b", "a", "d", "c")))
    assert seen == [3, 1]
    assert report.absent == ["0", "2"]
    assert (
        "note: the model has no class names: they are taken to be the data's, in order, 'b'" in capsys.readouterr().err
    )


@pytest.mark.parametrize("label", [2, -1])
@pytest.mark.parametrize("said", [True, False])
def test_a_label_that_is_no_class(model, label, said, monkeypatch):
    if not said:  # a data set of one's own need not say its labels
        monkeypatch.setattr("bcos_vit.data.module.labels_of", lambda part: None)
    data = serve(chequered(2), torch.tensor([0, label]), class_names=("a", "b"))
    sentence = "data's labels are " if said else f"the test part has the label {label}, of which the model has no class"
    with pytest.raises(ValueError, match=sentence):
        labels_seen(model, data)


# --- trained weights that learn on ---


@pytest.fixture
def fine(tmp_path):
    """Builds a model of classes b, a from a file, and data of folders with these names, to be trained."""

    def build(names, *overrides, known=("b", "a"), **spec):
        trained = toy("bcos_vit_digits", num_classes=2, **spec)
        trained.class_names = known
        save_model(trained, tmp_path / "given.safetensors")
        write_photos(tmp_path / "photos", {f"{part}/{name}": 1 for part in ("train", "val") for name in names}, size=8)
        words = (f"model.name={tmp_path / 'given.safetensors'}", "data=folder", f"data.root={tmp_path / 'photos'}")
        model, data = model_and_data(config(*words, *overrides), "val", adapt=True)
        return trained, model, data

    return build


@pytest.mark.parametrize("spec", [{}, {"max_out": 2}, {"family": "standard", "position": "sincos"}], ids=str)
def test_a_trained_head_follows_the_order_of_the_data(fine, spec, capsys):
    trained, model, data = fine(("a", "b"), **spec)
    images = chequered(6)
    torch.testing.assert_close(model(images), trained(images).flip(1))
    assert model.class_names == data.class_names == ("a", "b")
    assert "new head" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "known"),
    [("{katze: a, hund: b}", ("b", "a")), ("{katze: 1, hund: 0}", ("b", "a")), ("{katze: 1, hund: 0}", None)],
    ids=str,
)
def test_a_trained_head_follows_what_is_said(fine, said, known):
    trained, model, data = fine(("hund", "katze"), f"data.classes={said}", known=known)
    torch.testing.assert_close(model(chequered(6)), trained(chequered(6)))
    assert model.class_names == (("b", "a") if known else ("hund", "katze"))
    assert data.pair("val", model.class_names, 2).numbers == (0, 1)  # what was said is of the weights as they were


def test_weights_without_names_keep_their_head_with_a_note(fine, capsys):
    trained, model, _ = fine(("a", "b"), known=None)
    torch.testing.assert_close(model(chequered(6)), trained(chequered(6)))
    assert model.class_names == ("a", "b")
    assert "note: the model has no class names: they are taken to be the data's" in capsys.readouterr().err


def test_other_classes_get_a_new_head_unless_the_pairing_is_said(fine, tmp_path):
    with pytest.raises(ValueError, match="does not know the data's classes 'c'"):
        fine(("a", "c"), "data.classes={a: a}")
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(
        ValueError, match=r"data\.classes pairs the data with the classes of trained weights, but these"
    ):
        fine(("a", "b"), "data.classes={a: b}", "model.name=bcos_vit_digits")


def test_an_untrained_model_gets_the_names_of_the_data(tmp_path):
    write_photos(tmp_path, {f"val/{name}": 1 for name in "abcdefghij"})
    model, _ = model_and_data(config("data=folder", f"data.root={tmp_path}"), "val", adapt=True)
    assert model.class_names == tuple("abcdefghij")  # not those of the zoo's ten classes

"""``experiment=smooth``: trained weights get blurs, are marked until they have been trained, and then are no more."""

import json

import pytest
import torch

from bcos_vit import create_model, save_model
from bcos_vit.config import build
from bcos_vit.evaluation.command import evaluate_as
from bcos_vit.models import ViT
from bcos_vit.training.run import train
from runs import config
from toys import toy

# Digits, which a stem of stride 4 sees as two by two tokens.
DIGITS = ("experiment=smooth", "data=digits", "image_size=8", "recipe.batch_size=32", "explanations.every=null")
QUICK = ("recipe.epochs=2", "+trainer.limit_train_batches=4", "+trainer.enable_progress_bar=false")


@pytest.fixture
def file(tmp_path):
    """A strided model of digits, called trained."""
    model = toy("bcos_vit_shapes", num_classes=10, image_size=8)
    model.class_names, model.about = tuple("0123456789"), {"name": "mine", "results": {"top1": 0.9}}
    save_model(model, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_what_it_trains_is_marked_no_more(file, tmp_path, caplog):
    report = train(config(*DIGITS, *QUICK, f"model.name={file}", f"output={tmp_path / 'run'}"))
    assert "not fine-tuned" in caplog.text  # before
    assert report.not_fine_tuned is None
    caplog.clear()
    history = {"name": "mine", "trained_with": {"downsample": "strided"}}
    for name in ("model.safetensors", "checkpoints/best.ckpt"):
        model = create_model(tmp_path / "run" / name)
        assert model.spec.downsample == "blurred"
        assert "not_fine_tuned" not in model.about
        assert model.about["derived_from"] == history
        before = create_model(file).state_dict()
        assert not any(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not caplog.text
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["derived_from"] == {"derived_from": history}
    assert "not_fine_tuned" not in (tmp_path / "run" / "report.json").read_text()


def test_every_layer_learns_alike_from_the_first_step_on(file):
    chosen = config(*DIGITS, f"model.name={file}")
    model: ViT = build(chosen.model)
    classifier = build(chosen.recipe.classifier)(model=model, recipe={})
    optimizer = classifier.optimizer(classifier.groups(model))
    schedule = classifier.schedule(optimizer, 100)
    first = {group["lr"] for group in optimizer.param_groups}
    assert len(first) == 1
    assert 0 < first.pop() < 1e-4
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}
    assert chosen.recipe.epochs == 9


def test_evaluation_of_what_is_not_trained_says_so_everywhere(file, tmp_path, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("bcos_vit.evaluation.report.columns", lambda parts, names: shown.extend(parts))
    monkeypatch.setattr("bcos_vit.evaluation.report.write_png", lambda *_: None)
    words = (f"model.name={file}", "+model.downsample=blurred", f"output={tmp_path / 'out'}", "metrics=[accuracy]")
    report = evaluate_as(config(*words, "trainer.accelerator=cpu", name="evaluate"))
    said = 'not fine-tuned: the weights were trained with downsample "strided", not "blurred"'
    assert report.not_fine_tuned == said
    assert json.loads((tmp_path / "out" / "report.json").read_text())["not_fine_tuned"] == said
    out = capsys.readouterr().out
    assert f"note: {said}\n" in out
    assert "weights " in out
    assert " not fine-tuned\n" in out
    assert shown
    assert all(caption.endswith(", by weights that are not fine-tuned") for caption in shown)

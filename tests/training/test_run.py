"""A training run from configuration to report."""

import hashlib
import json

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

import runs
from bcos_vit import create_model, explain
from bcos_vit.config import plain
from bcos_vit.data import Digits
from bcos_vit.extras import versions
from bcos_vit.training import run as training
from runs import SHORT, config

COMMAND = "python train.py recipe.epochs=2"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short run of the default, its report, and how often the test part was read: while it learnt, and in all."""
    reads = {"learning": 0, "evaluating": 0}
    phase = "learning"
    read, evaluate = Digits.__getitem__, training.evaluate

    def counted(self, index):
        reads[phase] += len(self) == 360
        return read(self, index)

    def evaluated(*arguments, **named):
        nonlocal phase
        phase = "evaluating"
        return evaluate(*arguments, **named)

    output = tmp_path_factory.mktemp("runs") / "bcos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "__getitem__", counted)
        patch.setattr(training, "evaluate", evaluated)
        report = training.train(config(*SHORT, f"output={output}"), command=COMMAND)
    return output, report, reads


def test_writes_checkpoints_log_weights_card_report_and_pictures(run):
    output, _, _ = run
    assert set(runs.files(output)) == {
        "card.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "explanations/epoch_0002.png",
        "gallery.png",
        "log/hparams.yaml",
        "log/metrics.csv",
        "model.safetensors",
        "report.json",
    }
    for picture in ("gallery.png", "explanations/epoch_0002.png"):
        with Image.open(output / picture) as image:
            low, high = image.convert("L").getextrema()
            assert high - low > 100, f"nothing is drawn in {picture}"


def test_the_test_part_is_no_part_of_learning_and_counted_once(run):
    _, report, reads = run
    assert report.images == report.figures["completeness"]["ledgers"] == 360
    assert reads["learning"] == 10  # one of each class, before anything is learnt
    assert 360 <= reads["evaluating"] <= 360 + 15  # what is shown is read again


def test_report_closes_every_ledger_and_needs_no_position(run):
    _, report, _ = run
    found = report.figures["completeness"]
    assert found["largest_residual"] <= 1e-5
    assert found["smallest_image_share"] == 1
    accuracy, residual, share = report.lines()
    assert accuracy == f"test accuracy: {100 * report.figures['accuracy']['top1']:.2f} %"
    assert residual == f"largest relative residual: {found['largest_residual']:.1e}"
    assert share == "image share: 100 %"


def test_table_shows_every_figure(run):
    _, report, _ = run
    table = "\n".join(report.table())
    accuracy, ledgers = report.figures["accuracy"], report.figures["completeness"]
    for figure in (
        "360",
        *(f"{100 * accuracy[name]:.2f} %" for name in ("top1", "top5")),
        *(f"{accuracy[name]:.4f}" for name in ("loss", "calibration_error")),
        *(f"{ledgers[name]:.1e}" for name in ("median_residual", "largest_residual")),
        "100 %",
    ):
        assert f" {figure}\n" in table
    assert table.isascii()


def test_report_json_holds_the_same_numbers(run):
    output, report, _ = run
    assert json.loads((output / "report.json").read_text()) == report.numbers()


def test_saved_weights_are_the_evaluated_ones_and_those_of_the_best_checkpoint(run):
    output, report, _ = run
    model = create_model(output / "model.safetensors")
    test = Digits("test")
    right = (model(test.images).argmax(1) == torch.tensor(test.labels)).sum()
    assert right == round(360 * report.figures["accuracy"]["top1"])
    shown = explain(model, report.gallery.images)
    torch.testing.assert_close(shown.contributions, report.gallery.contributions)
    assert model.class_names == Digits.class_names
    best = runs.checkpoint(output, "best")["state_dict"]
    assert runs.equal(model.state_dict(), {name.removeprefix("model."): tensor for name, tensor in best.items()})


def test_card_says_how_the_weights_came_to_be(run):
    output, report, _ = run
    card = json.loads((output / "card.json").read_text())
    assert card == {
        "command": COMMAND,
        "seed": 0,
        "results": report.numbers(),
        "versions": versions(),
        "data": "bcos_vit.data.Digits",
        "data_licence": Digits.licence,
        "sha256": hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest(),
    }
    assert card["versions"]["torch"] == torch.__version__.split("+")[0]
    assert "CC BY 4.0" in card["data_licence"]


def test_checkpoints_hold_plain_values(run):
    output, _, _ = run
    parameters = runs.checkpoint(output)["hyper_parameters"]
    assert parameters["spec"]["family"] == "bcos"
    assert parameters["recipe"]["seed"] == 0
    json.dumps(parameters)  # nothing but dictionaries, lists, text and numbers


def test_config_yaml_holds_the_whole_configuration(run):
    output, _, _ = run
    expected = plain(config(*SHORT, f"output={output}"))
    assert expected["image_size"] is None  # completed on the way
    assert OmegaConf.load(output / "config.yaml") == expected | {"image_size": 8}


def test_another_seed_gives_other_weights_and_the_same_none(tmp_path):
    outputs = {name: tmp_path / name for name in ("first", "again", "other")}
    for name, output in outputs.items():
        runs.train(f"output={output}", f"seed={int(name == 'other')}", "explanations.every=null")
    first, again, other = (create_model(o / "model.safetensors").state_dict() for o in outputs.values())
    assert runs.equal(first, again)
    assert not any(torch.equal(first[name], other[name]) for name in first if "norm" not in name)


def test_the_last_checkpoint_is_that_of_the_last_epoch_and_the_best_that_of_the_best(tmp_path, monkeypatch):
    runs.prescribe(monkeypatch, 0.5, 0.9, 0.9, 0.3, 0.2)
    runs.train(f"output={tmp_path / 'run'}", "recipe.epochs=5", "explanations.every=null")
    found = {name: runs.checkpoint(tmp_path / "run", name) for name in ("last", "best")}
    assert {name: (c["epoch"], c["global_step"]) for name, c in found.items()} == {"last": (4, 20), "best": (2, 12)}
    weights = create_model(tmp_path / "run/model.safetensors").state_dict()
    assert runs.equal(weights, {n.removeprefix("model."): t for n, t in found["best"]["state_dict"].items()})


def test_a_run_without_validation_keeps_its_last_weights_and_says_so(tmp_path, capsys):
    runs.train(f"output={tmp_path / 'run'}", "+trainer.limit_val_batches=0")
    assert "no validation has run: the weights of the last step are evaluated" in capsys.readouterr().out
    weights = create_model(tmp_path / "run/model.safetensors").state_dict()
    last = runs.checkpoint(tmp_path / "run")["state_dict"]
    assert runs.equal(weights, {name.removeprefix("model."): tensor for name, tensor in last.items()})


def test_the_twin_trains_with_cross_entropy_and_has_no_ledger(tmp_path, capsys):
    chosen = config(*SHORT, "model=standard_vit_digits", "explanations.every=1", f"output={tmp_path / 'twin'}")
    assert chosen.recipe.classifier.loss._target_ == "torch.nn.CrossEntropyLoss"
    report = training.train(chosen)
    assert report.figures["completeness"] == {}
    assert not {"gallery.png", "explanations"} & {p.name for p in (tmp_path / "twin").iterdir()}
    assert "largest_residual" not in runs.logged(tmp_path / "twin")
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: ")


def test_two_models_learn_from_equal_data():
    bcos, twin = config(), config("model=standard_vit_digits")
    assert bcos.data == twin.data
    assert bcos.recipe.epochs == twin.recipe.epochs

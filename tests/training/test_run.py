"""A training run from configuration to report, in process and as users start it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from bcos_vit import create_model
from bcos_vit.data import Digits
from bcos_vit.evaluation import evaluate
from bcos_vit.training.run import train
from runs import SHORT, config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One short run of the default, its report, and how often the test part was read."""
    reads = 0
    original = Digits.__getitem__

    def counted(self, index):
        nonlocal reads
        reads += len(self) == 360
        return original(self, index)

    output = tmp_path_factory.mktemp("runs") / "bcos"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "__getitem__", counted)
        report = train(config(*SHORT, f"output={output}"))
    return output, report, reads


def test_writes_checkpoints_log_weights_report_and_gallery(run):
    output, _, _ = run
    written = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    assert written == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "gallery.png",
        "log/hparams.yaml",
        "log/metrics.csv",
        "model.safetensors",
        "report.json",
    }
    header = (output / "log/metrics.csv").read_text().splitlines()[0].split(",")
    assert {"epoch", "train_loss", "val_accuracy", "val_loss"} <= set(header)


def test_test_part_is_read_once(run):
    _, report, reads = run
    assert reads == report.images == 360


def test_report_closes_every_ledger_and_needs_no_position(run):
    _, report, _ = run
    assert report.ledgers.largest_residual <= 1e-5
    assert report.ledgers.smallest_image_share == 1
    accuracy, residual, share = report.lines()
    assert accuracy == f"test accuracy: {100 * report.accuracy:.2f} %"
    assert residual == f"largest relative residual: {report.ledgers.largest_residual:.1e}"
    assert share == "image share: 100 %"


def test_table_shows_every_figure(run):
    _, report, _ = run
    table = "\n".join(report.table())
    for figure in ("360", f"{report.ledgers.median_residual:.1e}", f"{report.ledgers.largest_residual:.1e}", "100 %"):
        assert figure in table
    assert f" {round(360 * report.accuracy)}" in table
    assert table.isascii()


def test_report_json_holds_the_same_numbers(run):
    output, report, _ = run
    assert json.loads((output / "report.json").read_text()) == report.numbers()


def test_saved_weights_are_the_evaluated_ones(run):
    output, report, _ = run
    model = create_model(output / "model.safetensors")
    test = Digits("test")
    again = evaluate(model, [(test.images, torch.tensor(test.labels))])
    assert again.accuracy == report.accuracy
    assert model.class_names == Digits.class_names
    best = torch.load(output / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, best[f"model.{name}"])


def test_checkpoints_hold_plain_values(run):
    output, _, _ = run
    parameters = torch.load(output / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]
    assert parameters["spec"]["family"] == "bcos"
    assert parameters["recipe"]["seed"] == 0
    json.dumps(parameters)  # nothing but dictionaries, lists, text and numbers


def test_config_yaml_repeats_the_run(run):
    output, _, _ = run
    assert OmegaConf.load(output / "config.yaml").recipe.epochs == 2


def _weights(output: Path) -> dict[str, torch.Tensor]:
    return create_model(output / "model.safetensors").state_dict()


def test_one_seed_gives_bitwise_equal_weights_and_another_does_not(run, tmp_path):
    output, _, _ = run
    train(config(*SHORT, f"output={tmp_path / 'again'}"))
    train(config(*SHORT, "seed=1", f"output={tmp_path / 'other'}"))
    first, again, other = _weights(output), _weights(tmp_path / "again"), _weights(tmp_path / "other")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_the_twin_trains_with_cross_entropy_and_has_no_ledger(tmp_path, capsys):
    chosen = config(*SHORT, "model=standard_vit_digits", f"output={tmp_path / 'twin'}")
    assert chosen.recipe.classifier.loss._target_ == "torch.nn.CrossEntropyLoss"
    report = train(chosen)
    assert report.ledgers is None
    assert not (tmp_path / "twin/gallery.png").exists()
    assert capsys.readouterr().out.splitlines()[-1].startswith("test accuracy: ")


def test_two_models_learn_from_equal_data():
    bcos, twin = config(), config("model=standard_vit_digits")
    assert bcos.data == twin.data
    assert bcos.recipe.epochs == twin.recipe.epochs


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["+foo=1"], "unknown config key 'foo'"),
        (["+outptu=x"], "did you mean 'output'"),
        (["+recipe.epoch=1"], "did you mean 'epochs'"),
        (["model.name=bcos_vit_digit"], "did you mean 'bcos_vit_digits'"),
        (["+model.num_class=3"], "did you mean 'num_classes'"),
        (["+model.num_classes=7"], "the data has 10 classes, but the model 7 logits"),
        (["+model.width=97"], "width 97 must be a multiple of heads 3"),
        (["+trainer.max_epoch=1"], "max_epoch"),
        (["recipe.epochs=1"], "warmup_steps must lie between 0 and the 20 steps"),
    ],
)
def test_wrong_configuration_is_answered_by_a_sentence(tmp_path, overrides, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        train(config(f"output={tmp_path / 'run'}", *overrides))


def test_a_run_that_fails_before_it_trains_leaves_its_folder_free(tmp_path):
    output = tmp_path / "run"
    with pytest.raises(ValueError, match="warmup_steps"):
        train(config(f"output={output}", "recipe.epochs=1"))
    assert not output.exists()


def test_output_folder_that_cannot_be_written_is_refused_before_anything_is_built(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to output folder"):
        train(config(f"output={tmp_path / 'file' / 'run'}", "model.name=never_built"))


def test_output_folder_in_use_is_not_written_over(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already holds kept\.txt"):
        train(config(f"output={tmp_path}"))
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def _command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=900, check=False)


def test_command_answers_errors_without_a_traceback_and_leaves_nothing(tmp_path):
    done = _command("model.name=bcos_vit_digit", "output=out", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no model is named 'bcos_vit_digit', did you mean")
    assert "Traceback" not in done.stderr
    unknown = _command("trainer.max_epoch=3", folder=tmp_path)
    assert unknown.returncode == 1
    assert "Could not override 'trainer.max_epoch'" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_default_run_reaches_the_promised_accuracy(tmp_path):
    done = _command("output=run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy, residual, share = done.stdout.splitlines()[-3:]
    assert float(accuracy.removeprefix("test accuracy: ").removesuffix(" %")) >= 97.5
    assert float(residual.removeprefix("largest relative residual: ")) <= 1e-5
    assert share == "image share: 100 %"
    table = done.stdout[done.stdout.index("\n-----") :]  # what comes before is the progress bar's
    assert table.isascii()
    assert "ledgers checked" in table


@pytest.mark.slow
def test_two_processes_train_one_model_and_one_of_them_reports(tmp_path):
    done = _command(*SHORT, "trainer.devices=2", "+trainer.strategy=ddp", "output=run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()].count("test accuracy") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert create_model(tmp_path / "run/model.safetensors").class_names == Digits.class_names

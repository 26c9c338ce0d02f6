"""A run that cannot be is answered before its first step, in one sentence with what was found, and leaves no folder."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

import runs
from bcos_vit.training import Classifier
from bcos_vit.training.wrong_use import check_config
from runs import config

LR, WARMUP = "recipe.classifier.optimizer.lr", "recipe.classifier.schedule.warmup_steps"
CLIP, NORM = "recipe.classifier.clip.clip_factor", "recipe.classifier.clip.max_norm"
DECAY = "recipe.classifier.optimizer.weight_decay"
TWIN = "model=standard_vit_digits"


def refused(output, sentence, *overrides):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", lambda *_: pytest.fail("something was learnt"))
        with pytest.raises((OSError, ValueError, TypeError, MisconfigurationException), match=sentence) as caught:
            runs.train(f"output={output}", *overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 200
    assert not output.exists()
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "sentence", "values"),
    [
        ("recipe.epochs", "recipe.epochs must be a whole number of at least 1", ["0", "-1", "1.5", "null", "true"]),
        (
            "recipe.batch_size",
            "recipe.batch_size must be a whole number of at least 1",
            ["0", "-64", "1.5", "null", "true", "many"],
        ),
        (LR, f"{LR} must be a number above 0", ["0", "-1", "nan", "inf", "fast", "null", "true"]),
        (CLIP, f"{CLIP} must be a number above 0", ["-0.01", "0", "nan", "inf", "hard"]),
        ("data.batch_size", "batch_size must be a whole number of at least 1", ["0", "-3", "2.5", "null"]),
        ("data.num_workers", "num_workers must be a whole number of at least 0", ["-1", "0.5"]),
        ("threads", "threads must be a whole number of at least 1, or null for all", ["0", "-1", "1.5"]),
        ("seed", "seed must be a whole number from 0 to 4294967295", ["-1", "1.5", "null", "4294967296"]),
        ("explanations.every", "explanations.every must be a whole number of at least 1", ["0", "-1", "1.5", "true"]),
        ("explanations.images", "explanations.images must be a whole number of at least 1", ["0", "-4", "1.5", "null"]),
        (
            "ema",
            "ema must lie between 0 and 1, as 0.999, or be null for none",
            ["1.5", "0", "1", "-0.9", "nan", "true"],
        ),
        ("image_size", "image_size must be a whole number of at least 1", ["0", "-8", "8.5", "big"]),
    ],
)
def test_impossible_values(tmp_path, name, sentence, values):
    for value in values:
        words = {word: repr(word) for word in ("fast", "hard", "big", "many")}
        found = ({"null": "None", "true": "True"} | words).get(value, value)
        refused(tmp_path / "run", f"^{sentence}, found {found}$", f"{name}={value}")


@pytest.mark.parametrize("steps", [0, -1])
def test_a_warmup_of_no_step(tmp_path, steps):
    sentence = f"^warmup_steps must be at least 1, found {steps}: without a warm-up, .*recipe.classifier.schedule=null$"
    refused(tmp_path / "run", sentence, f"{WARMUP}={steps}")


@pytest.mark.parametrize(("steps", "reached"), [(8, "100.0%"), (9, "89.0%"), (100, "8.9%")])
def test_a_warmup_that_fills_the_training_is_done_with_a_warning(tmp_path, steps, reached):
    seen = runs.Recorder()
    with pytest.warns(UserWarning, match=f"of {steps} steps is not shorter than the training of 8: .*to {reached}"):
        runs.train(f"output={tmp_path / 'run'}", f"{WARMUP}={steps}", "explanations.every=null", watcher=seen)
    assert seen.rates == pytest.approx([1e-3 * (0.01 + 0.99 * step / steps) for step in range(8)])


@pytest.mark.parametrize(
    ("name", "least", "values"), [(NORM, "above", ["0", "-1"]), (DECAY, "of at least", ["-1", "inf"])]
)
def test_impossible_values_of_the_twin(tmp_path, name, least, values):
    for value in values:
        refused(tmp_path / "run", f"^{name} must be a number {least} 0, found {value}$", TWIN, f"{name}={value}")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("image_size=9", "image_size 9 must be a multiple of patch_size 2"),
        ("model.width=25", "width 25 must be a multiple of heads 3"),
        ("+model.num_classes=7", "the data has 10 classes, but the model 7 logits"),
        ("trainer.devices=0", "devices=0.* is not a valid input"),
        ("resume=nowhere.ckpt", r"^there is no weights file nowhere\.ckpt$"),
        ("model.name=bcos_vit_digit", "no model is named 'bcos_vit_digit', did you mean 'bcos_vit_digits'"),
        ("model.name=nowhere.safetensors", r"there is no weights file nowhere\.safetensors"),
    ],
)
def test_what_does_not_exist_or_fit(tmp_path, override, sentence):
    refused(tmp_path / "run", sentence, override)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("+foo=1", "unknown config key 'foo'"),
        ("+outptu=x", "unknown config key 'outptu', did you mean 'output'"),
        ("+recipe.epoch=1", "unknown recipe key 'epoch', did you mean 'epochs'"),
        ("+model.num_class=3", "unknown override 'num_class', did you mean 'num_classes'"),
        ("+speed.compiled=true", "unknown key of speed 'compiled', did you mean 'compile'"),
        ("+recipe.batchsize=3", "unknown recipe key 'batchsize', did you mean 'batch_size'"),
        ("+explanations.image=3", "unknown key of explanations 'image', did you mean 'images'"),
        ("+recipe.classifier.los=1", "unexpected keyword argument 'los'"),
        ("+recipe.classifier.optimizer.rate=1", "unexpected keyword argument 'rate'"),
        ("+trainer.max_epoch=1", "unexpected keyword argument 'max_epoch'"),
        ("+data.batches=1", "unexpected keyword argument 'batches'"),
        ("+logger.colour=red", "unexpected keyword argument 'colour'"),
    ],
)
def test_unknown_keys(tmp_path, override, sentence):
    refused(tmp_path / "run", sentence, override)


def test_a_failure_while_training_keeps_what_was_learnt(tmp_path):
    with pytest.raises(runs.Cut):
        runs.train(f"output={tmp_path / 'run'}", watcher=runs.Recorder(cut=5))
    assert {"config.yaml", "checkpoints/last.ckpt"} <= set(runs.files(tmp_path / "run"))


def test_output_folder_that_cannot_be_written_is_refused_before_anything_is_built(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to output folder"):
        runs.train(f"output={tmp_path / 'file' / 'run'}", "model.name=never_built")


def test_output_folder_in_use_is_not_written_over(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already holds kept\.txt"):
        runs.train(f"output={tmp_path}")
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_an_empty_output_folder_is_used_and_its_failure_leaves_the_rest_alone(tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="seed"):
        runs.train(f"output={tmp_path / 'run'}", "seed=-1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.txt", "run"]
    assert not any((tmp_path / "run").iterdir())


def test_folders_made_for_a_run_that_fails_are_removed_and_a_link_is_kept(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for output in ("new/parent/run", "link", "link/run"):
        with pytest.raises(ValueError, match="width 97"):
            runs.train(f"output={tmp_path / output}", "model.width=97")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
    assert not any((tmp_path / "real").iterdir())


@pytest.mark.parametrize(
    "word",
    ["model=bcos_vit_digits", "model=standard_vit_digits", "experiment=imagenet/bcos_vitc_l_patch1_14", "debug=batch"],
)
def test_the_defaults_themselves_are_possible(word):
    check_config(config(word))


@pytest.mark.parametrize("model", [(), (TWIN,), ("+model.logit_bias=0",), ("+model.pretrained=true",)])
def test_one_class_is_one_sentence(tmp_path, model):
    root = tmp_path / "photos"
    for part in ("train", "val", "test"):
        (root / part / "cat").mkdir(parents=True)
        Image.new("RGB", (9, 8)).save(root / part / "cat" / "a.png")
    (tmp_path / "runs").mkdir()
    data = ("data=folder", f"data.root={root}", "data.num_workers=0", "image_size=8")
    sentence = "^the data has one class, 'cat', and nothing to tell it from: add another class, "
    refused(tmp_path / "runs" / "run", sentence, *data, *model)

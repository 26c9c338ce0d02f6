"""What a run cannot be resumed from is named in a sentence before anything is learnt, and no folder is left behind."""

import re
import shutil

import pytest
import torch

import runs
from bcos_vit.training import Classifier


@pytest.fixture(scope="module", params=["null", "0.9"], ids=["plain", "averaged"])
def last(request, tmp_path_factory):
    """The last checkpoint of a run with or without a moving average, and the run's choice of it."""
    output = tmp_path_factory.mktemp("runs") / "run"
    runs.train(f"output={output}", f"ema={request.param}", "explanations.every=null")
    return output / "checkpoints/last.ckpt", f"ema={request.param}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The last checkpoint of a run."""
    output = tmp_path_factory.mktemp("runs") / "run"
    runs.train(f"output={output}", "explanations.every=null")
    return output / "checkpoints/last.ckpt"


def refused(output, checkpoint, sentence, *overrides, kind=ValueError):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", lambda *_: pytest.fail("something was learnt"))
        with pytest.raises(kind, match=sentence) as caught:
            runs.train(f"output={output}", f"resume={checkpoint}", *overrides)
    assert "\n" not in str(caught.value)
    assert not output.exists()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("recipe.epochs=3", "with recipe.epochs 2, not 3"),
        ("recipe.classifier.optimizer.lr=2e-3", r"with recipe.classifier.optimizer.lr 0\.001, not 0\.002"),
        ("recipe.classifier.clip.clip_factor=0.02", r"with recipe.classifier.clip.clip_factor 0\.01, not 0\.02"),
        ("recipe.classifier.schedule.warmup_steps=4", "with recipe.classifier.schedule.warmup_steps 3, not 4"),
        (
            "+recipe.classifier.optimizer.weight_decay=0.1",
            r"with recipe.classifier.optimizer.weight_decay None, not 0\.1",
        ),
        ("recipe.classifier.loss._target_=torch.nn.BCELoss", "with recipe.classifier.loss._target_ 'bcos_vit"),
        ("model.width=36", "with spec.width 24, not 36"),
        ("+model.position=sincos", "with spec.position 'rope', not 'sincos'"),
        ("model=standard_vit_digits", "with spec.family 'bcos', not 'standard'"),
        ("trainer.max_epochs=5", "with trainer.max_epochs 2, not 5"),
        ("data.train_transform.degrees=20", "with data.train_transform.degrees 10, not 20"),
        ("+data.mix={_target_: torchvision.transforms.v2.MixUp, _partial_: true}", "with data.mix None, not {"),
        ("recipe.batch_size=32", "with recipe.batch_size 64, not 32"),
        ("+data.train_images=8", "with data.train_images None, not 8"),
        ("recipe.classifier.schedule=null", r"with recipe.classifier.schedule \{.*, not None"),
    ],
)
def test_another_recipe_model_mix_or_batch_of_a_step(plain, tmp_path, override, sentence):
    refused(tmp_path / "again", plain, f"last.ckpt was made {sentence}.*: a resumed run keeps to it", override)


def test_turns_are_not_given_by_hand(plain, tmp_path):
    sentence = (
        r"^trainer.accumulate_grad_batches 2 is not given: it follows from recipe.batch_size, the devices, and data"
    )
    refused(tmp_path / "again", plain, sentence, "+trainer.accumulate_grad_batches=2")


def test_a_moving_average_switched_on_or_off(last, tmp_path):
    checkpoint, ema = last
    others = (
        {"ema=0.9": "None, not 0.9"} if ema == "ema=null" else {"ema=null": "0.9, not None", "ema=0.5": "0.9, not 0.5"}
    )
    for other, differ in others.items():
        refused(
            tmp_path / "again", checkpoint, f"last.ckpt was made with ema {differ}: a resumed run keeps to it", other
        )


@pytest.mark.parametrize("name", ["nowhere.ckpt", "", "."])
def test_no_such_file(tmp_path, name):
    checkpoint = tmp_path / name if name == "nowhere.ckpt" else name
    path = re.escape(str(checkpoint or "."))  # a folder is no file either
    refused(tmp_path / "again", checkpoint, f"^there is no weights file {path}$", kind=FileNotFoundError)


def test_files_that_are_no_checkpoints_of_a_run(plain, tmp_path):
    whole = plain.read_bytes()
    state = torch.load(plain, weights_only=True)
    without = {name: value for name, value in state.items() if name != "hyper_parameters"}
    other = state | {"hyper_parameters": {"learning_rate": 0.1}}
    for name, content in {"empty": b"", "text": b"hello", "cut": whole[: len(whole) // 2]}.items():
        (tmp_path / f"{name}.ckpt").write_bytes(content)
    for name, content in {"list": [1], "without": without, "other": other, "number": 3}.items():
        torch.save(content, tmp_path / f"{name}.ckpt")
    torch.save(Classifier, tmp_path / "code.ckpt")  # not run
    shutil.copy(plain.parents[1] / "model.safetensors", tmp_path / "weights.ckpt")
    nothing = "class_names, hyper_parameters, state_dict"
    lacking = dict.fromkeys(("empty", "text", "list", "number", "weights"), nothing)
    lacking |= {"without": "hyper_parameters", "other": "recipe, spec"}
    for name, parts in lacking.items():
        sentence = rf"{name}\.ckpt is no checkpoint of bcos_vit's training: it lacks {parts}$"
        refused(tmp_path / "again", tmp_path / f"{name}.ckpt", sentence)
    unsafe = {"cut": "its end is missing", "code": "it asks for 'bcos_vit.training.classifier Classifier', which"}
    for name, reason in unsafe.items():
        refused(tmp_path / "again", tmp_path / f"{name}.ckpt", rf"{name}\.ckpt cannot be read safely: {reason}")
    assert {path.stem for path in tmp_path.glob("*.ckpt")} == lacking.keys() | unsafe.keys()


@pytest.mark.parametrize("part", ["epoch", "loops", "lr_schedulers", "optimizer_states"])
def test_weights_without_the_state_of_their_training(plain, tmp_path, part):
    state = torch.load(plain, weights_only=True)
    torch.save({name: value for name, value in state.items() if name != part}, tmp_path / "part.ckpt")
    refused(tmp_path / "again", tmp_path / "part.ckpt", rf"part\.ckpt cannot be gone on with: it lacks {part}$")


def test_what_differs_but_does_not_matter_is_taken(plain, tmp_path):
    report = runs.train(
        *(f"output={tmp_path / 'again'}", f"resume={plain}", "seed=1", "data.num_workers=1"),
        *("trainer.log_every_n_steps=1", "explanations.every=1", "logger=tensorboard"),
    )
    assert report.images == 360


def test_other_classes_of_the_same_number(plain, tmp_path):
    state = torch.load(plain, weights_only=True)
    for name, classes in {"order": "9876543210", "other": "abcdefghij"}.items():
        torch.save(state | {"class_names": list(classes)}, tmp_path / f"{name}.ckpt")
        sentence = rf"{name}\.ckpt was made for the classes '{classes[0]}', .* and 2 more, not '0', '1', "
        refused(tmp_path / "again", tmp_path / f"{name}.ckpt", sentence)

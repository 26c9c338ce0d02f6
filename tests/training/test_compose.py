"""No dead configuration: every file of every group composes and builds."""

import socket
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf
from torchvision.transforms.v2.functional import to_pil_image

from bcos_vit import create_model
from bcos_vit.config import build, plain
from bcos_vit.data import cifar10
from bcos_vit.evaluation.setting import model_and_data
from bcos_vit.evaluation.trainer import build_trainer, given_callbacks
from bcos_vit.metrics import Group
from bcos_vit.models.zoo import CARDS
from bcos_vit.training import OneVsRest
from bcos_vit.training.batches import split_batch
from bcos_vit.training.run import train
from bcos_vit.training.speed import speed_up
from imagenet_tree import imagenet_tree
from runs import CONFIGS, config, files, write_photos

TRAINING = ("callbacks", "data", "debug", "experiment", "logger", "model", "recipe", "trainer")
FILES = sorted(str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.rglob("*.yaml"))
CHOICES = [tuple(file.split("/", 1)) for file in FILES if "/" in file]
METRICS = [name for group, name in CHOICES if group == "metrics"]
EVALUATION = [("trainer", "evaluation"), *(("metrics", name) for name in METRICS)]
IMAGENET = [name for group, name in CHOICES if group == "experiment" and name.startswith("imagenet/")]
STEPS = 112_680
"""Of 90 epochs of ImageNet in batches of 1,024."""


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory):
    """A small data set for data=imagenet."""
    return imagenet_tree(tmp_path_factory.mktemp("imagenet") / "tree", train=1, val=1)


@pytest.fixture
def photos(tmp_path):
    """A small data set for data=folder."""
    return write_photos(
        tmp_path / "photos", {f"{part}/{name}": 2 for part in ("train", "val", "test") for name in "ab"}
    )


def chosen_with(group, name, output, photos, imagenet):
    """A choice of ``configs/train.yaml``, with data that are at hand and the smallest images that these have."""
    words = [f"{group}={name}", f"output={output}"]
    if (group, name) == ("trainer", "gpus"):
        words += ["trainer.accelerator=cpu", "trainer.devices=1"]
    if group == "recipe" and name.startswith("standard"):
        words += ["model.name=standard_vit_digits"]
    if name in IMAGENET:
        words += ["+model.depth=1"]  # at full size they are built below
    elif group == "data":
        words += [f"image_size={32 if name == 'shapes' else 8}"]
    elif name == "smooth" or (group == "model" and name.endswith("_shapes")):
        words += ["data=shapes"]
    chosen = config(*words)
    if "ImageNet" in chosen.data.dataset._target_:
        chosen.data.root = str(imagenet)
    elif "Folder" in chosen.data.dataset._target_:
        chosen.data.root = str(photos)
    elif "CIFAR10" in chosen.data.dataset._target_:  # is tested below, it is not at hand
        chosen.data.dataset, chosen.data.root = {"_target_": "photo_tree.DigitPhotos", "_partial_": True}, None
    return chosen


@pytest.mark.parametrize(("group", "name"), [c for c in CHOICES if c[0] in TRAINING and c not in EVALUATION])
def test_choice_composes_and_builds(group, name, tmp_path, photos, imagenet):
    chosen = chosen_with(group, name, tmp_path / "run", photos, imagenet)
    plain(chosen)
    model, data = model_and_data(chosen, "val", adapt=True)
    assert len(data.class_names) == model.spec.num_classes
    assert (model.spec.family, model.spec.image_size) == (chosen.recipe.family, chosen.image_size)
    if "mix" in chosen.data and chosen.data.mix is not None:
        _, shares = data.mix(num_classes=2)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
        assert shares.shape == (4, 2)

    classifier = build(chosen.recipe.classifier)(model=model, recipe={})
    speed_up(classifier, **chosen.speed)
    assert classifier.model is model
    optimizer = classifier.optimizer(classifier.groups(model) if classifier.groups else classifier.parameters())
    if classifier.schedule:
        classifier.schedule(optimizer, STEPS)
    assert split_batch(chosen.recipe.batch_size, devices=1, at_once=data.batch_size).images <= data.batch_size
    one_vs_rest = model.spec.family == "bcos" or name.endswith("_shapes")
    assert type(classifier.loss).__name__ == ("OneVsRest" if one_vs_rest else "CrossEntropyLoss")
    classifier.clip(model.parameters())

    trainer = build_trainer(chosen.trainer, callbacks=given_callbacks(chosen), loggers=[build(chosen.logger)])
    assert any(type(c).__name__ == "EarlyStopping" for c in trainer.callbacks) == (group == "callbacks")
    assert trainer.max_epochs == chosen.recipe.epochs
    assert trainer.precision == ("bf16-mixed" if name == "gpus" else "32-true")
    assert len(trainer.loggers) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", IMAGENET)
def test_published_architectures_are_built_at_full_size(name):
    chosen = config(f"experiment={name}")
    with torch.device("meta"):
        model = build(chosen.model, num_classes=1000)
    assert model.spec == CARDS[Path(name).name].spec
    assert model.spec.image_size == 224


def test_every_published_architecture_has_its_recipe():
    assert sorted(Path(name).name for name in IMAGENET) == sorted(
        name for name in CARDS if name.endswith(("_14", "_224"))
    )
    assert len(IMAGENET) == 32


def test_many_gpus_compile_where_it_pays_unless_told_otherwise():
    assert [config(*words).speed.compile for words in ([], ["trainer=gpus"])] == [False, "auto"]
    assert config("speed.compile=false", "trainer=gpus").speed.compile is False
    assert config("trainer=gpus", f"experiment={IMAGENET[0]}", "debug=batch").speed.compile == "auto"


def test_many_gpus_are_asked_for_in_one_word():
    chosen = config("trainer=gpus").trainer
    assert (chosen.accelerator, chosen.devices, chosen.precision) == ("gpu", -1, "bf16-mixed")
    assert chosen.max_epochs == config().recipe.epochs


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("folder", 2), ("imagenet", 1000)])
def test_data_as_configured_gives_batches_that_the_model_takes(name, classes, split, photos, imagenet):
    chosen = config(f"data={name}", "data.num_workers=0", "data.batch_size=3")
    if name != "digits":
        chosen.data.root = str({"folder": photos, "imagenet": imagenet}[name])
    model, data = model_and_data(chosen, "val", adapt=True)
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    images, labels = next(iter(loader))
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.float32
    assert model(images).shape == (3, classes)
    if (name, split) == ("imagenet", "train"):  # is mixed
        assert labels.shape == (3, classes)
        assert labels.sum(1) == pytest.approx(1)
    else:
        assert labels.max() < model.spec.num_classes


def test_cifar10_composes_and_builds_without_disk_or_network(tmp_path, monkeypatch):
    def refused(*_, **__):
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    asked, original = [], cifar10._open

    def watched(*given):
        asked.append(given)
        return original(*given)

    monkeypatch.setattr(cifar10, "_open", watched)
    monkeypatch.chdir(tmp_path)
    chosen = config("data=cifar10", "image_size=32", f"output={tmp_path / 'run'}")
    data = build(chosen.data)
    assert (data.batch_size, data.num_workers) == (128, 2)
    photo = to_pil_image(torch.rand(3, 32, 32))
    assert data.train_transform(photo).shape == data.eval_transform(photo).shape == (3, 32, 32)
    assert files(tmp_path) == {}
    with pytest.raises(FileNotFoundError, match=r"from data, .*download it with data\.dataset\.download=true"):
        data.train_dataloader()
    assert asked == [("data", True, False)]  # the folder as configured, the training part, without fetching it
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recipe", "name", "loss", "optimizer", "clip"),
    [
        ([], "bcos_vit_digits", OneVsRest, torch.optim.Adam, {"clip_factor": 0.01, "eps": 1e-3}),
        (["recipe=bcos_finetune"], "bcos_vit_digits", OneVsRest, torch.optim.Adam, {"clip_factor": 0.01, "eps": 1e-3}),
        (
            ["recipe=standard_finetune"],
            *("standard_vit_digits", torch.nn.CrossEntropyLoss, torch.optim.AdamW, {"max_norm": 1.0}),
        ),
    ],
    ids=["default", "bcos", "standard"],
)
def test_finetuning_composes_and_builds_with_either_recipe(photos, recipe, name, loss, optimizer, clip):
    chosen = config(
        *("experiment=finetune", *recipe, f"model.name={name}", "data=folder", f"data.root={photos}"),
        "recipe.classifier.optimizer.lr=2e-3",
    )
    kept = plain(chosen)["recipe"]
    assert (kept["family"], kept["epochs"]) == (name.split("_")[0], 20)
    assert kept["classifier"]["groups"]["lr"] == 2e-3  # follows the optimiser's
    model, _ = model_and_data(chosen, "val", adapt=True)
    trained, state = create_model(name, pretrained=True).state_dict(), model.state_dict()
    assert {key for key in state if not torch.equal(state[key], trained[key])} == {
        key for key in state if key.startswith("head.classify.")
    }
    classifier = build(chosen.recipe.classifier)(model=model, recipe=kept)
    assert type(classifier.loss) is loss
    assert classifier.clip.keywords == clip
    learns = classifier.optimizer(classifier.groups(model))
    assert type(learns) is optimizer
    names = ("tokens", *(f"block_{number}" for number in range(4)), "head")
    rates = {group["name"]: group["lr"] for group in learns.param_groups}
    assert rates == pytest.approx({layer: 2e-3 * 0.75 ** (5 - number) for number, layer in enumerate(names)})
    classifier.schedule(learns, 100)  # the first tenth is the head's
    assert [group["lr"] > 0 for group in learns.param_groups] == [False] * 5 + [True]


def test_finetuning_of_one_family_is_not_done_with_the_recipe_of_the_other(photos, tmp_path):
    chosen = ("experiment=finetune", "data=folder", f"data.root={photos}", f"output={tmp_path / 'run'}")
    for recipe, name, given in (
        ([], "standard_vit_digits", "standard"),
        (["recipe=standard_finetune"], "bcos_vit_digits", "bcos"),
    ):
        with pytest.raises(ValueError, match=rf"{name} is of family {given}, .*: give recipe=.*{given}_finetune"):
            train(config(*chosen, *recipe, f"model.name={name}"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", METRICS)
def test_metrics_compose_and_build_through_evaluate_yaml(name, tmp_path):
    chosen = config(f"metrics=[{name}]", f"output={tmp_path}", name="evaluate")
    plain(chosen)
    makers = build(chosen.metrics)
    assert list(makers) == [name]
    assert isinstance(makers[name](create_model("bcos_vit_digits")), Group)


def test_trainer_of_evaluate_yaml_builds_and_writes_nothing(tmp_path):
    chosen = config(f"output={tmp_path / 'run'}", name="evaluate")
    assert list(chosen.metrics) == METRICS
    trainer = build(chosen.trainer)
    assert isinstance(trainer, Trainer)
    assert trainer.loggers == trainer.checkpoint_callbacks == []
    assert list(tmp_path.iterdir()) == []


def test_every_file_of_configs_is_built_here():
    built = {"/".join(choice) for choice in CHOICES if choice[0] in TRAINING or choice in EVALUATION}
    assert set(FILES) == built | {"train", "evaluate"}


@pytest.mark.parametrize("name", [f for f in FILES if f.startswith("recipe/") or f.count("/") == 2])
def test_recipe_opens_with_command_and_result(name):
    header = [line for line in (CONFIGS / f"{name}.yaml").read_text().splitlines() if line.startswith("#")]
    words = "\n".join(header)
    assert "Command " in words
    assert "Expected " in words
    assert "Time " in words
    if name.startswith("experiment/"):
        assert f" experiment={name.removeprefix('experiment/')} " in words


def test_build_raises_the_error_of_what_is_built():
    with pytest.raises(ValueError, match="split must be train, val or test, found 'dev'"):
        build(OmegaConf.create({"_target_": "bcos_vit.data.Digits", "split": "dev"}))

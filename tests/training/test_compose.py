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
from bcos_vit.metrics import Group
from bcos_vit.training import OneVsRest
from bcos_vit.training.run import train
from runs import CONFIGS, config, files, write_photos

TRAINING = ("data", "experiment", "logger", "model", "recipe")
GROUPS = {group: sorted(p.stem for p in (CONFIGS / group).glob("*.yaml")) for group in (*TRAINING, "metrics")}


@pytest.fixture
def photos(tmp_path):
    """A small data set for data=folder."""
    return write_photos(
        tmp_path / "photos", {f"{part}/{name}": 2 for part in ("train", "val", "test") for name in "ab"}
    )


@pytest.mark.parametrize(("group", "name"), [(group, name) for group in TRAINING for name in GROUPS[group]])
def test_choice_composes_and_builds(group, name, tmp_path, photos):
    chosen = config(f"{group}={name}", f"output={tmp_path / 'run'}", "image_size=8")
    if name == "folder":
        chosen.data.root = str(photos)
    if name == "cifar10":  # has its data set tested below, which is not at hand
        chosen.data.dataset, chosen.data.root = config().data.dataset, None
    plain(chosen)
    model, data = model_and_data(chosen, "val", adapt=True)
    classifier = build(chosen.recipe.classifier)(model=model, recipe={})
    trainer = build(chosen.trainer)(callbacks=[], logger=build(chosen.logger))
    assert len(data.class_names) == model.spec.num_classes
    assert trainer.max_epochs == chosen.recipe.epochs
    assert len(trainer.loggers) == 1
    assert classifier.model is model
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("name", ["digits", "folder"])
def test_data_as_configured_gives_batches_that_the_model_takes(name, split, photos):
    chosen = config(f"data={name}", "data.num_workers=0", "data.batch_size=3")
    if name == "folder":
        chosen.data.root = str(photos)
    model, data = model_and_data(chosen, "val", adapt=True)
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    images, labels = next(iter(loader))
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.float32
    assert model(images).shape == (3, 2 if name == "folder" else 10)
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


@pytest.mark.parametrize("name", GROUPS["metrics"])
def test_metrics_compose_and_build_through_evaluate_yaml(name, tmp_path):
    chosen = config(f"metrics=[{name}]", f"output={tmp_path}", name="evaluate")
    plain(chosen)
    makers = build(chosen.metrics)
    assert list(makers) == [name]
    assert isinstance(makers[name](create_model("bcos_vit_digits")), Group)


def test_trainer_of_evaluate_yaml_builds_and_writes_nothing(tmp_path):
    chosen = config(f"output={tmp_path / 'run'}", name="evaluate")
    assert list(chosen.metrics) == GROUPS["metrics"]
    trainer = build(chosen.trainer)
    assert isinstance(trainer, Trainer)
    assert trainer.loggers == trainer.checkpoint_callbacks == []
    assert list(tmp_path.iterdir()) == []


def test_every_file_of_configs_is_built_here():
    found = {str(p.relative_to(CONFIGS).with_suffix("")) for p in CONFIGS.rglob("*.yaml")}
    built = {f"{group}/{name}" for group, names in GROUPS.items() for name in names}
    assert found == built | {"train", "evaluate", "trainer/default", "trainer/evaluation"}


@pytest.mark.parametrize("path", sorted((CONFIGS / "recipe").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipe_opens_with_command_and_result(path: Path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    words = "\n".join(header)
    assert "Command " in words
    assert "Expected " in words
    assert "Time " in words


def test_build_raises_the_error_of_what_is_built():
    with pytest.raises(ValueError, match="split must be train, val or test, found 'dev'"):
        build(OmegaConf.create({"_target_": "bcos_vit.data.Digits", "split": "dev"}))

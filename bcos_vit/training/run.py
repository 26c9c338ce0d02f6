"""One training run: build, fit, keep the best, read the test part once, and show what was learnt."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import lightning
import torch
from lightning import Trainer
from omegaconf import DictConfig, OmegaConf

from bcos_vit.atomic import replacing
from bcos_vit.checks import reject_unknown
from bcos_vit.config import build, plain
from bcos_vit.data import DataModule
from bcos_vit.evaluation import Report, evaluate
from bcos_vit.models import ViT, save_model
from bcos_vit.training.callbacks import BestCheckpoint
from bcos_vit.training.classifier import Classifier

CONFIG_KEYS = ("data", "debug", "logger", "model", "output", "recipe", "seed", "threads", "trainer")
RECIPE_KEYS = ("classifier", "epochs")


def train(config: DictConfig) -> Report | None:
    """Train as ``config`` says (see ``configs/train.yaml``); everything is written below ``config.output``.

    Returns
    -------
    Report
        On the test part, read once with the best weights by validation. None on all but the first process.

    Raises
    ------
    OSError
        If the output folder cannot be written to, before anything is built.
    TypeError
        For an unknown key in ``config``, with the nearest one.
    ValueError
        If the output folder holds something, or model and data do not fit each other.
    """
    recipe = plain(config)
    reject_unknown("config key", recipe, CONFIG_KEYS)  # what "+key=value" adds would be ignored in silence
    reject_unknown("recipe key", recipe["recipe"], RECIPE_KEYS)
    output = Path(recipe["output"])
    best = BestCheckpoint(output / "checkpoints")
    trainer: Trainer = build(config.trainer)(callbacks=[best], logger=build(config.logger))
    if trainer.is_global_zero:
        _make_new(output)
    lightning.seed_everything(recipe["seed"], workers=True, verbose=False)
    if recipe["threads"] is not None:
        torch.set_num_threads(recipe["threads"])
    data: DataModule = build(config.data)
    model: ViT = build(config.model)
    if len(data.class_names) != model.spec.num_classes:
        raise ValueError(f"the data has {len(data.class_names)} classes, but the model {model.spec.num_classes} logits")
    model.class_names = data.class_names
    model.train()
    classifier: Classifier = build(config.recipe.classifier)(model=model, recipe=recipe)
    if trainer.is_global_zero:
        with replacing(output / "config.yaml") as temporary:
            temporary.write_text(OmegaConf.to_yaml(config, resolve=True))
    try:
        trainer.fit(classifier, data)
    except Exception:
        if trainer.is_global_zero and trainer.global_step == 0:
            shutil.rmtree(output)  # was made above, and holds no training yet
        raise
    if not trainer.is_global_zero:
        return None
    if best.best_model_path:
        classifier.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    else:
        print("no validation has run: the weights of the last step are evaluated")
    model.to(trainer.strategy.root_device)
    report = evaluate(model, data.test_dataloader())
    _write(report, model, recipe, output)
    return report


def _make_new(folder: Path) -> None:
    """Make the output folder and see that it is new and can be written to, before hours are spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"cannot write to output folder {folder}: {error.strerror or error}") from error
    if occupied := next(folder.iterdir(), None):
        raise FileExistsError(f"output folder {folder} already holds {occupied.name}: give an empty or a new one")


def _write(report: Report, model: ViT, recipe: dict[str, object], output: Path) -> None:
    weights, gallery = output / "model.safetensors", output / "gallery.png"
    save_model(model, weights, about={"recipe": recipe, "results": report.numbers()})
    with replacing(output / "report.json") as temporary:
        temporary.write_text(json.dumps(report.numbers(), indent=2) + "\n")
    drawn = report.draw_gallery(gallery)
    print("\n".join(["", *report.table()]))
    print(f"weights: {weights}")
    print(f"gallery: {gallery}" if drawn else "gallery: none, a conventional model has no linear map to show")
    print("\n".join(report.lines()), flush=True)

"""One training run: build, fit, keep the best, evaluate it on the test part once, and show what was learnt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from bcos_vit.atomic import write_whole
from bcos_vit.config import build, plain
from bcos_vit.data import DataModule
from bcos_vit.evaluation import Report, evaluate
from bcos_vit.evaluation.report import as_json
from bcos_vit.evaluation.setting import model_and_data, own_folder, seed_and_threads
from bcos_vit.extras import versions
from bcos_vit.metrics import Accuracy, Completeness
from bcos_vit.models import ViT, save_model
from bcos_vit.models.vit import derived
from bcos_vit.models.weights import read_checkpoint
from bcos_vit.training.batches import split_batch
from bcos_vit.training.callbacks import BestCheckpoint, Explanations, Skipped, Throughput
from bcos_vit.training.classifier import Classifier
from bcos_vit.training.resume import check_resumable
from bcos_vit.training.speed import speed_up
from bcos_vit.training.wrong_use import check_config


def train(config: DictConfig, *, command: str | None = None) -> Report | None:
    """Train as ``config`` says (see ``configs/train.yaml``); everything is written below ``config.output``.

    Parameters
    ----------
    config
        Completed on the way: an ``image_size`` of None becomes the model's.
    command
        The command that started it, for the card.

    Returns
    -------
    Report
        On the test part, evaluated once with the best weights by validation. None on all but the first process.

    Raises
    ------
    OSError
        If the output folder cannot be written to, or the checkpoint to resume is missing, before anything is built.
    TypeError
        For an unknown key in ``config``, with the nearest one.
    ValueError
        For an impossible value, if the output folder holds something, or if model and data, or the checkpoint to
        resume, do not fit each other.
    """
    check_config(config)
    output = Path(config.output)
    best = BestCheckpoint(output / "checkpoints", resumed=config.resume)
    trainer: Trainer = build(config.trainer)(callbacks=_callbacks(config, best), logger=build(config.logger))
    seed_and_threads(config.seed, config.threads)
    with own_folder(output, trainer):
        model, data = model_and_data(config, "val", adapt=True)
        family, other = model.spec.family, config.recipe.get("family", model.spec.family)
        if family != other:
            raise ValueError(
                f"{config.model.name} is of family {family}, the recipe for {other}: give recipe={family}_digits, "
                f"{family}_finetune for trained weights, or {family}_imagenet"
            )
        shared = split_batch(config.recipe.batch_size, devices=trainer.world_size, at_once=data.batch_size)
        data.train_batch_size, trainer.accumulate_grad_batches = shared.images, shared.micro_batches
        if trainer.is_global_zero:
            print(shared, flush=True)
        recipe = plain(config)
        model.train()
        classifier: Classifier = build(config.recipe.classifier)(model=model, recipe=recipe)
        speed_up(classifier, **(config.speed or {}))
        if config.resume is not None:
            epochs = check_resumable(Path(config.resume), classifier)
            trainer.precision_plugin.convert_module(classifier)  # Lightning would, after it has read the weights
            # Else the order and the augmentation of the first epochs would come again.
            seed_and_threads((config.seed + epochs) % 2**32, config.threads)
        if trainer.global_rank:  # else all processes would draw the same crops and mixing ratios
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        if trainer.is_global_zero:
            write_whole(output / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        with _own_wandb_run(trainer):
            trainer.fit(classifier, data, ckpt_path=config.resume, weights_only=True)
    if best.best_model_path:
        classifier.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])
    elif trainer.is_global_zero:
        print("no validation has run: the weights of the last step are evaluated")
    report = evaluate(model, data, {"accuracy": Accuracy, "completeness": Completeness}, trainer=trainer)
    if not trainer.is_global_zero:
        return None
    _write(report, model, data, recipe, command, output)
    return report


def _callbacks(config: DictConfig, best: BestCheckpoint) -> list[Callback]:
    callbacks: list[Callback] = [LearningRateMonitor("step"), Throughput()]
    if config.explanations is not None and config.explanations.every is not None:
        callbacks.append(Explanations(Path(config.output) / "explanations", **config.explanations))
    if config.data.get("corrupt") == "skip":
        callbacks.append(Skipped(Path(config.output) / "skipped.txt"))
    if config.ema is not None:
        # After the explanations: validation swaps the averaged weights in and out, and these are to be explained.
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    return [*callbacks, best]


@contextmanager
def _own_wandb_run(trainer: Trainer) -> Iterator[None]:
    """End the run of Weights & Biases, if there is one: the next training of a multirun would become a part of it."""
    status = 1
    try:
        yield
        status = 0
    finally:
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            import wandb

            wandb.finish(status)


def _write(
    report: Report, model: ViT, data: DataModule, recipe: dict[str, Any], command: str | None, output: Path
) -> None:
    weights, gallery = output / "model.safetensors", output / "gallery.png"
    origin = derived(model.about)
    save_model(model, weights, about=origin | {"recipe": recipe, "results": report.numbers()})
    card = {
        "command": command,
        "seed": recipe["seed"],
        "results": report.numbers(),
        "versions": versions(),
        "data": recipe["data"]["dataset"]["_target_"],
        "data_licence": data.part("test").licence,
        **({"derived_from": origin} if origin else {}),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    write_whole(output / "card.json", as_json(card))
    write_whole(output / "report.json", as_json(report.numbers()))
    drawn = report.draw_gallery(gallery)
    print("\n".join(["", *report.table()]))
    print(f"weights: {weights}")
    print(f"gallery: {gallery}" if drawn else "gallery: none, a conventional model has no linear map to show")
    print("\n".join(report.lines()), flush=True)

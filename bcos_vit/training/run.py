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
from bcos_vit.evaluation.folder import WEIGHTS, as_value, claimed_folder, own_folder
from bcos_vit.evaluation.report import as_json
from bcos_vit.evaluation.setting import model_and_data, seed_and_threads
from bcos_vit.evaluation.side_effects import side_effect
from bcos_vit.evaluation.trainer import build_trainer, given_callbacks
from bcos_vit.extras import versions
from bcos_vit.metrics import Accuracy, Completeness, Lattice
from bcos_vit.models import ViT, save_model
from bcos_vit.models.about import trained
from bcos_vit.models.weights import read_checkpoint
from bcos_vit.paths import user_path
from bcos_vit.training.batches import split_batch
from bcos_vit.training.callbacks import BestCheckpoint, Explanations, Skipped, Throughput, tolerant
from bcos_vit.training.classifier import Classifier
from bcos_vit.training.compilation import Compilation, require_compiler
from bcos_vit.training.ending import saying_what_is_kept
from bcos_vit.training.losses import warn_of_loss
from bcos_vit.training.resume import check_resumable, put_aside
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
        On the test part, evaluated once with the best weights by validation; where the data has no test part, on the
        validation part. None on all but the first process.

    Raises
    ------
    OSError
        If the output folder cannot be written to, holds something, or is another process's, before anything is built;
        if the checkpoint to resume is missing; if a part of the data is missing or holds an image that cannot be read,
        before the first step.
    SystemExit
        With status 130 after Ctrl-C and 143 after SIGTERM, which say on stderr what is kept.
    TypeError
        For an unknown key in ``config``, with the nearest one, and for a callback or logger that is none.
    ValueError
        For an impossible value, or if model and data, or the checkpoint to resume, do not fit each other.
    """
    check_config(config)
    if config.resume is not None:
        config.resume = as_value(user_path(config.resume))
    with claimed_folder(config, "runs", resume=config.resume) as output:
        return _train(config, command, output)


def _train(config: DictConfig, command: str | None, output: Path) -> Report | None:
    best = BestCheckpoint(output / "checkpoints", resumed=config.resume)
    trainer = build_trainer(config.trainer, callbacks=_callbacks(config, best), loggers=[build(config.logger)])
    for logger in trainer.loggers:
        tolerant(logger)
    if _compile(config) is True:
        require_compiler(trainer.strategy.root_device.type)
    seed_and_threads(config.seed, config.threads)
    with own_folder(output, trainer):
        model, data = model_and_data(config, "val", adapt=True)
        if trainer.local_rank == 0:  # on every machine
            data.check_parts(("train", "val", *(["test"] if data.has_test else [])))
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
            if (images := data.images_to_learn_from) < config.recipe.batch_size:
                print(f"note: there are {images:,} images to learn from, and a step takes all of them", flush=True)
        recipe = plain(config)
        model.train()
        classifier: Classifier = build(config.recipe.classifier)(model=model, recipe=recipe)
        if trainer.is_global_zero:
            warn_of_loss(classifier.loss, model.spec)
        speed_up(classifier, **(config.speed or {}))
        if config.resume is not None:
            epochs = check_resumable(Path(config.resume), classifier)
            trainer.precision_plugin.convert_module(classifier)  # Lightning would, after it has read the weights
            # Else the order and the augmentation of the first epochs would come again.
            seed_and_threads((config.seed + epochs) % 2**32, config.threads)
        if trainer.global_rank:  # else all processes would draw the same crops and mixing ratios
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        if trainer.is_global_zero:
            if config.resume is not None:
                put_aside(output, Path(config.resume))
            write_whole(output / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
        with saying_what_is_kept(output, command, trainer):
            with _own_wandb_run(trainer):
                trainer.fit(classifier, data, ckpt_path=config.resume, weights_only=True)
            return _finish(best, classifier, data, trainer, command, output)


def _finish(
    best: BestCheckpoint, classifier: Classifier, data: DataModule, trainer: Trainer, command: str | None, output: Path
) -> Report | None:
    """Keep the best weights, before anything else can fail, then measure what they can do."""
    if best.best_model_path:
        classifier.load_state_dict(read_checkpoint(Path(best.best_model_path))["state_dict"])
    elif trainer.is_global_zero:
        print("no validation has run: the weights of the last step are evaluated")
    model, first, split = classifier.model, trainer.is_global_zero, "test" if data.has_test else "val"
    model.about = about = trained(model.about) | {"recipe": classifier.hparams["recipe"]}
    if first:
        save_model(model, output / WEIGHTS)
    metrics = {"accuracy": Accuracy, "completeness": Completeness, "lattice": Lattice}
    report = evaluate(model, data, metrics, trainer=trainer, split=split)
    if first:
        _write(report, model, data, about, command, output)
    return report if first else None


def _callbacks(config: DictConfig, best: BestCheckpoint) -> list[Callback]:
    """Ours and the user's, whose order is that of their calls; Lightning moves checkpoints to the end."""
    callbacks: list[Callback] = [LearningRateMonitor("step"), Throughput()]
    if chosen := _compile(config):
        callbacks.append(Compilation(chosen))
    if config.explanations is not None and config.explanations.every is not None:
        callbacks.append(Explanations(Path(config.output) / "explanations", **config.explanations))
    if config.data.get("corrupt") == "skip":
        callbacks.append(Skipped(Path(config.output) / "skipped.txt"))
    callbacks += given_callbacks(config)
    if config.ema is not None:
        # After all others: validation swaps the averaged weights in and out, and these are to be explained.
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    return [*callbacks, best]


def _compile(config: DictConfig) -> Any:
    """``speed.compile``: True, False or "auto"."""
    return (config.speed or {}).get("compile", False)


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

            with side_effect("the end of the run of Weights & Biases"):
                wandb.finish(status)


def _write(
    report: Report, model: ViT, data: DataModule, about: dict[str, Any], command: str | None, output: Path
) -> None:
    """Add the results to the weights file; write card, report and gallery; print what was found."""
    weights, recipe, tested = output / WEIGHTS, about["recipe"], data.has_test
    origin = {name: value for name, value in about.items() if name != "recipe"}
    found = {"results": report.numbers()} if tested else {"results": None, "validation": report.numbers()}
    if tested:
        save_model(model, weights, about=about | found)
    card = {
        "command": command,
        "seed": recipe["seed"],
        **found,
        "versions": versions(),
        "data": recipe["data"]["dataset"]["_target_"],
        "data_licence": data.part(report.split).licence,
        **({"derived_from": origin} if origin else {}),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    write_whole(output / "card.json", as_json(card))
    write_whole(output / "report.json", as_json(report.numbers() if tested else {"split": "val"} | report.numbers()))
    gallery = report.gallery_line(output / "gallery.png")
    print("\n".join(["", *report.table()]))
    print(f"weights: {weights}")
    print(gallery)
    if not tested:
        print("note: nothing was tested; these are figures of the validation part, by which the weights were chosen")
    print("\n".join(report.lines()), flush=True)

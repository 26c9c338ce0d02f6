"""One evaluation from configuration to files: what ``evaluate.py`` runs."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from bcos_vit.atomic import write_whole
from bcos_vit.checks import reject_unknown
from bcos_vit.config import build, plain
from bcos_vit.evaluation.folder import claimed_folder, own_folder
from bcos_vit.evaluation.report import Report, as_json
from bcos_vit.evaluation.run import evaluate
from bcos_vit.evaluation.setting import is_trained, model_and_data, seed_and_threads
from bcos_vit.evaluation.trainer import build_trainer, given_callbacks

CONFIG_KEYS = (
    *("data", "image_size", "metrics", "model", "output", "seed", "split", "threads", "traceback", "trainer"),
)


def evaluate_as(config: DictConfig) -> Report | None:
    """Evaluate as ``config`` says (see ``configs/evaluate.yaml``); everything is written below ``config.output``.

    Returns
    -------
    Report
        None on all but the first process.

    Raises
    ------
    OSError
        If the output folder cannot be written to, holds something, or is another process's, before anything is built.
    TypeError
        For an unknown key in ``config``, with the nearest one.
    ValueError
        If model and data do not fit each other.
    """
    reject_unknown("config key", map(str, config), CONFIG_KEYS)
    with claimed_folder(config, "runs/evaluations") as output:
        return _evaluate_as(config, output)


def _evaluate_as(config: DictConfig, output: Path) -> Report | None:
    trainer = build_trainer(config.trainer, callbacks=given_callbacks(config))
    seed_and_threads(config.seed, config.threads)
    with own_folder(output, trainer):
        model, data = model_and_data(config, config.split, adapt=False)
        report = evaluate(model, data, build(config.metrics), trainer=trainer, split=config.split)
    if not trainer.is_global_zero:
        return None
    trained = is_trained(config)
    described = {"model": config.model.name, "pretrained": trained, "data": config.data.dataset._target_}
    described |= {"split": config.split, "seed": config.seed}
    write_whole(output / "report.json", as_json(described | report.numbers()))
    write_whole(output / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(plain(config))))
    gallery = report.gallery_line(output / "gallery.png")
    print("\n".join(["", *report.table()]))
    print(f"report: {output / 'report.json'}")
    print(gallery)
    if not trained:
        print(f"note: random weights, seed {config.seed}")
    if report.not_fine_tuned:
        print(f"note: {report.not_fine_tuned}")
    return report

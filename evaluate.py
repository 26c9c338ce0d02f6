"""Evaluate a model: ``python evaluate.py``, or ``python evaluate.py model.name=runs/mine/model.safetensors``.

Every choice is a word of ``configs/``; ``python evaluate.py --help`` lists them, ``--cfg job`` shows the result.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from bcos_vit.config import run_command, sentences


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
def main(config: DictConfig) -> dict[str, dict[str, float]]:
    """Evaluate, and return the figures."""
    with sentences(config.traceback):
        from bcos_vit.evaluation.command import evaluate_as  # here, so that --help is quick

        report = evaluate_as(config)
    return {} if report is None else report.figures


if __name__ == "__main__":
    run_command(main, Path(__file__).parent / "configs", "evaluate")

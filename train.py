"""Train a model and explain what it learnt: ``python train.py``, or ``python train.py model=standard_vit_digits``.

Every choice is a word of ``configs/``; ``python train.py --help`` lists them, ``--cfg job`` shows the result.
"""

import shlex
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from bcos_vit.config import run_command, sentences


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> float:
    """Train, and return the accuracy on the test part, or on the validation part where the data has none."""
    with sentences(config.traceback):
        from bcos_vit.training.run import train  # here, so that --help is quick

        chosen = HydraConfig.get().overrides.task  # of this one, where several are trained by one command
        report = train(config, command=shlex.join(["python", "train.py", *chosen]))
    return 0.0 if report is None else report.figures["accuracy"]["top1"]


if __name__ == "__main__":
    run_command(main, Path(__file__).parent / "configs", "train")

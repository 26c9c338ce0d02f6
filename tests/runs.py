"""Short training runs for tests."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

CONFIGS = Path(__file__).parents[1] / "configs"
# Large enough to go through every part of a run, small enough to take seconds.
SHORT = ("recipe.epochs=2", "recipe.classifier.schedule.warmup_steps=3", "+trainer.limit_train_batches=4")


def config(*overrides: str) -> DictConfig:
    """configs/train.yaml with overrides."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", list(overrides))

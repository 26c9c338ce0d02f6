"""Train a model and explain what it learnt: ``python train.py``, or ``python train.py model=standard_vit_digits``.

Every choice is a word of ``configs/``; ``python train.py --help`` lists them, ``--cfg job`` shows the result.
"""

import sys
import warnings

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> float:
    """Train, and return the accuracy on the test part."""
    # Lightning 2.6 calls what torch 2.15 has deprecated
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # here, so that --help is quick

    from bcos_vit.training.run import train

    try:
        report = train(config)
    except (OSError, ValueError, TypeError, MisconfigurationException) as error:
        if config.debug:
            raise
        sys.exit(f"error: {error}")
    return 0.0 if report is None else report.accuracy


if __name__ == "__main__":
    main()

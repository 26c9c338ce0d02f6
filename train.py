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
    from bcos_vit.training.run import train  # here, so that --help answers at once

    try:
        report = train(config)
    except (OSError, ValueError, TypeError) as error:
        if config.debug:
            raise
        sys.exit(f"error: {error}")
    return 0.0 if report is None else report.accuracy


if __name__ == "__main__":
    main()

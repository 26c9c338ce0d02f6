"""Training: losses, schedules, fine-tuning, the Lightning module, and the run from configuration to report."""

from bcos_vit.extras import needs

with needs("train"):
    from bcos_vit.training.classifier import Classifier
from bcos_vit.training.finetuning import head_first, layer_decay
from bcos_vit.training.losses import OneVsRest
from bcos_vit.training.schedule import warmup_cosine

__all__ = ["Classifier", "OneVsRest", "head_first", "layer_decay", "warmup_cosine"]

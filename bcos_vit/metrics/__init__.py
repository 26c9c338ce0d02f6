"""What an evaluation measures: groups of metrics, each chosen by name in ``configs/metrics/``."""

from bcos_vit.extras import needs

with needs("train"):
    from bcos_vit.metrics.accuracy import Accuracy
    from bcos_vit.metrics.completeness import Completeness, percent
    from bcos_vit.metrics.group import Batch, Group
    from bcos_vit.metrics.speed import Speed

__all__ = ["Accuracy", "Batch", "Completeness", "Group", "Speed", "percent"]

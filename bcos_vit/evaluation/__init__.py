"""Evaluation: a model, a data set and groups of metrics in, a report out."""

from bcos_vit.extras import needs

with needs("train"):
    from bcos_vit.evaluation.report import Report
    from bcos_vit.evaluation.run import evaluate

__all__ = ["Report", "evaluate"]

"""Evaluation: what a model gets right, and how exactly it explains it."""

from bcos_vit.extras import needs

with needs("train"):
    from bcos_vit.evaluation.report import Ledgers, Report
    from bcos_vit.evaluation.run import evaluate

__all__ = ["Ledgers", "Report", "evaluate"]

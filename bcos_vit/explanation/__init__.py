"""Explanations: collapse a model to its linear map, read off rows, and keep the ledger. Never imports models."""

from bcos_vit.explanation.checking import LedgerError
from bcos_vit.explanation.compiled import compile_explainer
from bcos_vit.explanation.inherent import explain
from bcos_vit.explanation.linear_map import LinearMap, collapse
from bcos_vit.explanation.result import Explanation
from bcos_vit.explanation.stages import Anatomy, anatomy
from bcos_vit.explanation.targets import Combination, Contrast, TopK, Unit

__all__ = [
    "Anatomy",
    "Combination",
    "Contrast",
    "Explanation",
    "LedgerError",
    "LinearMap",
    "TopK",
    "Unit",
    "anatomy",
    "collapse",
    "compile_explainer",
    "explain",
]

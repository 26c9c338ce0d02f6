"""Explanations: collapse a model to its linear map, read off rows, and keep the ledger. Never imports models."""

from bcos_vit.explanation.inherent import explain
from bcos_vit.explanation.linear_map import LinearMap, collapse
from bcos_vit.explanation.result import Explanation, LedgerError
from bcos_vit.explanation.targets import Contrast, TopK

__all__ = ["Contrast", "Explanation", "LedgerError", "LinearMap", "TopK", "collapse", "explain"]

"""Vision Transformers whose every prediction comes with the exact linear map that produced it."""

from bcos_vit import export as export
from bcos_vit.explanation import (
    Anatomy,
    Combination,
    Contrast,
    Explanation,
    LedgerError,
    LinearMap,
    TopK,
    Unit,
    anatomy,
    collapse,
    explain,
)
from bcos_vit.layers import frozen
from bcos_vit.models import Prediction, ViT, ViTSpec, create_model, list_models, predict, save_model

__version__ = "0.1.0"


__all__ = [
    "Anatomy",
    "Combination",
    "Contrast",
    "Explanation",
    "LedgerError",
    "LinearMap",
    "Prediction",
    "TopK",
    "Unit",
    "ViT",
    "ViTSpec",
    "__version__",
    "anatomy",
    "collapse",
    "create_model",
    "explain",
    "frozen",
    "list_models",
    "predict",
    "save_model",
]

"""Vision Transformers whose every prediction comes with the exact linear map that produced it."""

from bcos_vit.explanation import Contrast, Explanation, LedgerError, LinearMap, TopK, collapse, explain
from bcos_vit.layers import frozen
from bcos_vit.models import Prediction, ViT, ViTSpec, create_model, list_models, predict, save_model

__version__ = "0.1.0"

__all__ = [
    "Contrast",
    "Explanation",
    "LedgerError",
    "LinearMap",
    "Prediction",
    "TopK",
    "ViT",
    "ViTSpec",
    "__version__",
    "collapse",
    "create_model",
    "explain",
    "frozen",
    "list_models",
    "predict",
    "save_model",
]

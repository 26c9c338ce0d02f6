"""Models: what one is (spec), the model itself (vit), the named ones (zoo) and their files (weights)."""

from bcos_vit.models.prediction import Prediction, predict
from bcos_vit.models.spec import ViTSpec
from bcos_vit.models.vit import ViT
from bcos_vit.models.weights import save_model
from bcos_vit.models.zoo import create_model, list_models

__all__ = ["Prediction", "ViT", "ViTSpec", "create_model", "list_models", "predict", "save_model"]

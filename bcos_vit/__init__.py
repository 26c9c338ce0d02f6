"""Vision Transformers whose every prediction comes with the exact linear map that produced it.

Nothing is loaded before it is asked for: ``import bcos_vit`` takes no time, the first use of a model loads torch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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
    "compile_explainer",
    "create_model",
    "explain",
    "frozen",
    "list_models",
    "predict",
    "read_photo",
    "save_model",
]

if TYPE_CHECKING:  # for editors and type checkers; what runs is below
    from bcos_vit import explanation as explanation
    from bcos_vit import export as export
    from bcos_vit import layers as layers
    from bcos_vit import models as models
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
        compile_explainer,
        explain,
    )
    from bcos_vit.layers import frozen
    from bcos_vit.models import Prediction, ViT, ViTSpec, create_model, list_models, predict, save_model
    from bcos_vit.photos import read_photo
else:
    _HOMES = {
        "explanation": "Anatomy Combination Contrast Explanation LedgerError LinearMap TopK Unit "
        "anatomy collapse compile_explainer explain",
        "layers": "frozen",
        "models": "Prediction ViT ViTSpec create_model list_models predict save_model",
        "photos": "read_photo",
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
    """Public names, and the modules that hold them."""

    def __getattr__(name: str) -> Any:
        """Load a public name, or a module of this package, when it is first asked for."""
        if name in _HOME:
            found = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        elif not name.startswith("_") and name.isidentifier() and find_spec(f"{__name__}.{name}"):
            found = import_module(f"{__name__}.{name}")
        else:
            hint = "" if name.startswith("_") else import_module(f"{__name__}.checks").nearest(name, __all__)
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "explanation", "export", "layers", "models"})

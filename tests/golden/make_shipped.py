"""Golden outputs of the shipped models: ``python tests/golden/make_shipped.py``, after ``make checkpoints`` only.

Logits of the first test digits by both, and contributions by the B-cos model, in float64.
"""

from pathlib import Path

import numpy as np

from bcos_vit import create_model, explain
from bcos_vit.data import Digits

FILE = Path(__file__).with_name("shipped.npz")
COUNT = 16


def outputs() -> dict[str, np.ndarray]:
    images = Digits("test").images[:COUNT].double()
    bcos, twin = (create_model(name, pretrained=True).double() for name in ("bcos_vit_digits", "standard_vit_digits"))
    explanation = explain(bcos, images)
    return {
        "bcos_logits": bcos(images).detach().numpy(),
        "contributions": explanation.contributions.numpy(),
        "rows": explanation.weights.numpy(),
        "standard_logits": twin(images).detach().numpy(),
    }


if __name__ == "__main__":
    np.savez_compressed(FILE, **outputs())

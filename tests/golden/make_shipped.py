"""Golden outputs of the shipped models: ``python tests/golden/make_shipped.py``, after ``make checkpoints`` only.

For the first test images of each data set, which are kept, too: logits of both models, and contributions and rows of
the B-cos model, in float64.
"""

from pathlib import Path

import numpy as np
import torch

from bcos_vit import create_model, explain
from bcos_vit.data import Digits, Shapes

FILE = Path(__file__).with_name("shipped.npz")
COUNTS = {"digits": 16, "shapes": 4}


def images_of(data: str) -> torch.Tensor:
    """(N, 3, H, W) in float32."""
    part = {"digits": Digits, "shapes": Shapes}[data]("test")
    return torch.stack([part[index][0] for index in range(COUNTS[data])])


def outputs(data: str, images: torch.Tensor) -> dict[str, np.ndarray]:
    images = images.double()
    bcos, twin = (create_model(f"{family}_vit_{data}", pretrained=True).double() for family in ("bcos", "standard"))
    explanation = explain(bcos, images)
    return {
        f"{data}_bcos_logits": bcos(images).detach().numpy(),
        f"{data}_contributions": explanation.contributions.numpy(),
        f"{data}_rows": explanation.weights.numpy(),
        f"{data}_standard_logits": twin(images).detach().numpy(),
    }


if __name__ == "__main__":
    made: dict[str, np.ndarray] = {}
    for name in COUNTS:
        given = images_of(name)
        made |= {f"{name}_images": given.numpy()} | outputs(name, given)
    np.savez_compressed(FILE, **made)

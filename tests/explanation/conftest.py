"""A toy model of the zoo and images for it, which most tests of explanations take."""

from __future__ import annotations

import pytest
from torch import Tensor

from bcos_vit.models.vit import ViT
from toys import NAME, images_for, toy


@pytest.fixture
def model() -> ViT:
    return toy(NAME)


@pytest.fixture
def images(model: ViT) -> Tensor:
    return images_for(model)

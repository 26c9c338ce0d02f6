"""torch.compile predicts and explains: the same results from the model and from its program."""

from collections.abc import Iterator

import pytest
import torch

from bcos_vit import explain
from toys import deviation, images_for


@pytest.fixture(autouse=True)
def _no_compiled_code() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled(digits, backend):
    images = images_for(digits.model, 3)
    e = explain(digits.model, images)
    compiled = torch.compile(digits.program.module(), backend=backend)
    with torch.no_grad():
        logits, target, contributions, position, bias, residual = compiled(images)
        predicted = torch.compile(digits.model, backend=backend)(images)
    assert deviation(predicted, logits) <= 1e-5
    assert torch.equal(target, e.target)
    assert deviation(contributions, e.contributions) <= 1e-5
    assert deviation(bias, e.constants["bias"]) <= 1e-5
    assert max(t.abs().max() for t in (position, residual)) <= 1e-5

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from devices import DEVICE, MISSING

# Before the first product: torch looks once in a process whether cuBLAS is deterministic, as trainings ask it to be.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if MISSING:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(autouse=True)
def _this_device_alone() -> Iterator[None]:
    torch._dynamo.reset()
    if DEVICE.type == "cuda":
        with torch.cuda.device(DEVICE):
            yield
        torch.cuda.synchronize(DEVICE)  # an error of a kernel belongs to the test that started it
    else:
        yield

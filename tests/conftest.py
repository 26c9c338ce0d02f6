import os

import pytest
import torch

collect_ignore_glob = ["*conftest.py"]  # several of one name, which the search for doctests would mix up


def pytest_configure() -> None:
    # The tensors of the tests are small: more threads wait for each other, above all where several processes run.
    torch.set_num_threads(1)
    os.environ["BCOS_VIT_OFFLINE"] = "1"  # tests of downloads say otherwise, and ask this machine alone


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_compiled_code():
    """Compiled code is kept by what was compiled, not by model: that of another test would be used again."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()

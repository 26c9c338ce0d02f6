"""Models in forked processes: torch's threads do not survive a fork, and nothing waits for them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import bcos_vit
import forks
from toys import images_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [*forks.VERBS, *forks.OTHERS])
def test_in_forks(name: str) -> None:
    """Of a process that has computed with a model on two threads."""
    subprocess.run([sys.executable, forks.__file__, name], check=True, timeout=300)


def test_a_process_that_was_not_forked_explains() -> None:
    """The way to more threads: it starts anew, and gets the model by pickling."""
    model = bcos_vit.create_model("bcos_vit_digits", pretrained=True)
    images = images_for(model, 16)
    with torch.multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(bcos_vit.explain, (model, images))
    torch.testing.assert_close(found.contributions, bcos_vit.explain(model, images).contributions)

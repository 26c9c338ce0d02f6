"""Data parallelism on as many GPUs as there are (on the CPU: two processes) learns what one process learns."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from bcos_vit import explain
from bcos_vit.layers.precision import ieee_float32
from devices import DEVICE, IS_CUDA, exact, images_like, off

WORLD = torch.cuda.device_count() if IS_CUDA else 2
PER_PROCESS = 2


def gradients(rank: int, folder: str) -> None:
    """Learn one step's gradients in one process of :data:`WORLD`, and keep them."""
    device = torch.device("cuda", rank) if IS_CUDA else DEVICE
    if IS_CUDA:
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    where = f"file://{folder}/meeting"
    dist.init_process_group("nccl" if IS_CUDA else "gloo", init_method=where, rank=rank, world_size=WORLD)
    try:
        model = exact("stem").float().to(device).train()
        model = DistributedDataParallel(model, device_ids=[device] if IS_CUDA else None)
        with ieee_float32():
            model(share(images_like(model.module, PER_PROCESS * WORLD), rank)).square().sum(1).mean().backward()
        found = {name: p.grad.cpu() for name, p in model.module.named_parameters()}
        e = explain(model.eval(), share(images_like(model.module, PER_PROCESS * WORLD), rank), 3).check()
        torch.save((found, e.contributions.cpu()), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def share(images: Tensor, rank: int) -> Tensor:
    return images[PER_PROCESS * rank :][:PER_PROCESS]


def test_gradients_and_explanations(tmp_path: Path) -> None:
    spawn(gradients, (str(tmp_path),), nprocs=WORLD)
    model = exact("stem").train()
    images = images_like(model, PER_PROCESS * WORLD)
    model(images).square().sum(1).mean().backward()
    right = explain(model.eval(), images, 3).contributions
    for rank in range(WORLD):
        found, contributions = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, p in model.named_parameters():
            assert p.grad is not None
            assert off(found[name], p.grad) <= 1e-4, name
        assert off(contributions, share(right, rank)) <= 3e-5

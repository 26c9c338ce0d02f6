"""What an explanation costs: in forward passes, against the reference's, and against post-hoc methods on the twin.

    make bench                                   all of it; writes docs/benchmark.json and docs/benchmark.md
    python benchmarks/price.py --rounds 3 --models bcos_vitc_s_patch1_14 --out price

Every line of the table is a ratio of two works that took turns in one process: median and quartiles over the rounds.
Works are grouped, so that what is compared is timed within the same seconds. Random weights, random images of 224 x 224
that lie on the device; float32 without TF32, but for learning steps on a GPU, which are in bfloat16 (autocast).

The reference is the ``bcos`` package: its ``explain()`` takes one image and one class and renders a picture, hence
"and colours" on our side; batched by hand it is its explanation mode and one input gradient. timm's ViT is the
conventional model of the same size without a stem; captum explains our conventional twin.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bcos.models.pretrained
import captum.attr
import onnxruntime
import timm
import torch
from ratios import Line, line, single, table
from timing import in_turns
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from train_step import DEVICE, ours, wait

import bcos_vit
from bcos_vit.export import to_onnx

BATCH, CLASSES, STEPS = 8, 5, 50
MODELS = ("bcos_simple_vit_ti_patch16_224", "bcos_vitc_s_patch1_14")
TIMM = {"ti": "vit_tiny_patch16_224", "s": "vit_small_patch16_224", "b": "vit_base_patch16_224"}
DOCS = Path(__file__).parents[1] / "docs"
Works = dict[str, Callable[[], object]]


class Contenders:
    """A model of ours, its conventional twin, the reference's same model and timm's of that size, and some images."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model = bcos_vit.create_model(name).eval().to(DEVICE)
        self.twin = bcos_vit.create_model(twin_of(name)).eval().to(DEVICE)
        self.reference = reference(name)
        size = next(size for size in TIMM if f"_{size}_" in name)
        self.timm = timm.create_model(TIMM[size]).eval().to(DEVICE)
        self.images = torch.rand(BATCH, 3, 224, 224, device=DEVICE)

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = model(encoded(images) if model is self.reference else images)
        return found

    def twin_gradient(self) -> Tensor:
        images = self.images.clone().requires_grad_()
        return torch.autograd.grad(self.twin(images).amax(1).sum(), images)[0]

    def reference_gradient(self) -> Tensor:
        given = encoded(self.images).requires_grad_()
        with self.reference.explanation_mode():
            logits = self.reference(given)
        return torch.autograd.grad(logits.amax(1).sum(), given)[0]

    def reference_explain(self, images: Tensor, target: int | None = None) -> None:
        for image in images:
            self.reference.explain(encoded(image[None]).requires_grad_(), idx=target)


def measure(name: str, rounds: int) -> list[Line]:
    """All ratios of one model."""
    c = Contenders(name)
    eight, one = c.images, c.images[:1].clone()
    classes = [[*range(CLASSES)]]
    lines: list[Line] = []

    def take(works: Works, *ratios: tuple[str, str, float | None]) -> None:
        seconds = in_turns(works, rounds, wait)
        lines.extend(line(name, work, against, goal, seconds) for work, against, goal in ratios)

    take(
        {
            "forward": lambda: c.forward(c.model, eight),
            "the twin's forward": lambda: c.forward(c.twin, eight),
            "the reference's forward": lambda: c.forward(c.reference, eight),
            "timm's ViT forward": lambda: c.forward(c.timm, eight),
        },
        ("forward", "the twin's forward", 1.05),
        ("the reference's forward", "the twin's forward", None),
        ("forward", "timm's ViT forward", None),
    )
    take(
        {"learning step": ours(name, eight), "the twin's step": ours(twin_of(name), eight)},
        ("learning step", "the twin's step", 1.05),
    )
    take(
        {
            "explain": lambda: bcos_vit.explain(c.model, eight),
            "forward": lambda: c.forward(c.model, eight),
            "the twin's input gradient": c.twin_gradient,
            "the reference batched by hand": c.reference_gradient,
            "anatomy": lambda: bcos_vit.anatomy(c.model, eight),
        },
        ("explain", "the reference batched by hand", 0.80),
        ("explain", "forward", 1.8),
        ("explain", "the twin's input gradient", 0.85),
        ("anatomy", "forward", 2.2),
    )
    take(
        {
            "explain and colours": lambda: bcos_vit.explain(c.model, eight).colour(),
            "the reference's explain()": lambda: c.reference_explain(eight),
        },
        ("explain and colours", "the reference's explain()", 0.60),
    )
    take(
        {
            "explain and colours, one image": lambda: bcos_vit.explain(c.model, one).colour(),
            "the reference's explain()": lambda: c.reference_explain(one),
        },
        ("explain and colours, one image", "the reference's explain()", 0.65),
    )
    take(
        {
            "five classes and colours, one image": lambda: bcos_vit.explain(c.model, one, classes).colour(),
            "five calls of the reference": lambda: [c.reference_explain(one, target) for target in range(CLASSES)],
        },
        ("five classes and colours, one image", "five calls of the reference", 0.35),
    )
    gradient = captum.attr.InputXGradient(c.twin)
    take(
        {
            "explain": lambda: bcos_vit.explain(c.model, eight),
            "InputXGradient of the twin": lambda: gradient.attribute(eight, target=0),
        },
        ("explain", "InputXGradient of the twin", None),
    )
    integrated = captum.attr.IntegratedGradients(c.twin)
    take(
        {
            "explain, one image": lambda: bcos_vit.explain(c.model, one),
            "IntegratedGradients of the twin": lambda: integrated.attribute(
                one, target=0, n_steps=STEPS, internal_batch_size=BATCH
            ),
        },
        ("explain, one image", "IntegratedGradients of the twin", None),
    )
    if DEVICE == "cpu":
        take(exported(c, one), ("ONNX file, one image", "forward in PyTorch", 1.10))
    lines.append(single(name, "bytes per explained image", "the reference", kept(c), 0.60))
    if DEVICE == "cpu":
        peaks = [peak_of_a_process(name, whose) for whose in ("ours", "reference")]
        lines.append(single(name, "peak memory of a process", "the reference", peaks[0] / peaks[1], None))
    return lines


def twin_of(name: str) -> str:
    """The conventional model of the same sizes."""
    return name.replace("bcos_", "standard_").replace("_rope", "")


def reference(name: str) -> Any:
    """The same model of the reference, untrained."""
    return getattr(bcos.models.pretrained, name.removeprefix("bcos_"))(pretrained=False).eval().to(DEVICE)


def encoded(images: Tensor) -> Tensor:
    """The six channels that the reference takes."""
    return torch.cat((images, 1 - images), 1)


def exported(c: Contenders, images: Tensor) -> Works:
    """The exported file on as many threads as PyTorch has, beside the forward pass of the same model."""
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(c.model, path := Path(folder, "model.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.force_spinning_stop", "1")  # after a run, threads would slow PyTorch
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return {
        "ONNX file, one image": lambda: session.run(None, {"image": images.numpy()}),
        "forward in PyTorch": lambda: c.forward(c.model, images),
    }


def kept(c: Contenders) -> float:
    """Bytes that a forward pass keeps for backward, besides the weights, and that explanations hold: ours / theirs."""
    sizes = []
    for work, model in (
        (lambda: bcos_vit.explain(c.model, c.images, memory=2**40)._fields().values(), c.model),
        (lambda: (c.reference_gradient(),), c.reference),
    ):
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        alive: dict[int, Tensor] = {}

        def keep(t: Tensor, weights: set[int] = weights, alive: dict[int, Tensor] = alive) -> Tensor:
            if t.untyped_storage().data_ptr() not in weights:
                alive[t.untyped_storage().data_ptr()] = t.detach()  # held, so that its place is not taken by another
            return t.detach()

        with saved_tensors_hooks(keep, lambda t: t):
            outputs = list(work())
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (*alive.values(), *outputs)}
        sizes.append(sum(storages.values()))
    return sizes[0] / sizes[1]


def peak_of_a_process(name: str, whose: str) -> int:
    """The most memory, in KiB, that a fresh process takes to explain the batch, beyond what importing all takes."""
    found = subprocess.run(
        [sys.executable, __file__, "--peak", name, whose], capture_output=True, text=True, check=True
    )
    return int(found.stdout.split()[-1])


def print_peak(name: str, whose: str) -> None:
    """In the fresh process: explain the batch once and print what that took."""
    images = torch.rand(BATCH, 3, 224, 224)
    before = peak()
    if whose == "ours":
        bcos_vit.explain(bcos_vit.create_model(name).eval(), images)
    else:
        model, given = reference(name), encoded(images).requires_grad_()
        with model.explanation_mode():
            logits = model(given)
        torch.autograd.grad(logits.amax(1).sum(), given)
    print(peak() - before)


def peak() -> int:
    """The most memory that this process has taken so far, in KiB, as Linux tells it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))


def maps_per_second(rounds: int) -> float:
    """Explanations of ViT-S/16 on a GPU, 256 at once, ledger and matrix products in float32."""
    model = bcos_vit.create_model("bcos_simple_vit_s_patch16_224").eval().to(DEVICE)
    images = torch.rand(256, 3, 224, 224, device=DEVICE)
    work = {"explain": lambda: bcos_vit.explain(model, images, memory=2**36, check_values=False)}
    return len(images) / statistics.median(in_turns(work, rounds, wait)["explain"])


def main() -> None:
    """Measure, print the table, and write it beside the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=DOCS / "benchmark", help="without suffix (default: %(default)s)")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "WHOSE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if given.peak:
        print_peak(*given.peak)
        return
    start = time.perf_counter()
    lines = [line for name in given.models for line in measure(name, given.rounds)]
    gpu = {"GPU": torch.cuda.get_device_name()} if DEVICE == "cuda" else {"threads": torch.get_num_threads()}
    packages = ("torch", "bcos", "timm", "captum", "onnxruntime")
    about: dict[str, Any] = {"rounds": given.rounds, "machine": platform.machine(), **gpu, "precision": "float32"}
    about |= {name: version(name) for name in packages}
    if DEVICE == "cuda":
        about["maps per second, ViT-S/16"] = round(maps_per_second(given.rounds))
    about["seconds"] = round(time.perf_counter() - start)
    print(text := table(lines, about, f"Batches of {BATCH} unless said."))
    given.out.with_suffix(".md").write_text(text, encoding="utf-8")
    figures = {"about": about, "lines": [asdict(found) for found in lines]}
    given.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

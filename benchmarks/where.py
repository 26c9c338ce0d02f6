"""Where the time of forward passes, explanations and learning steps goes, by kinds of operations, on a CPU.

    python benchmarks/where.py                          ViT-Ti/16, eight images
    python benchmarks/where.py --model bcos_vitc_s_patch1_14 --batch 1

Shares are of the time that torch's profiler sees, ``rest`` being views, Python and the autograd engine; pages are those
that the system had to find afresh for a pass (4 KiB each), which costs more than filling them.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from contenders import twin_of
from torch.profiler import profile
from train_step import ours

import bcos_vit
from bcos_vit.export import to_onnx

KINDS = {
    "matrix products": ("mm", "bmm", "addmm", "mkldnn_convolution", "convolution_backward"),
    "fused attention": ("_scaled_dot_product",),
    "norms": ("native_layer_norm", "native_group_norm", "linalg_vector_norm"),
    "softmax": ("_softmax",),
    "copies": ("copy_", "cat", "fill_", "zero_"),
    "elementwise": (
        "mul",
        "div",
        "add",
        "sub",
        "rsub",
        "abs",
        "gelu",
        "clamp",
        "neg",
        "sum",
        "mean",
        "sqrt",
        "_foreach",
    ),
}
"""Kind -> beginnings of the names of operations."""
PASSES = 5


def kind_of(name: str) -> str:
    """The kind of what the profiler saw: an operation's, or ``rest``."""
    operation = name.removeprefix("aten::")
    known = (kind for kind, starts in KINDS.items() if operation != name and operation.startswith(starts))
    return next(known, "rest")


def row(label: str, work: Callable[[], object]) -> str:
    """A line of the table: milliseconds, shares, and pages."""
    for _ in range(3):
        work()
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(PASSES):
        work()
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - pages
    with profile() as seen:
        for _ in range(PASSES):
            work()
    time: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        time[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(time.values())
    shares = [f"{time[kind] / total:.0%}" for kind in (*KINDS, "rest")]
    return f"| {' | '.join([label, f'{total / PASSES / 1000:.0f}', *shares, f'{pages // PASSES:,}'])} |"


def onnx_operations(model: bcos_vit.ViT, images: torch.Tensor) -> str:
    """Milliseconds of the exported file by operation, as onnxruntime's own profile has them."""
    with tempfile.TemporaryDirectory() as folder:
        to_onnx(model, path := Path(folder, "model.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(PASSES):
            session.run(None, {"image": images.numpy()})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    time: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            time[event["args"]["op_name"]] += event["dur"] / PASSES / 1000
    largest = sorted(time.items(), key=lambda found: -found[1])[:6]
    parts = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in largest)
    return f"onnxruntime, explaining: {sum(time.values()):.1f} ms, of which {parts}"


def main() -> None:
    """Profile and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bcos_simple_vit_ti_patch16_224")
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    torch.manual_seed(0)
    model, twin = (bcos_vit.create_model(name).eval() for name in (given.model, twin_of(given.model)))
    images = torch.rand(given.batch, 3, 224, 224)
    works: dict[str, Callable[[], object]] = {
        "forward": torch.no_grad()(lambda: model(images)),
        "the twin's forward": torch.no_grad()(lambda: twin(images)),
        "explain": lambda: bcos_vit.explain(model, images),
        "colour": bcos_vit.explain(model, images).colour,
        "learning step": ours(given.model, images),
        "the twin's step": ours(twin_of(given.model), images),
    }
    print(f"{given.model}, {given.batch} images, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(f"| work | ms | {' | '.join(KINDS)} | rest | fresh pages |\n|{'---|' * (len(KINDS) + 4)}")
    for label, work in works.items():
        print(row(label, work), flush=True)
    print(f"\n{onnx_operations(model, images)}")


if __name__ == "__main__":
    main()

"""What an explanation costs: in forward passes, against the reference's, and against post-hoc methods on the twin.

    make bench                                   all of it; writes docs/benchmark.json and docs/benchmark.md
    python benchmarks/price.py --rounds 3 --models bcos_vitc_s_patch1_14 --out price

Every line of the table is a ratio of two works that took turns in one process: median and quartiles over the rounds.
Works are grouped, so that what is compared is timed within the same seconds. Random weights, random images of 224 x 224
that lie on the device; float32 without TF32, but for learning steps on a GPU, which are in bfloat16 (autocast).
Compiling is done before the clock runs; ``benchmarks/cold_start.py`` says how long it takes.

The reference is the ``bcos`` package: its ``explain()`` takes one image and one class and renders a picture, hence
"and colours" on our side; batched by hand it is its explanation mode and one input gradient. timm's ViT is the
conventional model of the same size without a stem; captum explains our conventional twin. The lines of ONNX compare
three files in onnxruntime: one that predicts and explains, the part of it that predicts, and the twin's.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import captum.attr
import torch
from contenders import Contenders, Works, compiled_copy, onnx_sessions, twin_of
from growth import grow
from memory import kept, peak_of_a_process
from ratios import Growth, Line, growth_table, table
from sheet import Sheet
from timing import in_turns
from train_step import DEVICE, ours, wait

import bcos_vit

BATCH, CLASSES, MANY, STEPS = 8, 5, 16, 50
MODELS = ("bcos_simple_vit_ti_patch16_224", "bcos_vitc_s_patch1_14")
DOCS = Path(__file__).parents[1] / "docs"


def measure(name: str, rounds: int, compiling: bool) -> list[Line]:
    """All ratios of one model."""
    c, sheet = Contenders(name, BATCH), Sheet(name, rounds)
    eager(c, sheet)
    post_hoc(c, sheet)
    blurred(c, sheet)
    if compiling:
        compiled(c, sheet)
    if DEVICE == "cpu":
        one = c.images[:1].clone()
        works = onnx_sessions(c, one) | {"forward in PyTorch, one image": lambda: c.forward(c.model, one)}
        sheet.take(works, *(("ONNX file, one image", other) for other in list(works)[1:]))
        peaks = [peak_of_a_process(name, whose) for whose in ("ours", "reference")]
        sheet.put("peak memory of a process", "the reference", peaks[0] / peaks[1])
    sheet.put("bytes per explained image", "the reference", kept(c))
    return sheet.lines


def eager(c: Contenders, sheet: Sheet) -> None:
    """Forward passes, learning steps and explanations as they are, against the twin's and the reference's."""
    eight, one = c.images, c.images[:1].clone()
    take, name = sheet.take, c.name
    take(
        {
            "forward": lambda: c.forward(c.model, eight),
            "the twin's forward": lambda: c.forward(c.twin, eight),
            "the reference's forward": lambda: c.forward(c.reference, eight),
            "timm's ViT forward": lambda: c.forward(c.timm, eight),
        },
        ("forward", "the twin's forward"),
        ("the reference's forward", "the twin's forward"),
        ("forward", "timm's ViT forward"),
    )
    take(
        {"learning step": ours(name, eight), "the twin's step": ours(twin_of(name), eight)},
        ("learning step", "the twin's step"),
    )
    take(
        {
            "explain": lambda: bcos_vit.explain(c.model, eight),
            "forward": lambda: c.forward(c.model, eight),
            "the twin's input gradient": c.twin_gradient,
            "the reference batched by hand": c.reference_gradient,
            "anatomy": lambda: bcos_vit.anatomy(c.model, eight),
        },
        ("explain", "forward"),
        ("explain", "the reference batched by hand"),
        ("explain", "the twin's input gradient"),
        ("anatomy", "forward"),
    )
    take(
        {
            "explain and colours": lambda: bcos_vit.explain(c.model, eight).colour(),
            "the reference's explain()": lambda: c.reference_explain(eight),
        },
        ("explain and colours", "the reference's explain()"),
    )
    take(
        {
            "explain and colours, one image": lambda: bcos_vit.explain(c.model, one).colour(),
            "the reference's explain()": lambda: c.reference_explain(one),
        },
        ("explain and colours, one image", "the reference's explain()"),
    )
    five = [[*range(CLASSES)]]
    take(
        {
            "five classes and colours, one image": lambda: bcos_vit.explain(c.model, one, five).colour(),
            "five calls of the reference": lambda: [c.reference_explain(one, target) for target in range(CLASSES)],
        },
        ("five classes and colours, one image", "five calls of the reference"),
    )
    take(
        {
            "sixteen classes, for each": lambda: bcos_vit.explain(c.model, eight, bcos_vit.TopK(MANY)),
            "forward": lambda: c.forward(c.model, eight),
        },
        ("sixteen classes, for each", "forward"),
        parts=MANY,
    )


def post_hoc(c: Contenders, sheet: Sheet) -> None:
    """Against post-hoc methods on the twin."""
    eight, one = c.images, c.images[:1].clone()
    gradient = captum.attr.InputXGradient(c.twin)
    sheet.take(
        {
            "explain": lambda: bcos_vit.explain(c.model, eight),
            "InputXGradient of the twin": lambda: gradient.attribute(eight, target=0),
        },
        ("explain", "InputXGradient of the twin"),
    )
    integrated = captum.attr.IntegratedGradients(c.twin)
    sheet.take(
        {
            "explain, one image": lambda: bcos_vit.explain(c.model, one),
            "IntegratedGradients of the twin": lambda: integrated.attribute(
                one, target=0, n_steps=STEPS, internal_batch_size=BATCH
            ),
        },
        ("explain, one image", "IntegratedGradients of the twin"),
    )


def blurred(c: Contenders, sheet: Sheet) -> None:
    """With a blur before every stride of the stem, against the same without; nothing of models that have no stem."""
    if not c.model.spec.stem:
        return
    smooth = bcos_vit.create_model(c.name, downsample="blurred").eval().to(DEVICE)
    sheet.take(
        {
            "forward, blurred stem": lambda: c.forward(smooth, c.images),
            "forward": lambda: c.forward(c.model, c.images),
            "explain, blurred stem": lambda: bcos_vit.explain(smooth, c.images),
            "explain": lambda: bcos_vit.explain(c.model, c.images),
        },
        ("forward, blurred stem", "forward"),
        ("explain, blurred stem", "explain"),
    )
    sheet.take(
        {
            "learning step, blurred stem": ours(c.name, c.images, downsample="blurred"),
            "learning step": ours(c.name, c.images),
        },
        ("learning step, blurred stem", "learning step"),
    )


def compiled(c: Contenders, sheet: Sheet) -> None:
    """The same, compiled: against the twin compiled alike, and against themselves as they are."""
    eight, one = c.images, c.images[:1].clone()
    faster, twin = compiled_copy(c.model), compiled_copy(c.twin)
    explainer = bcos_vit.compile_explainer(c.model)
    sheet.take(
        {
            "forward, compiled": lambda: c.forward(faster, eight),
            "the twin's forward, compiled": lambda: c.forward(twin, eight),
            "forward": lambda: c.forward(c.model, eight),
            "explain, compiled": lambda: explainer(eight),
            "explain": lambda: bcos_vit.explain(c.model, eight),
        },
        ("forward, compiled", "the twin's forward, compiled"),
        ("forward, compiled", "forward"),
        ("explain, compiled", "forward, compiled"),
        ("explain, compiled", "explain"),
    )
    sheet.take(
        {
            "explain, one image, compiled": lambda: explainer(one),
            "explain, one image": lambda: bcos_vit.explain(c.model, one),
        },
        ("explain, one image, compiled", "explain, one image"),
    )
    sheet.take(
        {
            "learning step, compiled": ours(c.name, eight, compiled=True),
            "the twin's step, compiled": ours(twin_of(c.name), eight, compiled=True),
            "learning step": ours(c.name, eight),
        },
        ("learning step, compiled", "the twin's step, compiled"),
        ("learning step, compiled", "learning step"),
    )


def with_blur_anew(models: list[str], before: dict[str, Any]) -> list[Line]:
    """The lines of a file, those of blurred stems taken anew in as many rounds as the others."""
    sheets = [Sheet(name, before["about"]["rounds"]) for name in models]
    for sheet in sheets:
        blurred(Contenders(sheet.name, BATCH), sheet)
    new = [taken for sheet in sheets for taken in sheet.lines]
    taken_anew = {(taken.model, taken.work) for taken in new}
    others = [Line(**found) for found in before["lines"] if (found["model"], found["work"]) not in taken_anew]
    return sorted([*others, *new], key=lambda found: found.model)


def maps_per_second(rounds: int) -> dict[str, int]:
    """Explanations of ViT-S/16 on a GPU, 256 at once, ledger and matrix products in float32."""
    model = bcos_vit.create_model("bcos_simple_vit_s_patch16_224").eval().to(DEVICE)
    images = torch.rand(256, 3, 224, 224, device=DEVICE)
    explainer = bcos_vit.compile_explainer(model)
    works: Works = {
        "maps per second, ViT-S/16": lambda: bcos_vit.explain(model, images, memory=2**36, check_values=False),
        "maps per second, ViT-S/16, compiled": lambda: explainer(images, check_values=False),
    }
    return {work: round(len(images) / statistics.median(s)) for work, s in in_turns(works, rounds, wait).items()}


def main() -> None:
    """Measure, print the table, and write it beside the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=DOCS / "benchmark", help="without suffix (default: %(default)s)")
    parser.add_argument("--no-compiling", action="store_true", help="leave the compiled works out")
    parts = ("ratios", "blur", "growth")
    parser.add_argument("--only", choices=parts, help="take these anew and keep the others of the file")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    start, kept_figures = time.perf_counter(), given.out.with_suffix(".json")
    before = json.loads(kept_figures.read_text(encoding="utf-8")) if given.only else {}
    if given.only == "growth":
        about, lines = before["about"], [Line(**found) for found in before["lines"]]
    elif given.only == "blur":
        about, lines = before["about"], with_blur_anew(given.models, before)
    else:
        lines = [line for name in given.models for line in measure(name, given.rounds, not given.no_compiling)]
        about = machine() | {"rounds": given.rounds}
        if DEVICE == "cuda":
            about |= maps_per_second(given.rounds)
    if given.only in ("ratios", "blur"):
        grown = [Growth(**row) for row in before["growth"]]
    else:
        grown = grow(given.models[0], max(3, given.rounds // 2))
    about["seconds"] = about.get("seconds", 0) + round(time.perf_counter() - start)
    text = f"{table(lines, about, f'Batches of {BATCH} unless said.')}\n{growth_table(grown)}"
    print(text)
    given.out.with_suffix(".md").write_text(text, encoding="utf-8")
    figures = {"about": about, "lines": [asdict(found) for found in lines], "growth": [asdict(row) for row in grown]}
    kept_figures.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What was measured on, and with which versions."""
    gpu = {"GPU": torch.cuda.get_device_name()} if DEVICE == "cuda" else {"threads": torch.get_num_threads()}
    packages = ("torch", "bcos", "timm", "captum", "onnxruntime")
    return {"machine": platform.machine(), **gpu, "precision": "float32"} | {name: version(name) for name in packages}


if __name__ == "__main__":
    main()

"""The pictures of README and docs, drawn anew.

    python benchmarks/pictures.py gallery     of bcos_vit_shapes: images of several shapes, and one of every class
    python benchmarks/pictures.py lattice     an untrained model at 224 pixels, with and without a lattice
    python benchmarks/pictures.py shapes      trained models; after downsampling.py and without_lattice.py

They go to ``docs/NAME.png``.
"""

from __future__ import annotations

import argparse
import io

import torch
from downsampling import ROOT, RUNS
from PIL import Image
from shapes import FRESH
from skimage.data import astronaut

from bcos_vit import Explanation, create_model, explain
from bcos_vit.data import Shapes
from bcos_vit.explanation.plot import columns, png, write_png

CANVASES = (0, 1, 2)
SHIFTS = 16
SHOWN = 5


def gallery() -> dict[str, Explanation]:
    """The first canvases, explained for each of their three shapes, and the first test image of every class."""
    model, part = create_model("bcos_vit_shapes", pretrained=True), Shapes("test", seed=FRESH)
    scenes = [part.canvas(index, 3) for index in CANVASES]
    canvases, targets = (torch.stack(list(t)) for t in zip(*((s.image, s.labels) for s in scenes), strict=True))
    images = torch.stack([part[index][0] for index in range(len(part.class_names))])
    return {
        "images of three shapes each: what every pixel adds to the logit of each shape": explain(
            model, canvases, targets
        ).check(),
        "one image of each class: what every pixel adds to the logit of the predicted class": explain(
            model, images
        ).check(),
    }


def lattice() -> dict[str, Explanation]:
    """One photo and an untrained ViTC-Ti with rotary positions, whose weights are the same in every band."""
    torch.manual_seed(0)
    strided = create_model("bcos_vitc_ti_rope_patch1_14")
    blurred = create_model("bcos_vitc_ti_rope_patch1_14", downsample="blurred")
    blurred.load_state_dict(strided.state_dict())
    image = strided.transform(astronaut())[None]
    return {
        "strided": explain(strided, image, 0).check(),
        f"strided, mean of {SHIFTS} shifts": explain(strided, image, 0, shifts=SHIFTS).check(),
        "blurred": explain(blurred, image, 0).check(),
    }


def shapes() -> dict[str, Explanation]:
    """The first test images, explained for their class by models of one seed that were trained in several ways."""
    part = Shapes("test", seed=FRESH)
    images, labels = torch.stack([part[index][0] for index in range(SHOWN)]), torch.tensor(part.labels[:SHOWN])
    strided = create_model(RUNS / "strided_0")
    return {
        "strided": explain(strided, images, labels).check(),
        f"strided, mean of {SHIFTS} shifts": explain(strided, images, labels, shifts=SHIFTS).check(),
        "strided, then switched to blurred and fine-tuned": explain(
            create_model(RUNS / "tuned_0"), images, labels
        ).check(),
        "blurred from the first step on": explain(create_model(RUNS / "box_reflect_0"), images, labels).check(),
    }


def beside(pictures: list[bytes]) -> Image.Image:
    """Pictures from left to right, on white."""
    opened = [Image.open(io.BytesIO(content)) for content in pictures]
    whole = Image.new("RGB", (sum(p.width for p in opened), max(p.height for p in opened)), "white")
    for number, picture in enumerate(opened):
        whole.paste(picture, (sum(p.width for p in opened[:number]), 0))
    return whole


DRAWN = {"gallery": gallery, "lattice": lattice, "shapes": shapes}


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(DRAWN))
    for name in parser.parse_args().names:
        parts, path = DRAWN[name](), ROOT / "docs" / f"{name}.png"
        if name == "lattice":
            beside([png(columns({caption: e})) for caption, e in parts.items()]).save(path)
        else:
            write_png(columns(parts, Shapes.class_names), path)


if __name__ == "__main__":
    main()

"""How far an exported file is from the model that it was made of: measured on random and on real images."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import torch
from torch import Tensor
from torchvision.transforms import v2

from bcos_vit.atomic import write_whole
from bcos_vit.explanation import Explanation, explain
from bcos_vit.extras import needs
from bcos_vit.layers.precision import ieee_float32
from bcos_vit.models import ViT
from bcos_vit.photos import read_photo

FORMAT = "bcos_vit export certificate 1"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
TOLERANCE = 1e-5
"""Largest error of logits and ledger of what is made in float32, relative to the largest value of each output."""
MAP_TOLERANCE = 3e-5
"""Largest error of a row of the linear map and of what is made from it.

Both sides round, so the limit lies between rounding and faults. The largest error of contributions, position and rows
against float64, for randomly initialised models on 24 images, of twelve blocks on 8:

=====================================  =======  =======
model                                  file     PyTorch
=====================================  =======  =======
bcos_vitc_ti_patch1_14, 2 blocks       1.8e-06  1.7e-06
bcos_vitc_s_patch1_14, 2 blocks        4.5e-06  1.1e-06
bcos_vitc_b_patch1_14, 2 blocks        6.4e-06  1.8e-06
bcos_vitc_l_patch1_14, 2 blocks        3.5e-06  1.2e-06
bcos_simple_vit_b_patch16_224, 2       3.2e-06  5.9e-07
bcos_vitc_ti_patch1_14, 12 blocks      1.4e-06  1.2e-06
bcos_simple_vit_ti_patch16_224, 12     1.5e-06  8.8e-07
=====================================  =======  =======

The largest difference of a right file from PyTorch was 1.02e-5, on a hundred images. Small faults in three of these
models change their maps by more: one of the weights of the last norm, 1 % off, by 1e-4 to 1e-3; a classifier rounded to
float16 by 2e-4 to 3e-4; ten times the epsilons by 2e-4 to 4e-2. One MLP's weight rounded to float16 changes maps of B
by 5e-6 at most, and cannot be told from rounding.
"""
FROM_ROWS = ("contributions", "position", "weights")
"""The outputs that are rows of the linear map, or products with them."""
RANDOM = 3
"""Random images that a file is compared on."""

AT_ONCE = 16
"""Images in one call of an exported file."""

Run = Callable[[Tensor, Tensor | None], Mapping[str, Tensor]]
"""Images (N, 3, H, W), and targets (N,) if it takes some -> the outputs of an exported file by their names."""


@dataclass(frozen=True)
class Comparison:
    """An exported file against the model in PyTorch, float32, on the same images and for the classes the file chose."""

    images: int
    """How many."""
    top1: float
    """Share of images whose predicted class is that of the model."""
    errors: dict[str, float]
    """Output -> its largest error, relative to the largest value of that output. Of ``target`` it is the share of wrong
    ones; ``residual`` is held against the file's own ledger."""
    wrong_targets_are_nan: bool | None = None
    """Whether targets that are no class make all about their images NaN and change no other image; None for a file that
    takes no targets."""
    residual: float | None = None
    """Largest relative residual of the file's own ledger; None where it has none, as all below."""
    lowest_cosine: float | None = None
    """Of the file's and the model's contribution maps."""
    median_cosine: float | None = None

    def require_exact(self, what: str) -> None:
        """Raise ``ArithmeticError`` in a sentence about ``what`` if anything is further off than rounding.

        That is :data:`MAP_TOLERANCE` for what is read off the rows of the linear map, and else :data:`TOLERANCE`.
        """
        measured = {**self.errors, "relative residual": self.residual or 0.0}
        allowed = {name: MAP_TOLERANCE if name in FROM_ROWS else TOLERANCE for name in measured}
        wrong = {name: error for name, error in measured.items() if not error <= allowed[name]}  # so that NaN is wrong
        if wrong:
            worst = max(wrong, key=lambda name: math.inf if math.isnan(wrong[name]) else wrong[name])
            raise ArithmeticError(f"{what}: its {worst} is off by {wrong[worst]:.2g}, more than {allowed[worst]:g}")

    def require_nan(self, what: str) -> None:
        """Raise ``ArithmeticError`` in a sentence about ``what`` if a target that is no class gets an explanation."""
        if self.wrong_targets_are_nan is False:
            raise ArithmeticError(f"{what} a target that is no class did not make its image, and no other, NaN")


@dataclass(frozen=True)
class Certificate:
    """What was measured of an exported file, kept beside it as ``FILE.json``."""

    file: str
    sha256: str
    bytes: int
    precision: str
    """"float32", "float16" or "int8"."""
    stayed_float: dict[str, int]
    """In float16 and int8 files, operations that still compute in float32, with their number."""
    weights_sha256: str
    """Of the model's weights: names and values in the order of the names."""
    not_fine_tuned: str | None
    """What the weights were trained with, where that was changed since and the model has not been trained again."""
    versions: dict[str, str | None]
    random: Comparison
    """On random images, of uniform noise."""
    real: Comparison
    """On photographs, or the images that were given."""

    def write(self, path: str | os.PathLike[str], *, replace: bool = True) -> None:
        """Write it as JSON, whole or not at all; ``OSError`` in a sentence if it cannot be written."""
        write_whole(path, json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n", replace=replace)

    def __str__(self) -> str:
        lines = [f"{self.file}: {self.bytes / 1e6:.1f} MB, {self.precision}, SHA-256 {self.sha256}"]
        lines += [self.not_fine_tuned] if self.not_fine_tuned else []
        for kind, found in (("random", self.random), ("real", self.real)):
            errors = ", ".join(f"{name} {error:.1e}" for name, error in found.errors.items())
            lines.append(
                f"{found.images} {kind} images: top-1 agreement {100 * found.top1:.4g} %; largest errors {errors}"
            )
            if found.wrong_targets_are_nan:
                lines.append("    a target that is no class makes all about its image NaN, and about no other")
            if found.residual is not None:
                maps = f"cosine of maps at least {found.lowest_cosine:.6f}, median {found.median_cosine:.6f}"
                lines.append(f"    largest relative residual {found.residual:.1e}; {maps}")
        if self.stayed_float:
            stayed = ", ".join(f"{count} {name}" for name, count in self.stayed_float.items())
            lines.append(f"computed in float32 all the same: {stayed}")
        return "\n".join(lines)


@ieee_float32()  # as explain computes; the model's and the program's forward pass would follow the user's choice
def compare(model: ViT, run: Run, images: Tensor, asked: Tensor | None = None) -> Comparison:
    """Run an exported file on ``images`` (N, 3, H, W), and the model it was made of, and compare all that both say.

    Explanations are compared for the classes that the file explains: those ``asked`` for (N,), or its predictions.
    """
    shares = [slice(start, start + AT_ONCE) for start in range(0, len(images), AT_ONCE)]
    parts = [run(images[share], None if asked is None else asked[share]) for share in shares]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    with torch.no_grad():
        expected = {"logits": torch.cat([model(images[share]) for share in shares])}
    agree = float((found["logits"].argmax(1) == expected["logits"].argmax(1)).double().mean())
    meant = found["logits"].argmax(1) if asked is None else asked
    wrong = {"target": float((found["target"] != meant).double().mean())}
    if "contributions" not in found:
        return Comparison(len(images), agree, wrong | _errors(found, expected))
    e = explain(model, images, found["target"], check_values=False)
    none = torch.zeros_like(e.image)
    expected |= {"contributions": e.contributions, "bias": e.constants.get("bias", none)}
    expected |= {"position": e.constants.get("position", none)}
    if "weights" in found and e.weights is not None:
        expected["weights"] = e.weights
    ledger = Explanation(
        images=images,
        target=found["target"],
        logit=found["logits"].double().gather(1, found["target"][:, None])[:, 0],
        contributions=found["contributions"].double(),
        constants={name: found[name].double() for name in ("position", "bias")},
    )
    closed = dataclasses.replace(ledger, logit=ledger.logit - found["residual"].double())
    wrong["residual"] = float(closed.relative_residual.max())
    cosine = torch.cosine_similarity(ledger.contributions.flatten(1), e.contributions.double().flatten(1))
    return Comparison(
        images=len(images),
        top1=agree,
        errors=wrong | _errors(found, expected),
        wrong_targets_are_nan=None if asked is None else _wrong_targets_are_nan(run, images[:1], model.num_classes),
        residual=float(ledger.relative_residual.max()),
        lowest_cosine=float(cosine.min()),
        median_cosine=float(cosine.median()),
    )


def _wrong_targets_are_nan(run: Run, image: Tensor, num_classes: int) -> bool:
    """Explain an image (1, 3, H, W) five times in one batch, for targets that are no class and for two that are."""
    targets = torch.tensor([-1, 0, num_classes, num_classes - 1, -num_classes], device=image.device)
    known = (targets >= 0) & (targets < num_classes)
    images = image.expand(len(targets), -1, -1, -1).contiguous()
    found, right = (run(images, t) for t in (targets, torch.where(known, targets, 0)))
    numbers = [name for name in found if name != "target"]
    return all(
        bool(found[name][~known].isnan().all()) and torch.equal(found[name][known], right[name][known])
        for name in numbers
    )


def _errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    errors = {}
    for name, right in expected.items():
        off, scale = (t.double().abs().max() for t in (found[name].double() - right, right))
        errors[name] = float(off / scale if scale > 0 else off)  # what a model adds none of is compared with zero
    return errors


def random_images(model: ViT) -> Tensor:
    """:data:`RANDOM` images of uniform noise that suit the model, always the same."""
    size, device = model.spec.image_size, next(model.parameters()).device
    return torch.rand(RANDOM, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)


def photographs(model: ViT) -> Tensor:
    """Ten views of scikit-learn's two sample photographs, (10, 3, H, W): four corners and the centre of each.

    Raises ``ImportError`` with the install line where scikit-learn is not there.
    """
    side = model.spec.image_size
    views = v2.Compose([v2.Resize(2 * side), v2.FiveCrop(side)])
    as_image = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    with needs("export"):
        folder = files("sklearn.datasets.images")
    photos = [read_photo(str(folder / name)) for name in PHOTOGRAPHS]
    return torch.stack([as_image(view) for photo in photos for view in views(photo)])


def weights_sha256(model: ViT) -> str:
    """SHA-256 over the names and values of the model's weights, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()

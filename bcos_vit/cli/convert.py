"""``bcos-vit convert``: weights of any kind that is read, to a file of ours or to one with the published keys."""

from __future__ import annotations

import argparse
import io
import os
import sys
from pathlib import Path

import torch

from bcos_vit.atomic import REMEDY, write_whole
from bcos_vit.checks import nearest
from bcos_vit.claim import claim_file
from bcos_vit.models import ViT, ViTSpec, save_model
from bcos_vit.models.about import not_fine_tuned
from bcos_vit.models.download import sha256
from bcos_vit.models.pretrained import load_file
from bcos_vit.models.published import to_published
from bcos_vit.models.weights import SUFFIX
from bcos_vit.models.zoo import CARDS
from bcos_vit.paths import user_path

PUBLISHED = ".pth"
UNSAID = ("b", "max_out", "stem_max_out", "logit_scale", "logit_bias")
"""Fields of a spec that neither names nor shapes of tensors show, and that the release has at their defaults."""


def run(given: argparse.Namespace) -> int:
    """Read ``given.input``, write ``given.output``; its suffix says in which form."""
    output = user_path(given.output)
    if output.suffix not in (SUFFIX, PUBLISHED):
        raise ValueError(f"OUT must end in {SUFFIX} (ours) or {PUBLISHED} (published keys), found {given.output}")
    with claim_file(output):
        if os.path.lexists(output):
            raise FileExistsError(f"{output} exists: {REMEDY}")
        return _convert(given, output)


def _convert(given: argparse.Namespace, output: Path) -> int:
    if given.model is not None and given.model not in CARDS:
        raise ValueError(f"no model is named {given.model!r}{nearest(given.model, CARDS)}")
    card = None if given.model is None else CARDS[given.model]
    model = load_file(user_path(given.input), None if card is None else card.spec)
    if card is not None and model.class_names is None:
        model.class_names = card.class_names
    if output.suffix == SUFFIX:
        save_model(model, output, replace=False)
    else:
        write_whole(output, _published(model), replace=False)
        lost = [
            f"{name} {getattr(model.spec, name)}"
            for name in UNSAID
            if getattr(model.spec, name) != getattr(ViTSpec, name)
        ]
        if lost:
            print(f"note: a state dict does not say {', '.join(lost)}: build its model with it", file=sys.stderr)
        if said := not_fine_tuned(model.about, model.spec):
            print(f"note: a state dict does not say that it is {said}", file=sys.stderr)
    numbers = sum(p.numel() for p in model.parameters())
    spec = model.spec
    print(
        f"{given.input}: {spec.family}, {spec.position} positions, {numbers:,} parameters, {spec.num_classes} classes"
    )
    print(f"{output}: SHA-256 {sha256(output)}")
    return 0


def _published(model: ViT) -> bytes:
    content = io.BytesIO()
    torch.save(to_published(model), content)
    return content.getvalue()

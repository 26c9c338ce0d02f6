"""``bcos-vit export``: one file that predicts and explains, verified, with its certificate beside it."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

import torch

from bcos_vit.atomic import REMEDY
from bcos_vit.claim import claim_file
from bcos_vit.cli.choice import TRAINED, chosen_model
from bcos_vit.export import to_onnx
from bcos_vit.export.onnx import certificate_of, onnx_path


def run(given: argparse.Namespace) -> int:
    """Export the model of ``given`` to ``given.out``, and print the certificate."""
    out = onnx_path(given.out)
    with claim_file(out):
        for path in (out, certificate_of(out)):
            if os.path.lexists(path):
                raise FileExistsError(f"{path} exists: {REMEDY}")
        return _export(given, out)


def _export(given: argparse.Namespace, out: Path) -> int:
    model, weights = chosen_model(given)
    images = None
    if given.images:
        images = torch.stack([model.transform(path) for path in given.images])
    if not model.dynamic_linear:
        print(
            f"note: {given.model} is a conventional model: it has no linear map to read off, so that its file predicts "
            "but cannot explain",
            file=sys.stderr,
        )
    if weights != TRAINED:
        model.about["name"] = f"{given.model}, {weights}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer about itself: what counts is compared
        try:
            certificate = to_onnx(
                model,
                out,
                targets=given.targets,
                weights=given.weights,
                precision=given.precision,
                images=images,
                replace=False,
            )
        except ArithmeticError as error:  # it is not exact, and so was not written
            print(f"bcos-vit export: {error}", file=sys.stderr)
            return 1
    print(certificate)
    return 0

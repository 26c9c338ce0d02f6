"""Three files, exported once: of a small B-cos model, of one with all that a spec can ask for, and of a twin."""

from __future__ import annotations

import pytest
import torch

from bcos_vit import create_model
from bcos_vit.export import onnx, to_onnx, to_program
from exported import Exported, snapshot
from toys import VITC, images_for, toy


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Exported:
    """Exported in the middle of training, and without any image of the caller's."""
    torch.manual_seed(0)
    model = create_model("bcos_vit_digits", depth=1)
    model.class_names = tuple("0123456789")
    model.about = {"name": "small <1>", "licence": "CC BY 4.0"}
    model.train()(images_for(model)).sum().backward()
    model.head.norm.weight.requires_grad_(False)
    return export(model, tmp_path_factory)


@pytest.fixture(scope="session")
def rich(tmp_path_factory) -> Exported:
    """For any class, rows among the outputs; from inside inference mode, wrapped by the compiler."""
    spec = dict(stem_max_out=2, max_out=2, b=1.5, head="tokens", position="sincos", value="bcos", depth=1)
    model = toy(VITC, **spec)
    with torch.inference_mode():
        images = images_for(model, 4, seed=3)
        return export(model, tmp_path_factory, targets="input", weights=True, images=images)


@pytest.fixture(scope="session")
def twin(tmp_path_factory) -> Exported:
    torch.manual_seed(0)
    return export(create_model("standard_vit_digits", depth=1), tmp_path_factory)


def export(model, folders, **options) -> Exported:
    before, path, programs = snapshot(model), folders.mktemp("exported") / "model.onnx", []

    def kept(*given):
        programs.append(to_program(*given))
        return programs[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "to_program", kept)
        certificate = to_onnx(torch.compile(model), path, **options)
    return Exported(model, before, path, certificate, *programs)

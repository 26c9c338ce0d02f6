"""Half precision and whole numbers: how far the maps drift, and that the certificate says so."""

import json
import shutil
from importlib.metadata import version

import pytest
import torch

from bcos_vit import create_model, explain
from bcos_vit.data import Digits
from bcos_vit.export import onnx, to_onnx
from exported import EXPLAINED, ledger, outputs, session, unseen
from toys import perturb_norms

ONNXRUNTIME = version("onnxruntime")
OLD = tuple(map(int, ONNXRUNTIME.split(".")[:2])) < (1, 31)
needs_int8 = pytest.mark.skipif(OLD, reason=f"onnxruntime {ONNXRUNTIME} is too old for int8")


def cosines(model, found, images):
    """Of the maps of a file and of PyTorch in float32, for the classes that the file explains, in rising order."""
    right = explain(model, images, found["target"]).contributions
    return torch.cosine_similarity(found["contributions"].flatten(1), right.flatten(1)).sort().values


@needs_int8
def test_int8_says_how_far_it_drifts(digits, monkeypatch, tmp_path):
    """Without any promise, so that nothing is refused. The file in float32 is that of another call."""
    monkeypatch.setattr(onnx, "to_program", lambda *_: None)
    monkeypatch.setattr(onnx, "_write", lambda program, path, *_: shutil.copy(digits.path, path))
    model, path, images = digits.model, tmp_path / "small.onnx", unseen(digits.model, 12)
    certificate, found = to_onnx(model, path, precision="int8", images=images), outputs(path, images)
    assert tuple(found) == EXPLAINED
    assert {t.dtype for name, t in found.items() if name != "target"} == {torch.float32}
    assert certificate.real.lowest_cosine == pytest.approx(float(cosines(model, found, images)[0]), abs=1e-5)
    assert 0.9 < certificate.real.lowest_cosine < 1
    assert certificate.real.residual == pytest.approx(ledger(found), rel=1e-2)
    assert certificate.precision == "int8"
    assert certificate.bytes == path.stat().st_size < 0.7 * digits.certificate.bytes
    assert {"LayerNormalization", "Softmax"} <= certificate.stayed_float.keys()
    assert json.loads((tmp_path / "small.onnx.json").read_text())["stayed_float"] == certificate.stayed_float
    assert "computed in float32 all the same: " in str(certificate)


@needs_int8
def test_a_wrong_target_is_nan_in_int8(rich, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx, "to_program", lambda *_: None)
    monkeypatch.setattr(onnx, "_write", lambda program, path, *_: shutil.copy(rich.path, path))
    path, images = tmp_path / "small.onnx", unseen(rich.model, 3)
    certificate = to_onnx(rich.model, path, "input", weights=True, precision="int8", images=images)
    assert certificate.real.wrong_targets_are_nan is True
    found = outputs(path, images, torch.tensor([-1, 4, 5]))
    assert found.pop("target").tolist() == [-1, 4, 5]
    assert all(t[[0, 2]].isnan().all() and t[1].isfinite().all() for t in found.values())
    assert session(path).get_inputs()[0].shape[0] == "batch"


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["predicted", "input"])
def test_float16_maps_of_digits_point_where_those_of_float32_do(targets, tmp_path):
    model, images = create_model("bcos_vit_digits", pretrained=True), Digits("test").images
    certificate = to_onnx(model, tmp_path / "half.onnx", targets, precision="float16", images=images)
    given = None if targets == "predicted" else torch.arange(len(images)) % 10
    found = outputs(tmp_path / "half.onnx", images, given)
    right = explain(model, images, found["target"]).contributions.flatten(1)
    cosine = torch.cosine_similarity(found["contributions"].flatten(1), right)
    sizes = right.norm(dim=1)  # of a class that is not predicted a map may be hardly more than rounding
    assert cosine[sizes > 1e-3 * sizes.max()].min() >= 0.999
    assert cosine.median() >= 0.999
    assert targets == "input" or cosine.min() >= 0.999
    assert found["logits"].dtype == found["contributions"].dtype == torch.float32
    assert certificate.real.lowest_cosine == pytest.approx(float(cosine.min()), abs=1e-4)
    assert certificate.real.top1 >= 0.99
    assert certificate.stayed_float["LayerNormalization"] > 0
    assert ledger(found) <= 2e-2
    if targets == "input":
        wrong = outputs(tmp_path / "half.onnx", images[:3], torch.tensor([-1, 4, 10]))
        assert wrong["contributions"].isnan().flatten(1).all(1).tolist() == [True, False, True]
        assert certificate.real.wrong_targets_are_nan is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "depth"),
    [("bcos_simple_vit_ti_patch16_224", 2), ("bcos_vitc_ti_patch1_14", 2), ("bcos_vitc_ti_patch1_14", None)],
)
def test_float16_maps_of_models_of_imagenet_size(name, depth, tmp_path):
    model = perturb_norms(create_model(name, **({} if depth is None else {"depth": depth}))).eval()
    exact = to_onnx(model, tmp_path / "single.onnx") if depth else None
    certificate = to_onnx(model, tmp_path / "half.onnx", precision="float16")
    images = unseen(model, 20)
    found = outputs(tmp_path / "half.onnx", images)
    assert all(t.isfinite().all() for t in found.values())
    assert cosines(model, found, images)[0] >= 0.999
    assert min(certificate.random.lowest_cosine, certificate.real.lowest_cosine) >= 0.999
    if exact is not None:
        assert certificate.bytes < 0.65 * exact.bytes


@needs_int8
@pytest.mark.slow
def test_int8_of_digits_is_of_use(tmp_path):
    """Loosely: what it is like is for the certificate to say."""
    model, test = create_model("bcos_vit_digits", pretrained=True), Digits("test")
    certificate = to_onnx(model, tmp_path / "small.onnx", precision="int8", images=test.images)
    found = outputs(tmp_path / "small.onnx", test.images)
    accuracy = float((found["target"] == torch.tensor(test.labels)).double().mean())
    assert certificate.real.images == len(test.images) == 360
    assert certificate.real.top1 > 0.9
    assert accuracy > 0.9
    assert cosines(model, found, test.images).median() > 0.9
    assert certificate.real.residual < 0.5

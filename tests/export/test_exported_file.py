"""One file that predicts and explains: what goes in, what comes out, what it says of itself, and that it is right."""

import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path

import onnx
import pytest
import torch

import bcos_vit
from bcos_vit.models.weights import load_model
from exported import EXPLAINED, errors, ledger, outputs, session, snapshot, unseen

FILES = ("digits", "rich", "twin")


@pytest.fixture(params=FILES)
def exported(request):
    return request.getfixturevalue(request.param)


def metadata(path):
    return session(path).get_modelmeta().custom_metadata_map


def ports(values):
    """Name -> type and shape; the side that is any number has a name instead."""
    return {value.name: (value.type, value.shape) for value in values}


def test_inputs_and_outputs_have_the_promised_names_types_and_shapes(exported):
    file, spec = session(exported.path), exported.model.spec
    side, classes, explains = spec.image_size, spec.num_classes, exported.model.dynamic_linear
    rich = exported.model.spec.stem != ()
    inputs = {"image": ("tensor(float)", ["batch", 3, side, side])}
    assert ports(file.get_inputs()) == inputs | ({"target": ("tensor(int64)", ["batch"])} if rich else {})
    expected = {"logits": ("tensor(float)", ["batch", classes]), "target": ("tensor(int64)", ["batch"])}
    if explains:
        expected["contributions"] = ("tensor(float)", ["batch", side, side])
        expected |= {name: ("tensor(float)", ["batch"]) for name in ("position", "bias", "residual")}
    if rich:
        expected["weights"] = ("tensor(float)", ["batch", 6, side, side])
    found = ports(file.get_outputs())
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_files_say_what_the_model_says_in_any_batch(exported, batch):
    images = unseen(exported.model, batch)
    turns = torch.arange(batch) % exported.model.num_classes if exported.model.spec.stem else None
    found = outputs(exported.path, images, turns)
    assert max(errors(exported.model, found, images).values()) <= 1e-5
    assert torch.equal(found["target"], found["logits"].argmax(1) if turns is None else turns)


def test_no_shape_in_the_file_calls_the_batch_otherwise(exported):
    graph = onnx.load(exported.path).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    names = {side.dim_param for value in values for side in value.type.tensor_type.shape.dim if side.dim_param}
    assert "batch" in names
    assert not [name for name in names if "batch" not in name]  # 16*batch: one row a token


@pytest.mark.parametrize("wrong", [-1, 5, -5, -6, 2**62, -(2**63)])
@pytest.mark.parametrize("form", ["file", "program"])
def test_a_target_that_is_no_class_makes_its_image_nan_and_no_other(rich, wrong, form):
    def said(targets):
        if form == "file":
            return outputs(rich.path, images, targets)
        return dict(zip((*EXPLAINED, "weights"), rich.program.module()(images, targets), strict=True))

    images, right = unseen(rich.model, 3), torch.tensor([4, 0, 2])
    found, expected = said(torch.tensor([4, wrong, 2])), said(right)
    assert found.pop("target").tolist() == [4, wrong, 2]
    for name, numbers in found.items():
        assert numbers[1].isnan().all(), name
        assert torch.equal(numbers[[0, 2]], expected[name][[0, 2]]), name


def test_a_batch_of_targets_that_are_no_class_is_nan_throughout(rich):
    found = outputs(rich.path, unseen(rich.model, 2), torch.tensor([-1, 5]))
    assert all(numbers.isnan().all() for name, numbers in found.items() if name != "target")


def test_the_file_and_its_certificate_say_what_a_wrong_target_does(rich, digits):
    assert json.loads(metadata(rich.path)["outputs"])["target"].endswith("one that is no class makes all else NaN")
    for part in (rich.certificate.random, rich.certificate.real):
        assert part.wrong_targets_are_nan is True
    assert "a target that is no class makes all about its image NaN, and about no other" in str(rich.certificate)
    assert digits.certificate.random.wrong_targets_are_nan is None  # it takes none
    assert "no class" not in str(digits.certificate)


def test_an_image_is_explained_the_same_in_any_company(digits):
    images = unseen(digits.model, 6)
    together = outputs(digits.path, images)
    for number in range(6):
        alone = outputs(digits.path, images[number : number + 1])
        for name in EXPLAINED:
            torch.testing.assert_close(alone[name][0], together[name][number], rtol=1e-5, atol=1e-5)


def test_the_ledger_closes_from_the_numbers_of_the_file_alone(digits, rich):
    images = unseen(digits.model, 20)
    assert ledger(outputs(digits.path, images)) <= 1e-5
    found = outputs(digits.path, images)
    assert not found["position"].any()  # rotary positions add nothing
    torch.testing.assert_close(found["bias"], torch.full((20,), -math.log(9)))
    found = outputs(rich.path, unseen(rich.model, 20), torch.full((20,), 4))
    assert ledger(found) <= 1e-5
    assert found["position"].abs().min() > 1e-4


def test_rows_times_the_encoded_image_are_the_contributions(rich):
    images = unseen(rich.model, 5)
    found = outputs(rich.path, images, torch.arange(5))
    by_hand = (found["weights"].double() * torch.cat([images, 1 - images], 1)).sum(1)
    assert (by_hand - found["contributions"]).abs().max() <= 1e-5 * by_hand.abs().max()


def test_a_black_image_has_a_ledger_too(digits):
    found = outputs(digits.path, torch.zeros(2, 3, 8, 8))
    assert all(t.isfinite().all() for t in found.values())
    assert ledger(found) <= 1e-5


def test_a_twin_predicts_and_says_why_it_cannot_explain(twin, digits):
    assert list(outputs(twin.path, unseen(twin.model, 2))) == ["logits", "target"]
    assert metadata(twin.path)["explains"] == "no: a conventional model has no linear map to read off"
    assert metadata(digits.path)["explains"] == "yes"
    assert twin.certificate.random.residual is None


def test_metadata_say_what_a_user_needs(exported):
    said, model = metadata(exported.path), exported.model
    spec = json.loads(said["spec"])
    assert bcos_vit.ViTSpec(**{name: tuple(v) if isinstance(v, list) else v for name, v in spec.items()}) == model.spec
    assert f"centre crop of {model.spec.image_size}, RGB in [0, 1]" in said["preprocessing"]
    assert json.loads(said["outputs"]).keys() == {output.name for output in session(exported.path).get_outputs()}
    assert said["weights_sha256"] == exported.certificate.weights_sha256
    assert said["producer"] == f"bcos_vit {bcos_vit.__version__}"
    assert (said.get("licence"), said.get("name")) == (model.about.get("licence"), model.about.get("name"))
    assert json.loads(said.get("class_names", "null")) == (model.class_names and list(model.class_names))


def test_nothing_of_the_machine_that_made_it_is_in_the_file(exported):
    content = exported.path.read_bytes() + exported.path.with_name("model.onnx.json").read_bytes()
    places = (sys.prefix, tempfile.gettempdir(), str(Path(bcos_vit.__file__).parents[1]), str(Path.home()))
    assert [place for place in (*places, "site-packages", ".py", "stack_trace") if place.encode() in content] == []
    made = onnx.load(exported.path)
    graph = made.graph
    values = (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    assert not any(value.doc_string or value.metadata_props for value in values)
    assert made.doc_string == graph.doc_string == ""
    onnx.checker.check_model(made, full_check=True)


def test_the_model_is_left_as_it_was(exported):
    assert snapshot(exported.model) == exported.before


def test_only_the_file_and_its_certificate_are_written(exported):
    names = sorted(path.name for path in exported.path.parent.iterdir())
    assert names == ["model.onnx", "model.onnx.json"]


def test_the_hash_of_the_weights_is_that_of_the_weights(digits, tmp_path):
    bcos_vit.save_model(digits.model, tmp_path / "a.safetensors")
    again = load_model(tmp_path / "a.safetensors")
    hashed = bcos_vit.export.certificate.weights_sha256
    assert hashed(again) == digits.certificate.weights_sha256
    with torch.no_grad():
        again.head.norm.weight[0] += 1e-6
    assert hashed(again) != digits.certificate.weights_sha256


def test_the_certificate_says_what_was_measured(exported):
    certificate = exported.certificate
    kept = json.loads(exported.path.with_name("model.onnx.json").read_text())
    assert kept.pop("format") == "bcos_vit export certificate 1"
    assert kept == json.loads(json.dumps(dataclasses.asdict(certificate)))
    assert (certificate.bytes, certificate.file) == (exported.path.stat().st_size, "model.onnx")
    assert certificate.precision == "float32"
    assert certificate.stayed_float == {}
    assert certificate.versions["onnxruntime"] is not None
    assert certificate.random.images == 3
    assert certificate.real.images == (4 if exported.model.spec.stem else 10)
    for part in (certificate.random, certificate.real):
        assert part.top1 == 1
        assert 0 < part.errors["logits"] <= 1e-5
        assert max(part.errors.values()) <= 1e-5
        if exported.model.dynamic_linear:
            assert part.residual <= 1e-5
            assert 1 - 1e-6 < part.lowest_cosine <= part.median_cosine
    assert certificate.sha256 in str(certificate)
    assert "3 random images: top-1 agreement 100 %; largest errors " in str(certificate)

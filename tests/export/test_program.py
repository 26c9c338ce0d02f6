"""Prediction and explanation as one torch.export program: exact, for any batch, and a file like any other."""

import copy

import pytest
import torch

from bcos_vit import create_model
from bcos_vit.export import to_program
from exported import EXPLAINED, errors, snapshot, unseen
from kinds import kind
from toys import images_for


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("bcos_vit_digits", depth=1).train()


@pytest.fixture(scope="module")
def program(model):
    with torch.no_grad():
        before = snapshot(model)
        made = to_program(model)
        assert snapshot(model) == before
        assert not torch.is_grad_enabled()
    return made


def by_name(program, names, *inputs):
    return dict(zip(names, program.module()(*inputs), strict=True))


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_it_is_exact_in_any_batch(model, program, batch):
    images = unseen(model, batch)
    found = by_name(program, EXPLAINED, images)
    assert max(errors(model, found, images).values()) <= 1e-5
    assert torch.equal(found["target"], found["logits"].argmax(1))


def test_it_is_saved_and_loaded(model, program, tmp_path):
    torch.export.save(program, tmp_path / "model.pt2")
    again, images = torch.export.load(tmp_path / "model.pt2"), images_for(model, 5)
    for one, other in zip(program.module()(images), again.module()(images), strict=True):
        assert torch.equal(one, other)


def test_nothing_of_autograd_is_left_in_it(program):
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert operations
    assert not [name for name in operations if "backward" in name or "grad" in name or "autograd" in name]
    assert not any(t.requires_grad for t in program.module()(torch.rand(2, 3, 8, 8)))


def test_the_program_of_a_twin_predicts():
    twin = create_model("standard_vit_digits", depth=1)
    images = images_for(twin, 3)
    logits, target = to_program(twin).module()(images)
    torch.testing.assert_close(logits, twin(images).detach())
    assert torch.equal(target, logits.argmax(1))


def test_a_program_that_is_wrong_is_not_handed_out(model, program, monkeypatch):
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.classify.weight[3] *= 1.001
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: program)
    sentence = r"^the program differs from the model on random images: its .* is off by \S+, more than 1e-05$"
    with pytest.raises(ArithmeticError, match=sentence):
        to_program(other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bcos-prior-tokens", "bcos-stem-sincos-pool", "bcos-stem-maxout", "standard-digits"])
def test_programs_of_other_kinds_survive_a_file(name, tmp_path):
    model = kind(name)
    explains = model.dynamic_linear
    made = to_program(model, "input" if explains else "predicted", weights=explains)
    torch.export.save(made, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2")
    for batch in (1, 3, 17):
        images = unseen(model, batch)
        given = (torch.arange(batch) % model.num_classes,) if explains else ()
        found = by_name(again, (*EXPLAINED, "weights") if explains else ("logits", "target"), images, *given)
        assert max(errors(model, found, images).values()) <= 1e-5

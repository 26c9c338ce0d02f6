"""Prediction and explanation as one torch.export program: exact, for any batch, and a file like any other."""

import copy
import re

import pytest
import torch

from bcos_vit import create_model
from bcos_vit.export import graph, to_program
from exported import EXPLAINED, errors, snapshot, unseen
from kinds import kind
from toys import images_for


def by_name(program, names, *inputs):
    return dict(zip(names, program.module()(*inputs), strict=True))


@pytest.mark.parametrize("batch", [1, 3, 17])
def test_it_is_exact_in_any_batch(digits, rich, batch):
    images = unseen(digits.model, batch)
    found = by_name(digits.program, EXPLAINED, images)
    assert max(errors(digits.model, found, images).values()) <= 1e-5
    assert torch.equal(found["target"], found["logits"].argmax(1))
    images, turns = unseen(rich.model, batch), torch.arange(batch) % 5
    found = by_name(rich.program, (*EXPLAINED, "weights"), images, turns)
    assert max(errors(rich.model, found, images).values()) <= 1e-5
    assert torch.equal(found["target"], turns)


@pytest.mark.slow
def test_a_blur_is_exact_in_it_and_so_is_its_transpose():
    model = kind("bcos-stem-blurred", depth=1)
    images = unseen(model, 3)
    found = by_name(to_program(model), EXPLAINED, images)
    assert max(errors(model, found, images).values()) <= 1e-5


def test_it_is_saved_and_loaded(digits, tmp_path):
    torch.export.save(digits.program, tmp_path / "model.pt2")
    again, images = torch.export.load(tmp_path / "model.pt2"), images_for(digits.model, 5)
    for one, other in zip(digits.program.module()(images), again.module()(images), strict=True):
        assert torch.equal(one, other)


def test_nothing_of_autograd_is_left_in_it(rich):
    operations = {str(node.target) for node in rich.program.graph.nodes if node.op == "call_function"}
    assert operations
    assert not [name for name in operations if "backward" in name or "grad" in name]
    outputs = rich.program.module()(images_for(rich.model, 2), torch.tensor([0, 1]))
    assert not any(t.requires_grad for t in outputs)


def test_the_program_of_a_twin_predicts_and_leaves_it_as_it_was():
    twin = create_model("standard_vit_digits", depth=1).train()
    twin(images := images_for(twin, 3)).sum().backward()
    twin.head.norm.weight.requires_grad_(False)
    before, state = snapshot(twin), torch.get_rng_state()
    with torch.no_grad():
        logits, target = to_program(twin).module()(images)
        assert not torch.is_grad_enabled()
        torch.testing.assert_close(logits, twin(images))
    assert torch.equal(target, logits.argmax(1))
    assert snapshot(twin) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_program_that_is_wrong_is_not_handed_out(digits, monkeypatch):
    other = copy.deepcopy(digits.model)
    with torch.no_grad():
        other.head.norm.weight[0] *= 1.01
    monkeypatch.setattr(graph, "make_fx", lambda *_, **__: lambda *_: None)
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: digits.program)
    sentence = r"^the program differs from the model on random images: its .* is off by \S+, more than [13]e-05$"
    with pytest.raises(ArithmeticError, match=sentence):
        to_program(other)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["norm", "bcos"])
def test_a_freeze_that_the_trace_forgets_is_seen_by_a_wide_margin(monkeypatch, where):
    """The sums are right all the same: what is wrong are the maps."""

    def forgetful(*given, **options):
        traced = make_fx(*given, **options)

        def trace(*inputs):
            with monkeypatch.context() as patch:
                patch.setattr(f"bcos_vit.layers.{where}.is_frozen", lambda: False)
                return traced(*inputs)

        return trace

    make_fx = graph.make_fx
    monkeypatch.setattr(graph, "make_fx", forgetful)
    with pytest.raises(ArithmeticError, match="its contributions is off by ") as caught:
        to_program(create_model("bcos_vit_digits", depth=1))
    assert float(re.search(r"off by ([^,]+),", str(caught.value))[1]) > 1e-2


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

"""``ViT.compile``: one graph, apart from those of all other models, and an error where that cannot be."""

import copy
import gc
import weakref

import pytest
import torch

from bcos_vit import explain
from kinds import KINDS, kind
from toys import deviation, images_for, toy, toy_spec

DIGITS, TWIN = "bcos_vit_digits", "standard_vit_digits"
COVER = ("bcos-values-maxout", "bcos-stem-rope-tokens", "standard-prior-tokens", "standard-stem-none-pool")
"""Kinds that together have every family, stem, position, head, kind of values, and MaxOut."""
pytestmark = pytest.mark.usefixtures("no_compiled_code")


class Graphs:
    """A backend that leaves the code as it is, and counts."""

    def __init__(self):
        self.made = self.run = 0

    def __call__(self, graph, inputs):
        self.made += 1

        def run(*arguments):
            self.run += 1
            return graph.forward(*arguments)

        return run


def tiny(name=DIGITS, **fields):
    return toy(name, **({"depth": 1, "width": 8, "heads": 1, "mlp_width": 12} | fields))


def results(call, model, images):
    """Logits, and gradients by all weights."""
    logits = call(images)
    return [logits.detach(), *torch.autograd.grad(logits.square().sum(), list(model.parameters()))]


def assert_equal(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def assert_compiles(model, backend, tolerance):
    """While it learns, in either mode, and while it predicts."""
    images = images_for(model)
    model.compile(backend=backend)
    for training in (True, False):
        model.train(training)
        assert_equal(results(model, model, images), results(model.forward, model, images), tolerance)
        with torch.no_grad():
            assert_equal([model(images)], [model.forward(images)], tolerance)


# --- apart from others ---


@pytest.mark.slow
def test_ten_models_in_one_process_are_all_compiled():
    specs = [(DIGITS, {}), (TWIN, {}), *((TWIN, {"num_classes": classes}) for classes in (2, 3, 4))]
    graphs = Graphs()
    for number, (name, fields) in enumerate(specs * 2, start=1):
        model = tiny(name, **fields)
        images = images_for(model)
        model.compile(backend=graphs)
        with torch.no_grad():
            assert deviation(model(images), model.forward(images)) <= 1e-6
            model(images)
        assert (graphs.made, graphs.run) == (number, 2 * number)
    assert torch._dynamo.config.recompile_limit < graphs.made  # or nothing is tested


def test_a_model_of_another_size_is_compiled_for_its_size():
    symbols = []

    def backend(graph, inputs):
        symbols.append([t for t in inputs if isinstance(t, torch.SymInt)])
        return graph.forward

    for size in (8, 12):
        model = tiny(image_size=size)
        model.compile(backend=backend)
        with torch.no_grad():
            model(images_for(model))
    assert symbols == [[], []]


def test_what_was_compiled_goes_with_its_model():
    model = tiny()
    model.compile(backend="eager")
    with torch.no_grad():
        model(images_for(model))
    gone = [weakref.ref(model), weakref.ref(model._compiled_call_impl)]
    del model
    gc.collect()
    assert [found() for found in gone] == [None, None]


def test_a_copy_is_not_compiled_and_has_its_own_weights(tmp_path):
    model, graphs = tiny(), Graphs()
    images = images_for(model)
    model.compile(backend=graphs)
    names = list(model.state_dict())
    assert names == list(tiny().state_dict())
    with torch.no_grad():
        before = model(images)
        torch.save(model, tmp_path / "whole.pt")
        for other in (copy.deepcopy(model), torch.load(tmp_path / "whole.pt", weights_only=False)):
            other.head.classify.weight.neg_()
            assert not torch.equal(other(images), before)
            assert torch.equal(model(images), before)
    assert (graphs.made, graphs.run) == (1, 3)


def test_explanations_are_not_compiled():
    model, graphs = tiny(), Graphs()
    images = images_for(model)
    expected = explain(model, images)
    model.compile(backend=graphs)
    assert torch.equal(explain(model, images).contributions, expected.contributions)
    assert graphs.made == 0


# --- whole ---


@pytest.mark.parametrize("name", COVER)
def test_learning_is_one_graph(name):
    model = kind(name, depth=1).train()
    images, graphs = images_for(model), Graphs()
    model.compile(backend=graphs)
    assert_equal(results(model, model, images), results(model.forward, model, images), 1e-5)
    assert graphs.made == 1


def test_the_kinds_above_cover_every_choice():
    specs = [toy_spec(name, **fields) for name, fields in (KINDS[kind] for kind in COVER)]
    for field, values in {
        "family": {"bcos", "standard"},
        "position": {"sincos", "rope", "prior", "none"},
        "head": {"pool", "tokens"},
        "value": {"plain", "bcos"},
    }.items():
        assert {getattr(spec, field) for spec in specs} == values
    assert {(spec.family, bool(spec.stem)) for spec in specs} == {(f, s) for f in ("bcos", "standard") for s in (0, 1)}
    assert {spec.max_out > 1 for spec in specs} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_one_graph_learning_and_predicting(name):
    assert_compiles(kind(name, depth=1), "aot_eager", 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", [DIGITS, "bcos_vitc_ti_rope_patch1_14", TWIN])
def test_to_machine_code(name):
    assert_compiles(toy(name), "inductor", 1e-4)


def test_a_break_is_an_error_unless_it_is_allowed():
    model = tiny(TWIN)
    model.blocks[0].register_forward_hook(lambda *_: torch._dynamo.graph_break())
    images = images_for(model)
    model.compile(backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported), torch.no_grad():
        model(images)
    model.compile(backend="eager", fullgraph=False)
    with torch.no_grad():
        assert torch.equal(model(images), model.forward(images))


def test_a_version_too_many_is_an_error():
    model, graphs = tiny(TWIN), Graphs()
    model.compile(backend=graphs, dynamic=False)
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=2):
        model(images_for(model, 2))
        model(images_for(model, 3))
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            model(images_for(model, 4))
    assert graphs.made == 2

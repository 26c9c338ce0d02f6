"""set_grad_checkpointing: the same gradients to the last bit, and only where a backward pass follows."""

import pytest
import torch

from bcos_vit import explain
from bcos_vit.layers import frozen
from toys import images_for, toy

SIMPLE, VITC = "bcos_simple_vit_ti_patch16_224", "bcos_vitc_ti_patch1_14"
ROPE, TWIN = "bcos_simple_vit_ti_rope_patch16_224", "standard_vitc_ti_patch1_14"
FIELDS = [(SIMPLE, {}), (VITC, {}), (ROPE, {}), (TWIN, {}), (SIMPLE, {"position": "prior"}), (SIMPLE, {"max_out": 2})]
FIELDS += [(SIMPLE, {"value": "bcos", "head": "tokens"}), (SIMPLE, {"b": 2.5})]


def counted(model):
    """How often each block was begun, from now on."""
    calls = [0] * len(model.blocks)

    def count(number):
        def begin(*_):
            calls[number] += 1

        return begin

    for number, block in enumerate(model.blocks):
        block.register_forward_pre_hook(count(number))
    return calls


def gradients(model, images):
    """Of the loss by all weights and by the images."""
    images = images.clone().requires_grad_()
    loss = model(images).square().sum()
    return torch.autograd.grad(loss, [images, *model.parameters()])


@pytest.mark.parametrize(("name", "fields"), FIELDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_bitwise_the_same(name, fields, dtype):
    model = toy(name, dtype=dtype, **fields).train()
    images = images_for(model)
    expected = gradients(model, images)
    calls = counted(model)
    model.set_grad_checkpointing()
    found = gradients(model, images)
    assert calls == [2, 2]
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
    model.set_grad_checkpointing(False)
    gradients(model, images)
    assert calls == [3, 3]


@pytest.mark.parametrize("name", [SIMPLE, TWIN])
def test_under_autocast_too(name):
    model = toy(name).train()
    images = images_for(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected = gradients(model, images)
        model.set_grad_checkpointing()
        found = gradients(model, images)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def test_nothing_is_computed_again_where_no_training_goes_on():
    model = toy(ROPE)
    model.set_grad_checkpointing()
    images, calls = images_for(model), counted(model)
    gradients(model, images)  # in evaluation mode
    assert calls == [1, 1]
    model.train()
    with torch.no_grad():
        model(images)
    assert calls == [2, 2]
    with torch.inference_mode():
        model(images)
    assert calls == [3, 3]
    with frozen():
        torch.autograd.grad(model(images.requires_grad_()).sum(), images)
    assert calls == [4, 4]
    gradients(model, images)
    assert calls == [6, 6]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [SIMPLE, VITC, ROPE])
def test_explanations_are_the_same_and_computed_once(name, training):
    """The dynamic weights are held still while explaining; what is computed again would not be."""
    model = toy(name).train(training)
    images = images_for(model)
    expected = explain(model, images)
    calls = counted(model)
    explain(model, images)
    plain = list(calls)
    model.set_grad_checkpointing()
    found = explain(model, images).check()
    assert calls == [2 * count for count in plain]
    for field in ("weights", "contributions", "logit"):
        assert torch.equal(getattr(found, field), getattr(expected, field)), field
    assert model.training is training


def test_a_frozen_gradient_differs_from_a_learning_one_so_that_the_above_means_something():
    model = toy(SIMPLE).train()
    images = images_for(model).requires_grad_()
    (learning,) = torch.autograd.grad(model(images).sum(), images)
    with frozen():
        (held,) = torch.autograd.grad(model(images).sum(), images)
    assert not torch.allclose(learning, held, rtol=0.1)


def test_features_and_logits_are_the_same():
    model = toy(VITC).train()
    images = images_for(model)
    expected = model(images), model.forward_features(images)
    model.set_grad_checkpointing()
    found = model(images), model.forward_features(images)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [ROPE, TWIN])
def test_a_traced_model_has_the_same_gradients(name):
    model = toy(name).train()
    images = images_for(model)
    expected = gradients(model, images)
    model.set_grad_checkpointing()
    model.compile(backend="aot_eager")
    found = gradients(model, images)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))

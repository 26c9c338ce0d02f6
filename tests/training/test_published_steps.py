"""Loss and clipping of the recipes of ImageNet, as they are built, against the live reference."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from bcos.data.transforms import RandomMixup
from bcos.training.agc import adaptive_clip_grad_, unitwise_norm

from bcos_vit.config import build
from bcos_vit.models.weights import to_published
from reference import NAMES, by_hand
from runs import config
from toys import images_for, toy

FAMILIES = ("bcos_simple_vit_ti_patch16_224", "standard_simple_vit_ti_patch16_224")
BCOS = ("bcos_simple_vit_s_patch16_224", "bcos_vitc_l_patch1_14")
TWINS = tuple(name.replace("bcos", "standard") for name in BCOS)


@pytest.fixture(scope="module")
def published():
    """Our name -> the reference's own configuration."""
    from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS  # seconds

    return {name: CONFIGS[name.removeprefix("standard_")] for name in NAMES}


def classifier_of(name, model):
    return build(config(f"experiment=imagenet/{name}").recipe.classifier)(model=model, recipe={})


def with_gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("classes", [1000, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", FAMILIES)
def test_loss_and_its_gradient_are_the_published_ones(name, dtype, classes, published):
    loss = classifier_of(name, toy(name)).loss
    for seed in range(3):
        torch.manual_seed(seed)
        logits, labels = 10 * torch.randn(8, classes, dtype=dtype), torch.randint(classes, (8,))
        _, mixed = RandomMixup(classes, p=1.0, alpha=0.2)(torch.zeros(8, 3, 2, 2, dtype=dtype), labels)
        hard = F.one_hot(labels, classes).to(dtype)
        for target in (labels, hard, mixed):
            for mode, criterion in ((True, "criterion"), (False, "test_criterion")):
                found = with_gradient(loss.train(mode), logits, target)
                expected = with_gradient(published[name][criterion], logits, target)
                for one, other in zip(found, expected, strict=True):
                    assert one.dtype == other.dtype == dtype
                    assert torch.equal(one, other)


def test_loss_of_large_logits_stays_finite(published):
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    loss = classifier_of(FAMILIES[0], toy(FAMILIES[0])).loss.train()
    for target in (torch.tensor([0]), torch.tensor([[0.3, 0.7, 0.0]])):
        found, expected = (with_gradient(f, logits, target) for f in (loss, published[FAMILIES[0]]["criterion"]))
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        assert found[1].isfinite().all()


def state_of_gradients(model):
    """The gradients under the published keys."""
    holder = copy.deepcopy(model)
    for one, other in zip(holder.parameters(), model.parameters(), strict=True):
        one.data = other.grad.clone()
    return to_published(holder)


def both_with_gradients(name, dtype, scale):
    """Our model and the reference's, with the same weights and the same gradients."""
    model = toy(name, dtype=dtype).train()
    model(images_for(model, 4)).mul(scale).square().sum().backward()
    reference = by_hand(model.spec).to(dtype)
    reference.load_state_dict(to_published(model))
    gradients = state_of_gradients(model)
    assert gradients.keys() == dict(reference.named_parameters()).keys()
    for key, p in reference.named_parameters():
        p.grad = gradients[key].clone()
    return model, reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", BCOS)
def test_bcos_models_are_clipped_as_published_bit_for_bit(name, dtype, published):
    assert published[name]["use_agc"]
    touched, left = set(), set()
    for scale in (1e-2, 1.0, 100.0):
        model, reference = both_with_gradients(name, dtype, scale)
        before = state_of_gradients(model)
        classifier = classifier_of(name, model)
        classifier.clip(classifier.parameters())
        adaptive_clip_grad_(reference.parameters())  # by the reference's defaults, as it calls it
        found = state_of_gradients(model)
        for key, p in reference.named_parameters():
            assert torch.equal(found[key], p.grad), (scale, key)
            (left if torch.equal(found[key], before[key]) else touched).add(key)
            most = 0.01 * unitwise_norm(p.detach()).clamp(min=1e-3)
            assert (unitwise_norm(p.grad) <= most * (1 + 1e-5)).all()
    assert touched == set(before)  # the classifier too
    assert left


@pytest.mark.parametrize("name", TWINS)
def test_conventional_models_are_clipped_as_published(name, published):
    assert not published[name]["use_agc"]
    most, clipped = published[name]["trainer"]["gradient_clip_val"], []
    for scale in (1e-3, 1.0, 100.0):
        model, reference = both_with_gradients(name, torch.float64, scale)
        classifier = classifier_of(name, model)
        classifier.clip(classifier.parameters())
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), most)
        clipped.append(bool(norm > most))
        found = state_of_gradients(model)
        for key, p in reference.named_parameters():
            torch.testing.assert_close(found[key], p.grad, rtol=1e-12, atol=0, msg=key)
    assert clipped[0] is False
    assert clipped[-1] is True


def test_reference_clips_by_its_defaults():
    defaults = {p.name: p.default for p in inspect.signature(adaptive_clip_grad_).parameters.values()}
    keywords = classifier_of(FAMILIES[0], toy(FAMILIES[0])).clip.keywords
    assert keywords == {name: defaults[name] for name in keywords}
    assert keywords.keys() == {"clip_factor", "eps"}

"""What a group of metrics gets to see: computed once, and only if it is asked for."""

import pytest
import torch

from bcos_vit import explain
from bcos_vit.metrics import Batch, Group, group
from toys import images_for, toy


@pytest.fixture
def explained(monkeypatch):
    """How often something was explained."""
    calls = []
    monkeypatch.setattr(group, "explain", lambda *given, **named: calls.append(1) or explain(*given, **named))
    return calls


def test_logits_are_those_of_an_ordinary_prediction_computed_once(explained):
    model = toy("bcos_vit_digits")
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    images = images_for(model)
    expected = model(images)
    batch = Batch(model, images, torch.zeros(3, dtype=torch.long))
    assert torch.equal(batch.logits, expected)
    assert torch.equal(batch.predicted, expected.argmax(1))
    assert batch.logits is batch.logits
    assert not batch.logits.requires_grad
    assert len(calls) == 2
    assert explained == []


def test_explanation_is_of_the_predicted_classes_computed_once(explained):
    model = toy("bcos_vit_digits")
    images = images_for(model)
    batch = Batch(model, images, torch.zeros(3, dtype=torch.long))
    assert torch.equal(batch.explanation.target, model(images).argmax(1))
    torch.testing.assert_close(batch.explanation.contributions, explain(model, images).contributions)
    assert batch.explanation is batch.explanation
    assert len(explained) == 1


def test_a_conventional_model_has_logits_and_no_explanation():
    model = toy("standard_vit_digits")
    batch = Batch(model, images_for(model), torch.zeros(3, dtype=torch.long))
    assert batch.logits.shape == (3, 5)
    with pytest.raises(TypeError, match="conventional"):
        _ = batch.explanation


def test_a_group_says_what_it_does():
    class Nothing(Group):
        def update(self, batch):
            pass

    with pytest.raises(TypeError, match=r"abstract.*compute.*rows"):
        Nothing(toy("bcos_vit_digits"))

"""Loss, clipping and schedule against the live reference and closed forms."""

import math

import bcos.modules.losses as reference_losses
import pytest
import timm.utils
import torch
from bcos.training.agc import adaptive_clip_grad_ as reference_clip

from bcos_vit import create_model
from bcos_vit.training import OneVsRest, warmup_cosine
from bcos_vit.training.callbacks import BestCheckpoint


@pytest.mark.parametrize("mixed", [False, True])
def test_loss_equals_the_reference(mixed):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    target = torch.tensor([0, 4, 2, 2, 1, 3])
    if mixed:
        target = torch.rand(6, 5, generator=generator, dtype=torch.float64).softmax(1)
    loss = OneVsRest()
    learning = reference_losses.UniformOffLabelsBCEWithLogitsLoss()(logits, target)
    plain = reference_losses.BinaryCrossEntropyLoss()(logits, target)
    torch.testing.assert_close(loss(logits, target), learning, rtol=1e-14, atol=0)
    torch.testing.assert_close(loss.eval()(logits, target), plain, rtol=1e-14, atol=0)
    assert learning != plain


def test_clipping_equals_the_reference_bit_for_bit():
    ours, theirs = (create_model("bcos_vit_digits", depth=1) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for model in (ours, theirs):
        (100 * model(images).square().sum()).backward()
    before = [p.grad.clone() for p in ours.parameters()]
    timm.utils.adaptive_clip_grad(ours.parameters(), clip_factor=0.01, eps=1e-3)
    reference_clip(theirs.parameters(), clip_factor=0.01, eps=1e-3)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert any(not torch.equal(p.grad, b) for p, b in zip(ours.parameters(), before, strict=True))


def test_schedule_warms_up_linearly_and_then_follows_a_cosine():
    total, warm, peak = 50, 10, 3e-3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    schedule = warmup_cosine(optimizer, total, warmup_steps=warm)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    for step, rate in enumerate(found):
        if step < warm:
            expected = peak * (0.01 + 0.99 * step / warm)
        else:
            expected = peak * (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        assert rate == pytest.approx(expected, rel=1e-9), step


@pytest.mark.parametrize("steps", [0, -3])
def test_schedule_refuses_a_warmup_of_no_step(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match=f"must be at least 1, found {steps}: .*recipe.classifier.schedule=null"):
        warmup_cosine(optimizer, 50, warmup_steps=steps)


@pytest.mark.parametrize("steps", [50, 60, 5000])
def test_a_warmup_that_leaves_nothing_only_rises_and_says_how_far(steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    reached = 0.01 + 0.99 * 50 / steps
    with pytest.warns(UserWarning, match=f"the training of 50: .*rises to {reached:.1%} of what is given and never"):
        schedule = warmup_cosine(optimizer, 50, warmup_steps=steps)
    for step in range(50):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(2 * (0.01 + 0.99 * step / steps), rel=1e-9)
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(2 * reached)


def test_a_warmup_one_step_shorter_than_the_training_warns_of_nothing(recwarn):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup_cosine(optimizer, 50, warmup_steps=49)
    assert not [w for w in recwarn if "warm-up" in str(w.message)]


@pytest.mark.parametrize(("score", "kept"), [(0.8, False), (0.9, True), (0.95, True)])
def test_a_tie_goes_to_the_later_checkpoint(tmp_path, score, kept):
    class OneProcess:
        class strategy:  # noqa: N801 - as Lightning names it
            @staticmethod
            def reduce_boolean_decision(decision):
                return decision

    callback = BestCheckpoint(tmp_path)
    callback.best_model_score = torch.tensor(0.9)
    callback.best_k_models = {"best.ckpt": torch.tensor(0.9)}
    callback.kth_best_model_path = "best.ckpt"
    assert callback.check_monitor_top_k(OneProcess(), torch.tensor(score)) is kept

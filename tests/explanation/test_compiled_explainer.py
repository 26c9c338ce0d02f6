"""Compiled explainers say what ``explain`` says, for any batch, by the weights of the day, or refuse in a sentence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcos_vit import Combination, Contrast, Explanation, TopK, Unit, ViT, compile_explainer, create_model, explain
from bcos_vit.explanation import compiled, tracing
from bcos_vit.layers import Logits
from kinds import KINDS, kind
from toys import NAME, images_for, random_images, toy

OTHERS = [name for name in KINDS if name.startswith("bcos") and name not in ("bcos-stem-maxout", "bcos-rope-tokens")]
TARGETS = [3, [1, 0, 4, 2, 2], Contrast(1, 2), Contrast(0), Combination([1, -2, 0, 4, 0.5]), [[0, 3]] * 5, TopK(2)]


def assert_same(found: Explanation, expected: Explanation, tolerance: float = 1e-5) -> None:
    """Every field within ``tolerance`` of its largest value, and every word the same."""
    fields, others = found._fields(), expected._fields()
    assert fields.keys() == others.keys()
    assert found._words() == expected._words()
    for name, right in others.items():
        field = fields[name]
        assert (field.shape, field.dtype, field.is_inference()) == (right.shape, right.dtype, False), name
        assert not field.requires_grad
        worst = float((field.double() - right.double()).abs().max())
        assert worst <= tolerance * float(right.double().abs().max()), name


@pytest.fixture
def model() -> ViT:
    return toy(NAME, depth=1)  # a trace takes as long as the model is deep


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A number for every program that is compiled."""
    programs: list[Any] = []
    compiled_program = tracing.compiled_program

    def counted(*given: Any) -> Any:
        programs.append(given)
        return compiled_program(*given)

    monkeypatch.setattr(tracing, "compiled_program", counted)
    return programs


def test_one_program_explains_predictions_in_any_batch(model: ViT, made: list[Any], no_compiled_code: None) -> None:
    explainer = compile_explainer(model, backend="aot_eager")
    for batch in (2, 1, 5):
        images = images_for(model, batch, seed=batch)
        assert_same(explainer(images).check(), explain(model, images))
    assert len(made) == 1
    assert not torch._dynamo.utils.counters["frames"]  # whose limit of eight models of a class is none for explainers


def test_one_program_explains_sums_of_logits_and_each_number_of_targets_has_one(model: ViT, made: list[Any]) -> None:
    explainer = compile_explainer(model, targets="input", backend="eager")
    for batch in (5, 1):
        images = images_for(model, batch)
        for target in TARGETS:
            asked = target[:batch] if isinstance(target, list) else target
            assert_same(explainer(images, asked).check(), explain(model, images, asked))
    assert len(made) == 3  # of single targets, of two, and of the largest two


@pytest.mark.parametrize(
    "name",
    ["bcos-stem-maxout", "bcos-rope-tokens", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
def test_models_of_other_kinds(name: str) -> None:
    model = kind(name, depth=1)
    explainer = compile_explainer(model, targets="input", backend="eager")
    for batch in (3, 1):
        images = images_for(model, batch)
        assert_same(explainer(images, TopK(2)).check(), explain(model, images, TopK(2)))


def test_the_weights_are_those_of_the_day(model: ViT, images: Tensor, made: list[Any]) -> None:
    explainer = compile_explainer(torch.compile(model, backend="eager"), backend="eager")
    before = explainer(images)
    model.load_state_dict(toy(NAME, seed=1, depth=1).state_dict())
    assert_same(explainer(images), explain(model, images))
    assert not torch.allclose(explainer(images).logit, before.logit)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images).square().sum().backward()
    optimiser.step()
    assert_same(explainer(images), explain(model, images))
    model.blocks[0].attention.project.weight = nn.Parameter(torch.rand(16, 16))  # another tensor of its shape
    assert_same(explainer(images), explain(model, images))
    assert len(made) == 1


@pytest.mark.slow
def test_a_model_that_has_changed_is_compiled_again(model: ViT, images: Tensor, made: list[Any]) -> None:
    explainer = compile_explainer(model, backend="eager")
    explainer(images)
    model.double()
    assert_same(explainer(images.double()).check(1e-12), explain(model, images.double()), 1e-12)
    with pytest.raises(TypeError, match=r"images are torch\.float32 but the model is torch\.float64"):
        explainer(images)
    model.float().logits = Logits(1.0, -1.0)
    assert_same(explainer(images), explain(model, images))
    model.logits.scale = 3.0
    assert_same(explainer(images), explain(model, images))
    model.logits.bias += 1e-5  # less than is shown of it
    assert torch.equal(explainer(images).constants["bias"], explain(model, images).constants["bias"])
    assert len(made) == 5


def test_each_size_has_a_program(model: ViT, made: list[Any]) -> None:
    explainer = compile_explainer(model, backend="eager")
    for size in (12, (8, 16), 12):
        images = random_images(2, size)
        assert_same(explainer(images), explain(model, images))
    assert len(made) == 2


def test_autocast_is_as_in_explain(model: ViT, images: Tensor) -> None:
    explainer = compile_explainer(model, "input", backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(explainer(images, 1).check(), explain(model, images, 1), 2e-2)
        assert explainer(images, 1).logit.dtype == torch.bfloat16
    assert_same(explainer(images, 1).check(), explain(model, images, 1))


def test_callers_find_all_as_they_left_it(model: ViT, images: Tensor) -> None:
    explainer, expected = compile_explainer(model, backend="eager"), explain(model, images)
    model(images).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    images.requires_grad_()
    e = explainer(images)
    with torch.no_grad():
        images.zero_()  # the caller may use the memory again
    assert_same(e, expected)
    assert images.grad is None
    assert all(torch.equal(p.grad, g) and p.requires_grad for p, g in zip(model.parameters(), gradients, strict=True))
    with torch.inference_mode():
        assert_same(explainer(expected.images.clone()), expected)
    with torch.no_grad():
        assert_same(explainer(expected.images), expected)


def test_of_several_threads_one_compiles(model: ViT, made: list[Any]) -> None:
    explainer = compile_explainer(model, backend="eager")
    batches = [images_for(model, 1 + seed % 3, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(explainer, batches))
    for e, images in zip(found, batches, strict=True):
        assert_same(e, explain(model, images))
    assert len(made) == 1


@pytest.mark.slow
def test_many_models_in_one_process_stay_compiled(made: list[Any], no_compiled_code: None) -> None:
    images = images_for(toy(NAME))
    for seed in range(10):
        model = toy(NAME, seed=seed, depth=1)
        assert_same(compile_explainer(model, backend="aot_eager")(images), explain(model, images))
    assert len(made) == 10
    assert not torch._dynamo.utils.counters["frames"]


def test_what_does_not_fit_is_refused_in_a_sentence(
    model: ViT, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, given = (compile_explainer(model, targets, backend="eager") for targets in ("predicted", "input"))
    with pytest.raises(ValueError, match=r"made for the predicted class: .*targets='input'"):
        predicted(images, 3)
    with pytest.raises(ValueError, match="made for given targets: give one"):
        given(images)
    for target, sentence in ((5, "target 5 is out of range"), (TopK(6), "more classes than"), ([1], "for 3 images")):
        with pytest.raises(ValueError, match=sentence):
            given(images, target)
    with pytest.raises(TypeError, match=r"knows no units inside the network .*channel 1 at pooled"):
        given(images, Unit("pooled", 1))
    with pytest.raises(ValueError, match="image values must lie in"):
        predicted(images + 1)
    assert len(predicted(images + 0.5, check_values=False)) == 3
    with pytest.raises(ValueError, match=r"must have shape \(B, 3, H, W\)"):
        predicted(images[0])
    with pytest.raises(ValueError, match="multiples of the patch size"):
        predicted(images[..., 1:])
    with pytest.raises(ValueError, match="images are on meta but the model is on cpu"):
        predicted(images.to("meta"), check_values=False)
    with pytest.raises(ValueError, match="targets must be 'predicted' or 'input', found 'all'"):
        compile_explainer(model, "all")
    with pytest.raises(TypeError, match="conventional model"):
        compile_explainer(toy(NAME.replace("bcos", "standard")))
    monkeypatch.setattr(compiled, "missing_compiler", lambda device: f"no compiler for {device}")
    with pytest.raises(RuntimeError, match=r"for cpu cannot be compiled: no compiler for cpu; bcos_vit\.explain needs"):
        compile_explainer(model)


def test_what_a_program_would_not_do_is_refused(model: ViT, images: Tensor) -> None:
    explainer = compile_explainer(model, backend="eager")
    explainer(images)
    hook = model.blocks[0].register_forward_hook(lambda module, given, output: 2 * output)
    with pytest.raises(ValueError, match=r"Block 'blocks\.0' has a hook, which a compiled explainer would not run"):
        explainer(images)
    hook.remove()
    explainer(images)
    model.blocks[0].table = torch.ones(1)
    with pytest.raises(ValueError, match=r"Block 'blocks\.0' holds a tensor 'table' that is no parameter or buffer"):
        explainer(images)

    class Counting(nn.Module):
        """A model of which the result depends on the number of images."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(2, 6 * 8 * 8))

        def encode(self, images: Tensor) -> Tensor:
            return torch.cat((images, 1 - images), 1)

        def forward_encoded(self, encoded: Tensor) -> Tensor:
            return encoded.flatten(1) @ self.weight.T / (1 if len(encoded) > 3 else 2)

    counting = Counting()
    explainer = compile_explainer(counting, backend="eager")
    for batch in (2, 5, 3):
        images = random_images(batch, 8)
        assert_same(explainer(images), explain(counting, images))


@pytest.mark.slow
def test_inductor(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = create_model("bcos_vit_digits", pretrained=True)
    for targets, asked in (("predicted", None), ("input", 3)):
        explainer = compile_explainer(model, targets)  # type: ignore[arg-type]
        for batch in (3, 1, 2, 17):
            images = images_for(model, batch)
            assert_same(explainer(images, asked).check(), explain(model, images, asked))

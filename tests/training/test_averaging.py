"""ema=0.9: the moving average of the weights is what is validated, explained, kept and tested."""

import pytest
import torch

import runs
from bcos_vit import create_model, explain
from bcos_vit.data import Digits
from bcos_vit.models import ViT, ViTSpec
from bcos_vit.training import OneVsRest, callbacks

DECAY = 0.9


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run with a moving average: where it lies, what was seen of it, its report, and what was explained."""
    output, recorder, explained = tmp_path_factory.mktemp("runs") / "ema", runs.Recorder(), []

    def noting(model, images):
        explained.append(explain(model, images))
        return explained[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "explain", noting)
        report = runs.train(
            *(f"output={output}", f"ema={DECAY}", "explanations.every=1", "explanations.images=2"),
            watcher=recorder,
        )
    return output, recorder, report, explained


def moving_average(weights: list[dict[str, torch.Tensor]], decay: float) -> list[dict[str, torch.Tensor]]:
    """After every step: of the first weights, and from then on decay * average + (1 - decay) * weights."""
    averages = [{name: tensor.double() for name, tensor in weights[0].items()}]
    for step in weights[1:]:
        last = averages[-1]
        averages.append({name: decay * last[name] + (1 - decay) * step[name].double() for name in step})
    return averages


def deviation(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in found)


def of_model(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def test_the_kept_weights_are_the_moving_average(averaged):
    output, recorder, _, _ = averaged
    averages = moving_average(recorder.weights, DECAY)
    for name in ("best", "last"):
        content = runs.checkpoint(output, name)
        step = content["global_step"] - 1
        assert deviation(of_model(content["state_dict"]), averages[step]) < 1e-6
        assert deviation(averages[step], recorder.weights[step]) > 1e-4
        assert runs.equal(of_model(content["current_model_state"]), recorder.weights[step])  # to go on with
    saved = create_model(output / "model.safetensors").state_dict()
    assert runs.equal(saved, of_model(runs.checkpoint(output, "best")["state_dict"]))


def test_training_itself_goes_on_with_the_weights_that_are_not_averaged(averaged, tmp_path):
    _, recorder, _, _ = averaged
    plain = runs.Recorder()
    runs.train(f"output={tmp_path / 'plain'}", "explanations.every=null", watcher=plain)
    assert all(runs.equal(one, other) for one, other in zip(plain.weights, recorder.weights, strict=True))


def test_what_validation_finds_is_that_of_the_average(averaged):
    output, recorder, _, _ = averaged
    found, averages, val = runs.logged(output), moving_average(recorder.weights, DECAY), Digits("val")
    model, labels = _model(output), torch.tensor(val.labels)
    for epoch in range(2):
        step = 4 * epoch + 3
        model.load_state_dict(averages[step])
        logits = model(val.images)
        loss = pytest.approx(float(OneVsRest().eval()(logits, labels)), rel=1e-5)
        assert found["val_loss"][epoch] == (step, loss)
        assert found["val_accuracy"][epoch] == (step, pytest.approx(float((logits.argmax(1) == labels).float().mean())))
        model.load_state_dict(recorder.weights[step])
        assert float(OneVsRest().eval()(model(val.images), labels)) != loss


def test_what_is_explained_is_the_average(averaged):
    output, recorder, _, explained = averaged
    averages, model = moving_average(recorder.weights, DECAY), _model(output)
    assert len(explained) == 2
    for epoch, explanation in enumerate(explained):
        model.load_state_dict(averages[4 * epoch + 3])
        expected = explain(model, explanation.images)
        assert torch.equal(explanation.target, expected.target)
        torch.testing.assert_close(explanation.contributions, expected.contributions, rtol=1e-3, atol=1e-5)
        model.load_state_dict(recorder.weights[4 * epoch + 3])
        other = explain(model, explanation.images, explanation.target)
        assert (other.contributions - expected.contributions).abs().max() > 1e-3


def test_what_is_tested_is_the_average(averaged):
    output, _, report, _ = averaged
    test = Digits("test")
    right = (create_model(output / "model.safetensors")(test.images).argmax(1) == torch.tensor(test.labels)).sum()
    assert right == round(360 * report.figures["accuracy"]["top1"])


def test_a_conventional_model_is_averaged_too(tmp_path):
    recorder = runs.Recorder()
    runs.train(f"output={tmp_path / 'twin'}", "model=standard_vit_digits", "ema=0.5", watcher=recorder)
    content = runs.checkpoint(tmp_path / "twin")
    assert deviation(of_model(content["state_dict"]), moving_average(recorder.weights, 0.5)[-1]) < 1e-6


def _model(output) -> ViT:
    return ViT(ViTSpec(**runs.checkpoint(output)["hyper_parameters"]["spec"])).eval()

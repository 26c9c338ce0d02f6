"""Explanations drawn while a model learns: when, of what, what they tell, and that they change nothing."""

import pytest
import torch

import runs
from bcos_vit import Explanation
from bcos_vit import explain as the_original
from bcos_vit.data import Digits
from bcos_vit.layers import Logits
from bcos_vit.metrics import lattice_share, white_noise_share
from bcos_vit.models import ViT, ViTSpec
from bcos_vit.training import callbacks


@pytest.fixture
def explained(monkeypatch) -> list[tuple[dict[str, torch.Tensor], Explanation]]:
    """Every explanation that the callback asks for, and the weights it was made with."""
    found = []

    def explain(model, images):
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        explanation = the_original(model, images)
        found.append((weights, explanation))
        return explanation

    monkeypatch.setattr(callbacks, "explain", explain)
    return found


def _pictures(output) -> list[str]:
    return sorted(p.name for p in (output / "explanations").iterdir())


@pytest.fixture
def undrawn(monkeypatch):
    """Where the picture does not matter: it takes longer than the epoch."""
    monkeypatch.setattr(Explanation, "plot", lambda *_, **__: None)
    monkeypatch.setattr(callbacks, "png", lambda _: b"")
    monkeypatch.setattr(callbacks, "_log_picture", lambda *_: None)
    monkeypatch.setattr(callbacks.Image, "open", lambda _: callbacks.Image.new("RGB", (1, 1)))


# --- when ---


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (25, [5])], ids=str)
@pytest.mark.usefixtures("undrawn")
def test_every_so_many_epochs_and_after_the_last(tmp_path, explained, every, epochs):
    output = tmp_path / "run"
    runs.train(f"output={output}", "recipe.epochs=5", f"explanations.every={every}")
    assert _pictures(output) == [f"epoch_{epoch:04}.png" for epoch in epochs]
    assert [step for step, _ in runs.logged(output)["largest_residual"]] == [4 * epoch - 1 for epoch in epochs]
    assert len(explained) == len(epochs)  # not in the sanity check before training


@pytest.mark.parametrize("off", ["explanations.every=null", "explanations=null"])
def test_off(tmp_path, explained, off):
    output = tmp_path / "run"
    runs.train(f"output={output}", off)
    assert not explained
    assert not (output / "explanations").exists()
    assert "largest_residual" not in runs.logged(output)


def test_a_conventional_model_has_nothing_to_draw(tmp_path, explained):
    output = tmp_path / "run"
    report = runs.train(f"output={output}", "model=standard_vit_digits", "explanations.every=1")
    assert report.images == 360
    assert not explained
    assert not (output / "explanations").exists()


# --- of what ---


@pytest.mark.parametrize(
    ("count", "numbers"), [(1, [0]), (4, [0, 45, 90, 135]), (7, [0, 25, 51, 77, 102, 128, 154])], ids=str
)
@pytest.mark.usefixtures("undrawn")
def test_so_many_images_spread_evenly_over_the_validation_part_and_always_the_same(tmp_path, explained, count, numbers):
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=1", f"explanations.images={count}")
    assert len(explained) == 2
    for _, explanation in explained:
        assert torch.equal(explanation.images, Digits("val").images[numbers])


@pytest.mark.usefixtures("undrawn")
def test_no_more_images_than_there_are(tmp_path, explained):
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=2", "explanations.images=181")
    assert torch.equal(explained[0][1].images, Digits("val").images)


@pytest.mark.usefixtures("undrawn")
def test_the_weights_are_those_after_the_epoch_and_the_prediction_is_explained(tmp_path, explained):
    recorder = runs.Recorder()
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=1", watcher=recorder)
    model = ViT(ViTSpec(**runs.checkpoint(tmp_path / "run")["hyper_parameters"]["spec"])).eval()
    for epoch, (weights, explanation) in enumerate(explained):
        after = recorder.weights[4 * epoch + 3]
        assert runs.equal({name: weights[name] for name in after}, after)
        model.load_state_dict(weights)
        assert torch.equal(explanation.target, model(explanation.images).argmax(1))


# --- what they tell ---


@pytest.mark.usefixtures("undrawn")
def test_residual_and_lattice_share_are_those_of_the_explanation(tmp_path, explained):
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=1", "explanations.images=40")
    found = [value for _, value in runs.logged(tmp_path / "run")["largest_residual"]]
    expected = [float(explanation.relative_residual.max()) for _, explanation in explained]
    assert found == pytest.approx(expected, rel=1e-6)
    assert min(found) > 0
    shares = [float(lattice_share(explanation.contributions, 2).mean()) for _, explanation in explained]
    for name, factor in (("lattice_share", 1), ("lattice_share_of_noise", 1 / white_noise_share(8, 8, 2))):
        found = [value / factor for _, value in runs.logged(tmp_path / "run")[name]]
        assert found == pytest.approx(shares, rel=1e-6)
    assert 0 < min(shares) < max(shares) < 1


@pytest.mark.usefixtures("undrawn")
def test_one_residual_above_the_tolerance_is_an_alarm_and_training_goes_on(tmp_path, explained):
    sentence = r"alarm after epoch \d: \d+ of 40 ledgers do not close within 0; the worst, .* residual of \d"
    with pytest.warns(UserWarning, match=sentence) as warned:
        report = runs.train(
            *(f"output={tmp_path / 'run'}", "explanations.every=1", "explanations.images=40"),
            "+explanations.tolerance=0",
        )
    alarms = [str(w.message) for w in warned if "alarm" in str(w.message)]
    assert [alarm.split(":")[0] for alarm in alarms] == ["alarm after epoch 1", "alarm after epoch 2"]
    for alarm, (_, explanation) in zip(alarms, explained, strict=True):
        assert f"residual of {float(explanation.relative_residual.max()):.3g}" in alarm
    assert report.images == 360


@pytest.mark.parametrize("wrong", [0.01, float("nan")], ids=str)
@pytest.mark.usefixtures("undrawn")
def test_a_model_that_is_not_what_its_rows_say_is_an_alarm_and_training_goes_on(tmp_path, monkeypatch, wrong):
    forward = Logits.forward

    def unaccounted(self, x):
        x = forward(self, x)
        return x if self.training else x + wrong * x.detach()

    monkeypatch.setattr(Logits, "forward", unaccounted)
    with pytest.warns(UserWarning, match=r"alarm after epoch 2: 4 of 4 ledgers do not close within 1e-05"):
        report = runs.train(f"output={tmp_path / 'run'}")
    assert report.images == 360
    found = {name: values[-1][1] for name, values in runs.logged(tmp_path / "run").items()}
    assert not found["largest_residual"] < 1e-3
    assert _pictures(tmp_path / "run") == ["epoch_0002.png"]


@pytest.mark.usefixtures("undrawn")
def test_a_sound_model_is_no_alarm(tmp_path, recwarn):
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=1", "explanations.images=40")
    assert not [w for w in recwarn if "alarm" in str(w.message)]


# --- and change nothing ---


def test_weights_are_the_same_with_and_without(tmp_path):
    states = []
    for every in ("1", "null"):
        output = tmp_path / every
        runs.train(f"output={output}", f"explanations.every={every}", "explanations.images=1")
        states.append(runs.checkpoint(output)["state_dict"])
    assert len(_pictures(tmp_path / "1")) == 2
    assert runs.equal(*states)

"""What an evaluation measures: every image of one part once, whatever the batches."""

import pytest
import torch

from bcos_vit import explain
from bcos_vit.data import DataModule, Digits
from bcos_vit.evaluation import evaluate
from bcos_vit.metrics import Accuracy, Batch, Completeness, Group, Speed
from evaluations import quiet, serve, ten_classes, thirteen
from toys import images_for, toy

BOTH = {"accuracy": Accuracy, "completeness": Completeness}


@pytest.fixture(name="model")
def _model():
    return ten_classes()


@pytest.fixture(name="thirteen")
def _thirteen(model):
    return thirteen(model)


class Seen(Group):
    """Keeps what it is shown."""

    def __init__(self, model):
        super().__init__(model)
        self.model = [model]
        self.batches: list[Batch] = []

    def update(self, batch):
        assert batch.model is self.model[0]
        assert not batch.model.training
        self.batches.append(batch)

    def compute(self):
        return {"seen": float(sum(len(batch.labels) for batch in self.batches))}

    def rows(self, found):
        return {"seen": f"{found['seen']:.0f}"}


@pytest.mark.parametrize("batch_size", [1, 5, 12, 13, 64])
def test_every_image_counts_once_over_uneven_batches(model, thirteen, batch_size):
    report = evaluate(model, serve(*thirteen, batch_size=batch_size), BOTH, trainer=quiet())
    assert report.images == 13
    assert report.figures["accuracy"]["top1"] == pytest.approx(9 / 13)
    assert report.figures["completeness"]["ledgers"] == 13


def test_figures_are_those_of_the_groups_by_themselves(model, thirteen):
    report = evaluate(model, serve(*thirteen), BOTH, trainer=quiet())
    images, labels = thirteen
    for name, make in BOTH.items():
        alone = make(model)
        for start in range(0, 13, 5):
            alone.update(Batch(model, images[start : start + 5], labels[start : start + 5]))
        assert report.figures[name] == pytest.approx(alone.compute(), rel=1e-5, abs=1e-6)
        assert report.rows.items() >= alone.rows(report.figures[name]).items()
    shares = torch.cat([explain(model, part).image_share for part in images.split(5)])
    assert report.figures["completeness"]["smallest_image_share"] == float(shares.min()) == 1


def test_groups_are_shown_all_batches_in_order_and_report_under_their_names(model, thirteen):
    made = []
    metrics = {name: lambda model: made.append(Seen(model)) or made[-1] for name in ("second", "first")}
    report = evaluate(model, serve(*thirteen), metrics, trainer=quiet())
    assert len(made) == 2
    for group in made:
        assert [len(batch.labels) for batch in group.batches] == [5, 5, 3]
        assert torch.equal(torch.cat([batch.images for batch in group.batches]), thirteen[0])
        assert torch.equal(torch.cat([batch.labels for batch in group.batches]), thirteen[1])
    assert made[0].batches[1] is made[1].batches[1]  # so that nothing is computed twice
    assert list(report.figures.items()) == [("second", {"seen": 13.0}), ("first", {"seen": 13.0})]


def test_no_groups_are_no_harm(model, thirteen):
    report = evaluate(model, serve(*thirteen), {}, trainer=quiet())
    assert report.numbers() == {"images": 13, "absent_classes": ["4", "5", "9"]}
    assert report.gallery is not None


def test_speed_is_measured_along_with_the_rest(model, thirteen):
    report = evaluate(model, serve(*thirteen), BOTH | {"speed": Speed}, trainer=quiet())
    assert report.figures["speed"]["explanations_per_prediction"] > 0
    assert report.figures["accuracy"]["top1"] == pytest.approx(9 / 13)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_part_that_was_asked_for_is_read_as_it_is(model, thirteen, split):
    data = serve(*thirteen, split=split, train_transform=torch.zeros_like)
    report = evaluate(model, data, BOTH, trainer=quiet(), split=split)
    assert report.figures["accuracy"]["top1"] == pytest.approx(9 / 13)
    assert torch.equal(report.mistakes.images, thirteen[0][:4])


def test_images_are_seen_through_the_transform_of_evaluation(model, thirteen):
    data = serve(*thirteen, eval_transform=lambda image: 1 - image)
    report = evaluate(model, data, BOTH, trainer=quiet())
    right = model(1 - thirteen[0]).argmax(1) == thirteen[1]
    assert report.figures["accuracy"]["top1"] == pytest.approx(float(right.float().mean()))


def test_a_conventional_model_has_accuracy_and_speed_only():
    twin = toy("standard_vit_digits", num_classes=10)
    images = images_for(twin, 13)
    labels = twin(images).argmax(1)
    report = evaluate(twin, serve(images, labels), BOTH | {"speed": Speed}, trainer=quiet())
    assert report.figures["accuracy"]["top1"] == 1
    assert report.figures["completeness"] == {}
    assert list(report.figures["speed"]) == ["predictions_per_second"]
    assert report.rows["ledgers checked"] == "none: a conventional model has no linear map"
    assert (report.gallery, report.mistakes) == (None, None)


# --- what becomes of the model ---


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_and_everything_else(model, thirteen, training):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train(training)
    evaluate(model, serve(*thirteen), BOTH, trainer=quiet())
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_its_mode_where_an_evaluation_fails(model, thirteen, training):
    model.train(training)
    with pytest.raises(ValueError, match="image values must lie in"):
        evaluate(model, serve(2 * thirteen[0], thirteen[1]), BOTH, trainer=quiet())
    assert all(module.training is training for module in model.modules())


# --- what is refused ---


def test_an_empty_part(model, thirteen):
    with pytest.raises(ValueError, match="the val part of the data is empty"):
        evaluate(model, serve(*thirteen), BOTH, trainer=quiet(), split="val")


def test_another_number_of_classes(model, thirteen):
    data = serve(thirteen[0], thirteen[1] % 3, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="the data has 3 classes, but the model 10 logits"):
        evaluate(model, data, BOTH, trainer=quiet())


def test_another_split(model):
    with pytest.raises(ValueError, match="split must be train, val or test, found 'dev'"):
        evaluate(model, DataModule(Digits, batch_size=9), BOTH, trainer=quiet(), split="dev")

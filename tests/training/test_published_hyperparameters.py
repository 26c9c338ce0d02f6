"""Every number of the recipes of ImageNet, against the configurations of the live reference."""

import dataclasses
import inspect

import numpy as np
import pytest
import timm.utils
import torch
from bcos.data.datamodules import ImageNetDataModule
from bcos.modules.logitlayer import LogitLayer
from bcos.modules.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCEWithLogitsLoss
from bcos.training.agc import adaptive_clip_grad_
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, autoaugment, v2
from torchvision.transforms import transforms as v1
from torchvision.transforms.v2.functional import pil_to_tensor

from bcos_vit.config import build, plain
from bcos_vit.data.imagenet import imagenet_classes
from bcos_vit.models.zoo import CARDS, preprocessing
from bcos_vit.preprocessing import resized
from bcos_vit.training import OneVsRest
from bcos_vit.training.batches import split_batch
from bcos_vit.training.schedule import warmup_cosine
from reference import NAMES
from runs import CONFIGS, config
from toys import toy

GPUS = 8
"""On which the release was trained; the batch size in its configurations is that of one."""
OURS = [name for name in CARDS if "_rope_" in name or "_smooth_" in name]
LOSSES = {UniformOffLabelsBCEWithLogitsLoss: OneVsRest, nn.CrossEntropyLoss: nn.CrossEntropyLoss}


@pytest.fixture(scope="module")
def published():
    """Our name -> the reference's own configuration."""
    from bcos.experiments.ImageNet.vit_final.experiment_parameters import CONFIGS as THEIRS  # seconds

    return {name: THEIRS[name.removeprefix("standard_")] for name in NAMES} | {"all": THEIRS}


@pytest.fixture(scope="module", params=NAMES)
def both(request, published):
    """Our resolved configuration of one name, and the reference's."""
    chosen = config(f"experiment=imagenet/{request.param}", "image_size=224")
    assert chosen.model.name == request.param
    return chosen, published[request.param]


def classifier_of(chosen, **overrides):
    """As it is trained, around a toy of the same structure."""
    return build(chosen.recipe.classifier)(model=toy(chosen.model.name, **overrides), recipe={})


def test_every_configuration_of_the_reference_has_an_experiment(published):
    assert len(NAMES) == len(published["all"]) == 16
    assert {id(published[name]) for name in NAMES} == {id(theirs) for theirs in published["all"].values()}
    assert {p.stem for p in (CONFIGS / "experiment/imagenet").glob("*.yaml")} == {*NAMES, *OURS}


def test_images_of_a_step_and_epochs(both):
    chosen, theirs = both
    assert chosen.recipe.batch_size == GPUS * theirs["data"]["batch_size"]
    at_once = chosen.data.batch_size
    assert split_batch(chosen.recipe.batch_size, devices=GPUS, at_once=at_once).images == theirs["data"]["batch_size"]
    assert chosen.recipe.epochs == theirs["trainer"]["max_epochs"]
    assert build(chosen.trainer)(logger=False).max_epochs == theirs["trainer"]["max_epochs"]


def test_optimiser_with_every_one_of_its_options(both):
    chosen, theirs = both
    classifier = classifier_of(chosen)
    assert classifier.groups is None
    ours = classifier.optimizer(classifier.parameters())
    factory = theirs["optimizer"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of AdamW and centred norms
        created = factory.create(nn.Linear(2, 2))
    assert type(ours) is type(created) is getattr(torch.optim, factory.name)
    (our_group,), (their_group,) = ours.param_groups, created.param_groups
    assert len(our_group.pop("params")) == len(list(classifier.model.parameters()))
    their_group.pop("params")
    assert our_group == their_group  # rates, decay, betas, eps, and the rest
    assert our_group["lr"] == factory.args["lr"]
    assert our_group["weight_decay"] == factory.args.get("weight_decay", 0)


def test_clipping(both):
    chosen, theirs = both
    clip = classifier_of(chosen).clip
    if theirs["use_agc"]:
        defaults = {p.name: p.default for p in inspect.signature(adaptive_clip_grad_).parameters.values()}
        assert clip.func is timm.utils.adaptive_clip_grad
        bound = inspect.signature(clip.func).bind([], **clip.keywords)
        bound.apply_defaults()
        assert {name: bound.arguments[name] for name in defaults if name != "parameters"} == {
            name: value for name, value in defaults.items() if name != "parameters"
        }
        assert "gradient_clip_val" not in theirs["trainer"]
    else:
        assert clip.func is torch.nn.utils.clip_grad_norm_
        assert clip.keywords == {"max_norm": theirs["trainer"]["gradient_clip_val"]}


def test_loss_and_test_loss(both):
    chosen, theirs = both
    loss = classifier_of(chosen).loss
    assert type(loss) is LOSSES[type(theirs["criterion"])]
    logits, target = torch.randn(4, 1000), torch.tensor([0, 7, 999, 500])
    torch.testing.assert_close(loss.train()(logits, target), theirs["criterion"](logits, target))
    assert type(theirs["test_criterion"]) in (BinaryCrossEntropyLoss, nn.CrossEntropyLoss)
    torch.testing.assert_close(loss.eval()(logits, target), theirs["test_criterion"](logits, target))
    own = {n: v for n, v in vars(theirs["criterion"]).items() if n in ("weight", "label_smoothing", "reduction")}
    assert own in ({"reduction": "mean"}, {"reduction": "mean", "label_smoothing": 0.0})


def test_schedule(both):
    chosen, theirs = both
    schedule, factory = classifier_of(chosen).schedule, theirs["lr_scheduler"]
    assert schedule.func is warmup_cosine
    found = inspect.signature(warmup_cosine).bind(None, 0, **schedule.keywords)
    found.apply_defaults()
    assert found.arguments["warmup_steps"] == factory.warmup_steps
    assert found.arguments["start"] == factory.warmup_decay
    assert (factory.name, factory.warmup_method, factory.interval) == ("cosineannealinglr", "linear", "step")
    assert (factory.lr_min, factory.epochs, factory.warmup_epochs) == (0, chosen.recipe.epochs, None)


def test_mixup_mixes_every_batch_with_the_same_alpha(both):
    chosen, theirs = both
    mixing = inspect.getclosurevars(
        ImageNetDataModule.get_train_collate_fn(mixup_alpha=theirs["data"]["mixup_alpha"])
    ).nonlocals["mixupcutmix"]
    (mixup,) = mixing.transforms
    mix = build(chosen.data.mix)(num_classes=chosen_classes(chosen))
    assert type(mix) is v2.MixUp
    assert (mix.alpha, mix.num_classes) == (mixup.alpha, mixup.num_classes)
    assert mixup.p == 1
    assert "cutmix_alpha" not in theirs["data"]


def chosen_classes(chosen) -> int:
    """What the data has, and the model."""
    assert chosen.data.dataset._target_ == "bcos_vit.data.ImageNet"
    assert len(imagenet_classes()) == CARDS[chosen.model.name].spec.num_classes
    return len(imagenet_classes())


def test_training_transforms_have_the_same_order_and_options(both):
    chosen, theirs = both
    ours = build(chosen.data.train_transform).transforms
    *reference, encoding = theirs["data"]["train_transform"].transforms.transforms
    pairs = {
        v2.RandomResizedCrop: (v1.RandomResizedCrop, ("size", "scale", "ratio", "interpolation")),
        v2.RandomHorizontalFlip: (v1.RandomHorizontalFlip, ("p",)),
        v2.RandAugment: (
            autoaugment.RandAugment,
            ("num_ops", "magnitude", "num_magnitude_bins", "interpolation"),
        ),
        v2.PILToTensor: (v1.PILToTensor, ()),
        v2.ToDtype: (v1.ConvertImageDtype, ("dtype",)),
    }
    assert [type(one) for one in ours] == list(pairs)
    assert [type(one) for one in reference] == [theirs_type for theirs_type, _ in pairs.values()]
    for one, other in zip(ours, reference, strict=True):
        for option in pairs[type(one)][1]:
            found, expected = getattr(one, option), getattr(other, option)
            if option == "interpolation":
                found = InterpolationMode(found)  # or its name
            assert found == (tuple(expected) if isinstance(expected, list) else expected), option
    assert reference[0].size == (CARDS[chosen.model.name].spec.image_size,) * 2
    assert ours[2].fill is reference[2].fill is None
    assert ours[0].antialias is reference[0].antialias is True
    assert ours[4].scale is True
    assert type(encoding).__name__ == ("AddInverse" if theirs["model"]["is_bcos"] else "Normalize")  # in our model


def test_evaluation_transforms_have_the_same_sizes(both):
    chosen, theirs = both
    preset = theirs["data"]["test_transform"]
    assert chosen.data.eval_transform._target_.endswith(preprocessing.__name__)
    ours = build(chosen.data.eval_transform)
    assert resized(ours.image_size) == preset.resize.size
    assert (ours.image_size, ours.image_size) == tuple(preset.center_crop.size)
    assert ours.image_size == CARDS[chosen.model.name].spec.image_size == preset.args["crop_size"]
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    theirs = pil_to_tensor(preset.center_crop(preset.resize(photo)))
    assert torch.allclose(ours(photo), theirs / 255)


def test_classes_channels_and_logit_bias(both):
    chosen, theirs = both
    spec = CARDS[chosen.model.name].spec
    assert set(chosen.model) == {"_target_", "name"}  # nothing else is said of the model
    assert spec.num_classes == theirs["data"]["num_classes"] == theirs["model"]["args"]["num_classes"]
    assert spec.channels == theirs["model"]["args"]["channels"]
    if theirs["model"]["is_bcos"]:
        assert (spec.b, spec.max_out, spec.stem_max_out) == (
            *(theirs["model"]["bcos_args"][name] for name in ("b", "max_out", "max_out")),
        )
        layer = LogitLayer(logit_bias=theirs["model"]["logit_bias"])
        assert spec.bias == layer.logit_bias
        assert spec.logit_scale == 1
        assert not layer.logit_temperature
    else:
        assert "logit_bias" not in theirs["model"]
        assert (spec.bias, spec.family) == (0, "standard")


def test_no_averaged_weights_and_no_other_switch_of_the_reference(both):
    chosen, theirs = both
    assert "ema" not in theirs
    assert chosen.ema is None
    assert not theirs["data"].keys() & {"ra_repetitions", "p_gridified", "cutmix_alpha"}
    assert theirs["trainer"].keys() <= {"max_epochs", "gradient_clip_val"}
    assert theirs.keys() == {
        *("data", "model", "lr_scheduler", "trainer", "use_agc", "criterion", "test_criterion", "optimizer")
    }


@pytest.mark.parametrize("name", OURS)
def test_a_name_of_ours_is_trained_as_the_published_one(name):
    names = (name, name.replace("_rope", "").replace("_smooth", ""))
    ours, without = (plain(config(f"experiment=imagenet/{n}", "output=x")) for n in names)
    assert (ours["model"].pop("name"), without["model"].pop("name")) == names
    assert ours == without
    one, other = (dataclasses.asdict(CARDS[n].spec) for n in names)
    assert one | {"position": "sincos", "downsample": "strided"} == other

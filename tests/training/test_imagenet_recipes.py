"""What the files of configs/experiment say of themselves: command, machine, what to expect, and how long it takes."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from bcos.data.datamodules import ImageNetDataModule
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from bcos_vit.config import build, plain
from bcos_vit.models.vit import ViT
from bcos_vit.models.zoo import CARDS
from runs import CONFIGS, config
from toys import images_for, toy

FOLDER = CONFIGS / "experiment"
FILES = {str(p.relative_to(FOLDER).with_suffix("")): p for p in sorted(FOLDER.rglob("*.yaml"))}
IMAGENET = {name.removeprefix("imagenet/"): name for name in FILES if name.startswith("imagenet/")}
composed = cache(config)  # which is only read here
SMALL = ("bcos_vitc_ti_rope_patch1_14", "standard_simple_vit_ti_patch16_224")
LARGE = [name for name in IMAGENET if name not in SMALL]
TWINS = [name for name in IMAGENET if name.startswith("standard_") and "_s_" not in name and "vitc_b" not in name]


@cache
def header(path: Path) -> tuple[str, ...]:
    """The comment that opens a file, line by line, without the marks."""
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return tuple(line.removeprefix("#").strip() for line in lines[:end])


def said(name: str, word: str) -> str:
    """The one line of a file's header that opens with ``word``, without it."""
    (line,) = (line for line in header(FILES[name]) if line.startswith(word))
    return line.removeprefix(word).strip()


@pytest.mark.parametrize("name", FILES)
def test_file_opens_with_what_it_is_and_where_it_is_from(name):
    package, title, *_ = header(FILES[name])
    assert package == "@package _global_"
    assert title
    assert re.search(r"arXiv \d{4}\.\d{5}\b", " ".join(header(FILES[name])))
    for word in ("Command", "Machine", "Expected", "Time"):
        assert said(name, word), word


@pytest.mark.parametrize("name", FILES)
def test_command_names_its_own_file_and_composes(name):
    python, script, *overrides = said(name, "Command").split()
    assert (python, script, overrides[0]) == ("python", "train.py", f"experiment={name}")
    chosen = composed(*overrides)
    values = plain(chosen)
    assert values["model"]["name"] in CARDS or name == "finetune"
    if name in IMAGENET.values():
        assert f"imagenet/{chosen.model.name}" == name
        assert chosen.data.root == "FOLDER"
        assert header(FILES[name])[1].startswith(f"{chosen.model.name} on ImageNet-1k")
        assert (chosen.trainer.accelerator, chosen.trainer.devices) == ("gpu", -1)
        assert chosen.threads is None


@pytest.mark.parametrize("name", IMAGENET.values())
def test_machine_shares_the_images_of_a_step(name):
    gpus, images, total = map(int, re.findall(r"\b\d+\b", said(name, "Machine")))
    assert gpus * images == total == composed(f"experiment={name}").recipe.batch_size
    assert images <= composed(f"experiment={name}").data.batch_size  # at once


@pytest.mark.parametrize("name", FILES)
def test_expected_are_the_figures_of_the_release_or_that_there_are_none(name):
    card = CARDS.get(name.removeprefix("imagenet/"))
    expected = said(name, "Expected")
    if name in ("finetune", "smooth"):
        return
    if card is None or card.top1 is None:
        assert expected == "not yet trained"
        return
    top1, top5 = re.findall(r"(\d+\.\d{3}) % top-[15]\b", expected)
    assert (top1, top5) == (f"{card.top1:.3f}", f"{card.top5:.3f}")
    assert expected.index("top-1") < expected.index("top-5")
    assert "not yet trained here" in expected


def operations(name: str) -> int:
    """Of a whole training: forward and backward of every image in every epoch; nothing is computed."""
    if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu not in flop_registry:
        pytest.skip(f"torch {torch.__version__} does not count the operations of attention on a CPU")
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        model, images = ViT(CARDS[name].spec).train(), torch.empty(1, 3, 224, 224)
        model(images).sum().backward()
    return (
        counter.get_total_flops()
        * ImageNetDataModule.NUM_TRAIN_EXAMPLES
        * composed(f"experiment=imagenet/{name}").recipe.epochs
    )


def assert_time_is_right(name: str) -> None:
    total = operations(name)
    found = re.search(r"; (\S+) operations, (\S+) GPU-hours at (\S+) a second", said(f"imagenet/{name}", "Time"))
    assert found is not None
    assert found[1] == f"{total:.1e}"
    assert found[2] == f"{total / float(found[3]) / 3600:.2g}"
    assert float(found[3]) == 1e14


@pytest.mark.parametrize("name", SMALL)
def test_time_is_what_the_operations_of_the_model_take(name):
    assert_time_is_right(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_time_is_what_the_operations_of_every_model_take(name):
    assert_time_is_right(name)


def test_operations_are_counted_as_when_they_are_done():
    model = toy("bcos_vitc_ti_patch1_14").train()
    with FlopCounterMode(display=False) as done:
        model(images_for(model, 1)).sum().backward()
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counted:
        fake = ViT(model.spec).train()
        fake(torch.empty(1, 3, *[model.spec.image_size] * 2)).sum().backward()
    assert counted.get_total_flops() == done.get_total_flops() > 0


# --- recipe=standard_imagenet_decay ---

DECAY = "recipe=standard_imagenet_decay"


@pytest.mark.parametrize("name", TWINS)
def test_decay_differs_from_the_published_recipe_in_nothing_else(name):
    published, decay = (plain(composed(f"experiment=imagenet/{name}", "output=x", *more)) for more in ([], [DECAY]))
    ours = decay["recipe"]["classifier"]
    groups = ours.pop("groups")
    assert groups == {"_target_": "timm.optim.param_groups_weight_decay", "_partial_": True, "weight_decay": 0.1}
    assert ours["optimizer"].pop("weight_decay") == groups["weight_decay"]
    assert published["recipe"]["classifier"]["optimizer"].pop("weight_decay") == 1e-4
    assert decay == published


@pytest.mark.parametrize("name", ["standard_simple_vit_ti_patch16_224", "standard_vitc_ti_patch1_14"])
def test_decay_shrinks_matrices_and_kernels_alone_by_a_ten_thousandth_a_step(name):
    chosen = composed(f"experiment=imagenet/{name}", DECAY)
    model = toy(name, dtype=torch.float64)
    classifier = build(chosen.recipe.classifier)(model=model, recipe={})
    optimizer = classifier.optimizer(classifier.groups(model))
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, classifier.parameters()))  # each once
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    ranks = set()
    for key, p in model.named_parameters():
        ranks.add(p.dim())
        shrunk = before[key] * (1 - 1e-4 if p.dim() >= 2 else 1)
        torch.testing.assert_close(p.detach(), shrunk, rtol=1e-12, atol=0, msg=key)
    assert ranks == ({1, 2, 4} if model.spec.stem else {1, 2})
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3}  # the full rate


def test_published_decay_shrinks_every_weight_by_next_to_nothing():
    model = toy("standard_vitc_ti_patch1_14", dtype=torch.float64)
    classifier = build(composed("experiment=imagenet/standard_vitc_ti_patch1_14").recipe.classifier)(
        model=model, recipe={}
    )
    optimizer = classifier.optimizer(classifier.parameters())
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[key] * (1 - 1e-7), rtol=1e-14, atol=0, msg=key)

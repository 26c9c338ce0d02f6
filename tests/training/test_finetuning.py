"""Fine-tuning: which layer learns how fast and when, from which weights, and that it learns rather than diverges."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch

from bcos_vit import create_model, save_model
from bcos_vit.training import OneVsRest, head_first, layer_decay
from bcos_vit.training import run as training
from runs import Cut, Recorder, checkpoint, config, logged, train, write_photos
from toys import toy

ROOT = Path(__file__).parents[2]
DATA = ("data=folder", "data.num_workers=0", "image_size=8", "data.train_transform=${data.eval_transform}")
DATA += ("explanations.every=null",)
FINETUNE = "experiment=finetune"


@pytest.fixture(scope="session")
def benchmark():
    """The script of ``benchmarks/``."""
    spec = importlib.util.spec_from_file_location("finetune_benchmark", ROOT / "benchmarks/finetune.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def parity(benchmark, tmp_path_factory):
    """Odd and even digits in folders."""
    root = tmp_path_factory.mktemp("parity") / "digits"
    benchmark.make_parity(root)
    return root


def of_parity(parity, output, *overrides):
    """What trains on it without augmentation."""
    plain = (f"data.root={parity}", f"output={output}", "+trainer.enable_progress_bar=false")
    return config(*DATA, *plain, *overrides)


# --- groups of parameters ---


@pytest.mark.parametrize(
    "name", ["bcos_vitc_ti_patch1_14", "bcos_simple_vit_ti_patch16_224", "standard_vitc_s_patch1_14"]
)
@pytest.mark.parametrize("fields", [{}, {"position": "prior"}, {"head": "tokens"}], ids=str)
def test_every_parameter_is_in_one_group_and_early_ones_learn_slowest(name, fields):
    model = toy(name, **fields)
    groups = layer_decay(model, lr=0.5, decay=0.1)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters())
    depth = model.spec.depth
    assert [group["name"] for group in groups] == ["tokens", *(f"block_{i}" for i in range(depth)), "head"]
    assert [group["lr"] for group in groups] == pytest.approx([0.5 * 0.1 ** (depth + 1 - i) for i in range(depth + 2)])
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in model.blocks[0].parameters()}


@pytest.mark.parametrize("decay", [0, -0.5, 1.01])
def test_impossible_decays(decay):
    with pytest.raises(ValueError, match=f"decay must lie above 0 and be at most 1, found {decay}"):
        layer_decay(toy("bcos_vit_digits"), lr=1e-3, decay=decay)


# --- when they learn ---


def rates(total, **shares):
    """The learning rates of a body and a head at every step."""
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr, "name": n} for n, lr in (("x", 0.1), ("head", 1.0))
    ]
    optimizer = torch.optim.SGD(groups)
    schedule = head_first(optimizer, total, **shares)
    found = []
    for _ in range(total):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0, 0], abs=1e-12)  # after the last step
    return zip(*found, strict=True)


def risen_and_fallen(step, begin, rise, total):
    if step < begin:
        return 0.0
    if step < begin + rise:
        return 0.01 + 0.99 * (step - begin) / rise
    return (1 + math.cos(math.pi * (step - begin - rise) / (total - begin - rise))) / 2


def test_the_head_learns_alone_then_all_follow_a_cosine():
    body, head = rates(100, alone=0.2, warmup=0.1)
    assert head == pytest.approx([risen_and_fallen(step, 0, 10, 100) for step in range(100)])
    assert body == pytest.approx([0.1 * risen_and_fallen(step, 20, 10, 100) for step in range(100)])
    assert body[19] == 0 < body[20]


@pytest.mark.parametrize("total", [1, 2, 3])
def test_few_steps_are_enough(total):
    body, head = rates(total, alone=0.1, warmup=0.1)
    assert head[0] == 1.0
    assert body[0] == pytest.approx(0.1)  # no whole step is a tenth of so few


def test_without_a_rise_learning_begins_at_once():
    body, head = rates(10, alone=0.3, warmup=0)
    assert (body[2], body[3], head[0]) == (0, pytest.approx(0.1), 1.0)


@pytest.mark.parametrize(("alone", "warmup"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (1.0, 0)])
def test_impossible_shares(alone, warmup):
    groups = layer_decay(toy("bcos_vit_digits"), lr=1e-3, decay=0.5)
    with pytest.raises(ValueError, match=f"shares of the steps that leave some, found {alone} and {warmup}"):
        head_first(torch.optim.Adam(groups), 100, alone=alone, warmup=warmup)


def test_groups_without_a_head_are_refused():
    with pytest.raises(ValueError, match="needs groups of parameters of which one is called head"):
        head_first(torch.optim.Adam(toy("bcos_vit_digits").parameters()), 100, alone=0.1, warmup=0.1)


# --- a whole run ---


class Groups(Recorder):
    """Notes the learning rates of all groups."""

    def on_train_batch_start(self, trainer, module, batch, index):
        super().on_train_batch_start(trainer, module, batch, index)
        self.rates[-1] = {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups}


def run(chosen, watcher):
    original = training._callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_callbacks", lambda *given: [watcher, *original(*given)])
        return training.train(chosen)


@pytest.fixture(scope="module")
def tuned(parity, tmp_path_factory):
    """bcos_vit_digits after an epoch of odd or even: output, report and what was seen of every step."""
    output, seen = tmp_path_factory.mktemp("tuned") / "run", Groups()
    return output, run(of_parity(parity, output, FINETUNE, "recipe.epochs=1"), seen), seen


def test_it_begins_with_the_trained_weights_and_an_untrained_head(tuned):
    output, _, seen = tuned
    trained = create_model("bcos_vit_digits", pretrained=True).state_dict()
    for name, tensor in seen.weights[0].items():  # the head alone has learnt
        if name.startswith("head."):
            assert tensor.shape[0] == 2 or name == "head.norm.weight"
        else:
            assert torch.equal(tensor, trained[name]), name
    model = create_model(output / "model.safetensors")
    assert (model.spec.num_classes, model.spec.bias, model.class_names) == (2, 0, ("even", "odd"))


def test_the_head_learns_first_and_early_layers_slowly(tuned):
    _, _, seen = tuned
    alone = round(0.1 * len(seen.rates))
    assert alone >= 2
    for rate in seen.rates[:alone]:
        assert {name for name, lr in rate.items() if lr > 0} == {"head"}
    before, after = seen.weights[alone - 1], seen.weights[alone]
    assert all(torch.equal(before[n], seen.weights[0][n]) for n in before if not n.startswith("head."))
    assert not torch.equal(before["tokens.project.weight"], after["tokens.project.weight"])
    late = seen.rates[len(seen.rates) // 2]
    assert late["tokens"] == pytest.approx(0.75 * late["block_0"]) == pytest.approx(0.75**5 * late["head"], rel=0.2)


@pytest.mark.slow
def test_it_learns_more_than_from_scratch_in_as_many_steps(parity, tuned, tmp_path):
    _, report, seen = tuned
    words = ("recipe.epochs=1", "recipe.classifier.schedule.warmup_steps=2")
    watcher = Recorder()
    scratch = run(of_parity(parity, tmp_path / "run", *words), watcher)
    assert len(watcher.rates) == len(seen.rates)
    found, alone = (r.figures["accuracy"]["top1"] for r in (report, scratch))
    assert found > 0.8 > alone + 0.1  # measured: 0.87 and 0.63


def test_groups_are_logged_by_name_and_kept(tuned):
    output, _, _ = tuned
    assert "lr-Adam/head" in logged(output)
    kept = checkpoint(output)["optimizer_states"][0]["param_groups"]
    assert [group["name"] for group in kept][::5] == ["tokens", "head"]


@pytest.mark.parametrize("lr", [pytest.param(1e-2, marks=pytest.mark.slow), 1.0])
def test_it_does_not_diverge(parity, tmp_path, lr):
    """Ten and a thousand times the recipe's learning rate."""
    seen = Groups()
    chosen = of_parity(parity, tmp_path / "run", FINETUNE, "recipe.epochs=1", f"recipe.classifier.optimizer.lr={lr}")
    report = run(chosen, seen)
    assert all(math.isfinite(norm) for norm in seen.norms)
    assert all(bool(w.isfinite().all()) for w in seen.weights[-1].values())
    assert math.isfinite(report.figures["accuracy"]["loss"])


def test_a_loss_that_is_not_finite_ends_the_run_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(OneVsRest, "forward", lambda self, logits, targets: logits.sum() * math.nan)
    with pytest.raises(ValueError, match=r"mean loss of epoch 0 is nan: lower recipe\.classifier\.optimizer\.lr"):
        train(f"output={tmp_path / 'run'}")
    assert not (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
    model = toy("bcos_vit_digits")
    model.head.norm.weight.data[3] = math.inf
    with pytest.raises(ValueError, match="the weights hold NaN or infinity, and are not written to"):
        save_model(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_goes_on_where_it_was_cut_short(parity, tmp_path):
    """Rates, order and weights of a resumed run, whose images come in a fixed order, are those of a whole one."""
    fixed = (
        "recipe.epochs=3",
        "recipe.batch_size=32",
        "+trainer.limit_train_batches=5",
        "+trainer.limit_val_batches=2",
    )
    whole, first, rest = Groups(), Groups(cut=8), Groups()
    with pytest.MonkeyPatch.context() as patch:
        original = torch.utils.data.DataLoader.__init__
        patch.setattr(
            torch.utils.data.DataLoader, "__init__", lambda self, *a, **k: original(self, *a, **{**k, "shuffle": False})
        )
        run(of_parity(parity, tmp_path / "whole", FINETUNE, *fixed), whole)
        with pytest.raises(Cut):
            run(of_parity(parity, tmp_path / "first", FINETUNE, *fixed), first)
        last = tmp_path / "first/checkpoints/last.ckpt"
        run(of_parity(parity, tmp_path / "rest", FINETUNE, *fixed, f"resume={last}"), rest)
    assert whole.rates[5:] == rest.rates
    assert all(torch.equal(rest.weights[-1][n], tensor) for n, tensor in whole.weights[-1].items())


def test_terms_of_the_weights_go_on(parity, tmp_path):
    model = create_model("bcos_vit_digits", pretrained=True)
    save_model(model, tmp_path / "given.safetensors", about={"licence": "for research only"})
    name = f"model.name={tmp_path / 'given.safetensors'}"
    run(
        of_parity(parity, tmp_path / "run", FINETUNE, name, "recipe.epochs=1", "+trainer.limit_train_batches=2"),
        Recorder(),
    )
    for file in ("model.safetensors", "checkpoints/best.ckpt"):
        assert create_model(tmp_path / "run" / file).about["licence"] == "for research only"
    assert json.loads((tmp_path / "run/card.json").read_text())["derived_from"] == {"licence": "for research only"}


@pytest.mark.parametrize("classes", [("q", "z"), ("0", "cat"), ("0", "1", "2")], ids=["others", "overlapping", "more"])
def test_other_classes_get_a_new_head(tmp_path, classes, capsys):
    trained = toy("bcos_vit_digits", num_classes=2)
    trained.class_names = ("0", "1")
    save_model(trained, tmp_path / "given.safetensors")
    root = write_photos(
        tmp_path / "photos", {f"{part}/{name}": 2 for part in ("train", "val", "test") for name in classes}
    )
    words = (f"model.name={tmp_path / 'given.safetensors'}", "recipe.epochs=1", "data.batch_size=1")
    seen = Recorder(cut=0)
    with pytest.raises(Cut):
        run(of_parity(root, tmp_path / "run", FINETUNE, *words), seen)
    assert "note: a new head, the classes of the weights are not those of the data" in capsys.readouterr().out
    run(of_parity(root, tmp_path / "run", FINETUNE, *words), Recorder())
    model = create_model(tmp_path / "run/model.safetensors")
    assert model.class_names == classes
    assert not torch.allclose(model.head.classify.weight[:2], trained.head.classify.weight, atol=0.1)


def test_a_twin_needs_its_own_recipe(parity, tmp_path):
    words = ("model.name=standard_vit_digits", "recipe.epochs=1", "+trainer.limit_train_batches=2")
    with pytest.raises(
        ValueError, match="recipe=standard_digits, standard_finetune for trained weights, or standard_imagenet"
    ):
        training.train(of_parity(parity, tmp_path / "run", FINETUNE, *words))
    run(of_parity(parity, tmp_path / "run", FINETUNE, *words, "recipe=standard_finetune"), Recorder())
    assert create_model(tmp_path / "run/model.safetensors").spec.family == "standard"


@pytest.mark.slow
def test_the_benchmark_prints_its_table(benchmark, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["finetune.py", "--seeds", "0", "--epochs", "1", "--tasks", "parity", "photos"])
    benchmark.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| parity"] * 3 + ["| photos"] * 3
    assert float(rows[2][2]) > 10  # points that the trained weights are ahead on what they know

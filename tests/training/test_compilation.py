"""``speed.compile=auto``: when the model is compiled, by which figures, what is said; machines without a compiler."""

import functools

import pytest
import torch
from lightning import Callback, Trainer
from torch.utils.data import DataLoader

import runs
from bcos_vit import create_model
from bcos_vit.compiler import missing_compiler
from bcos_vit.config import build, sentences
from bcos_vit.training import compilation, run
from bcos_vit.training.compilation import Compilation, Estimate, remaining
from toys import deviation, images_for, toy

pytestmark = pytest.mark.usefixtures("no_compiled_code")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few steps, a clock on which each of them takes a second, and a compiler that leaves the code as it is."""
    monkeypatch.setattr(compilation, "WARM_UP", 1)
    monkeypatch.setattr(compilation, "TIMED", 2)
    monkeypatch.setattr(compilation, "COLD_START", (0.1, 0.1))
    monkeypatch.setattr(compilation, "SAVED", {("cpu", family): 0.1 for family in ("bcos", "standard")})
    times = iter(range(10_000))
    monkeypatch.setattr(compilation, "_now", lambda device: float(next(times)))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def learner():
    recipe = runs.config("recipe=standard_digits", "recipe.classifier.schedule=null").recipe.classifier
    model = toy("standard_vit_digits", depth=1, width=8, heads=1, mlp_width=12)
    return build(recipe)(model=model.train(), recipe={})


def trainer(*callbacks, **arguments):
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **(quiet | arguments))


def fit(*callbacks, module=None, checkpoint=None, **arguments):
    """Two epochs of six batches, unless told otherwise."""
    module = module or learner()
    images = images_for(module.model, 12)
    items = list(zip(images, torch.arange(12) % 5, strict=True))
    made = trainer(*callbacks, **({"max_epochs": 2} | arguments))
    made.fit(module, DataLoader(items, batch_size=2), ckpt_path=checkpoint, weights_only=checkpoint is not None)
    return module, made


def is_compiled(module):
    return module.model._compiled_call_impl is not None


class Left(Callback):
    """What was thought to remain before every micro-batch, and when the model was compiled."""

    def __init__(self):
        self.found, self.compiled = [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.found.append(remaining(trainer))
        self.compiled.append(is_compiled(module))


def test_it_is_compiled_where_the_rest_repays_it(capsys):
    left = Left()
    module, _ = fit(left, Compilation("auto"))
    assert left.compiled == [False] * 3 + [True] * 9
    assert capsys.readouterr().out.splitlines() == [
        "speed.compile=auto: the model is compiled now: 9 micro-batches of 1 s remain; compiling is assumed "
        "to save 10 % of that, 0.9 s, and to take 0.2 s",
        "speed.compile=auto: a compiled micro-batch takes 1.00 of the time of an uncompiled one; the first one, with "
        "compiling, took 1 s",
    ]
    torch.testing.assert_close(dict(module.model.state_dict()), dict(fit()[0].model.state_dict()))


def test_it_stays_as_it_is_where_the_rest_does_not(capsys, monkeypatch):
    monkeypatch.setattr(compilation, "COLD_START", (0.5, 0.5))
    module, _ = fit(Compilation("auto"))
    assert not is_compiled(module)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("speed.compile=auto: the model is not compiled: 9 micro-batches of 1 s remain")


def test_a_run_that_is_too_short_is_not_timed(capsys):
    module, _ = fit(Compilation("auto"), max_epochs=1, limit_train_batches=3)
    assert not is_compiled(module)
    assert capsys.readouterr().out == "speed.compile=auto: the model is not compiled: 3 micro-batches are too few\n"


def test_the_first_process_decides_for_all(monkeypatch):
    monkeypatch.setattr("lightning.pytorch.strategies.SingleDeviceStrategy.broadcast", lambda *_: False)
    module, _ = fit(Compilation("auto"))
    assert not is_compiled(module)


@pytest.mark.parametrize(("limit", "per_step", "epochs"), [(6, 1, 2), (6, 3, 2), (5, 3, 2), (2, 3, 3), (4, 2, 1)])
def test_what_remains_is_counted_in_micro_batches(limit, per_step, epochs):
    left = Left()
    fit(left, limit_train_batches=limit, accumulate_grad_batches=per_step, max_epochs=epochs)
    total = limit * epochs
    assert len(left.found) == total
    firsts = [n for n in range(total) if n % limit == 0]  # inside of an epoch, whole steps are counted
    assert [left.found[n] for n in firsts] == pytest.approx([total - n for n in firsts])
    assert left.found == sorted(left.found, reverse=True)


def test_what_remains_ends_with_max_steps_and_goes_on_after_a_cut(tmp_path):
    left = Left()
    fit(left, max_steps=8, max_epochs=5)
    assert left.found == list(range(8, 0, -1))
    _, made = fit(max_epochs=1)
    made.save_checkpoint(tmp_path / "last.ckpt")
    left = Left()
    fit(left, checkpoint=tmp_path / "last.ckpt", max_epochs=3)
    assert left.found == list(range(12, 0, -1))


def test_a_device_of_which_nothing_is_known_does_not_compile(monkeypatch):
    monkeypatch.setattr(compilation, "SAVED", {})
    assert not is_compiled(fit(Compilation("auto"))[0])


def test_estimates():
    assert not Estimate(100, 1.0, 0.1, 10.0).pays
    assert Estimate(101, 1.0, 0.1, 10.0).pays
    assert Estimate(float("inf"), 1.0, 0.1, 10.0).pays


def test_true_says_beforehand_how_long_it_takes(capsys):
    fit(Compilation(True), max_epochs=1, limit_train_batches=1)
    said = "speed.compile=true: compiling takes about 0.2 s, most of it at the start; less where torch has kept it\n"
    assert capsys.readouterr().out == said


def test_too_many_versions_end_with_a_sentence():
    said = r"^error: the compiled model met a ninth kind of input .* speed\.compile=false$"
    with pytest.raises(SystemExit, match=said), sentences(traceback=False):
        raise torch._dynamo.exc.FailOnRecompileLimitHit("Hard failure")
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit), sentences(traceback=True):
        raise torch._dynamo.exc.FailOnRecompileLimitHit("Hard failure")


# --- whole runs ---


@pytest.mark.parametrize(("word", "count"), [("true", 1), ("false", 0), ("auto", 1)])
def test_the_word_brings_it(word, count):
    found = run._callbacks(runs.config(f"speed.compile={word}", "output=run"), None)
    assert sum(isinstance(callback, Compilation) for callback in found) == count


@pytest.mark.slow
def test_a_run_compiled_on_the_way_is_averaged_validated_and_explained(tmp_path, capsys):
    words = ("ema=0.9", "explanations.every=1", f"output={tmp_path / 'run'}")
    report = runs.train("speed.compile=auto", "recipe.epochs=2", *words)
    assert report.figures["completeness"]["largest_residual"] <= 1e-5
    assert "speed.compile=auto: the model is compiled now: 5 micro-batches" in capsys.readouterr().out
    assert len(list((tmp_path / "run/explanations").iterdir())) == 2


@pytest.mark.slow
def test_a_compiled_run_is_averaged_cut_resumed_and_explained(tmp_path):
    words = ("speed.compile=true", "ema=0.9", "recipe.epochs=4", "explanations.every=1")
    with pytest.raises(runs.Cut):
        runs.train(*words, f"output={tmp_path / 'cut'}", watcher=runs.Recorder(cut=10))
    again, last = runs.Recorder(), tmp_path / "cut/checkpoints/last.ckpt"
    report = runs.train(*words, f"output={tmp_path / 'again'}", f"resume={last}", watcher=again)
    assert [step for _, step in again.places] == list(range(8, 16))
    assert report.figures["completeness"]["largest_residual"] <= 1e-5
    assert len(list((tmp_path / "again/explanations").iterdir())) == 2
    kept = runs.checkpoint(tmp_path / "again", "best")["state_dict"]
    weights = create_model(tmp_path / "again/model.safetensors").state_dict()
    assert runs.equal(weights, {name.removeprefix("model."): tensor for name, tensor in kept.items()})
    plain = runs.Recorder()  # the switch may change between the two
    runs.train(*words[1:], f"output={tmp_path / 'plain'}", f"resume={last}", watcher=plain)
    for name, tensor in plain.weights[-1].items():
        assert deviation(again.weights[-1][name], tensor) <= 1e-4


# --- without a compiler ---


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_auto_goes_on_without_a_compiler(capsys, no_compiler):
    module, _ = fit(Compilation("auto"))
    assert not is_compiled(module)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("speed.compile=auto: the model is not compiled: there is no C++ compiler '")


def test_true_is_refused_before_anything_is_built(tmp_path, no_compiler):
    with pytest.raises(
        ValueError, match=r"^speed\.compile=true, but there is no C\+\+ compiler '.*speed\.compile=false$"
    ):
        runs.train("speed.compile=true", f"output={tmp_path / 'run'}", "model.name=nothing_that_is_built")
    assert not (tmp_path / "run").exists()


def test_what_compiling_needs(monkeypatch, tmp_path):
    (tmp_path / "mine").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "mine")
    assert missing_compiler("cpu") is None
    monkeypatch.setenv("CXX", "another")
    assert missing_compiler("cpu").startswith("no C++ compiler 'another'")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
    assert missing_compiler("cuda").startswith("no Triton")
    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setenv("CC", "another")
    assert missing_compiler("cuda").startswith("no C compiler")
    monkeypatch.setenv("CC", "mine")
    assert missing_compiler("cuda") is None

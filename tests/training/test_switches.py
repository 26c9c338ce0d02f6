"""Speed switches: each does what it says, and what is learnt stays the same, but for rounding."""

import functools

import pytest
import torch
from lightning import Trainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import runs
from bcos_vit import create_model, explain, save_model
from bcos_vit.config import build, sentences
from bcos_vit.layers import GroupNorm, LayerNorm
from bcos_vit.layers.maps import Convolution, Dense
from bcos_vit.training.speed import speed_up
from toys import images_for, toy

STEPS = 30
BCOS, TWIN = "bcos_vitc_ti_patch1_14", "standard_vitc_ti_patch1_14"
BFLOAT16 = {BCOS: 0.3, TWIN: 0.06}  # measured: 0.097 and 0.016; larger models are nearer to float32
FAMILIES = pytest.mark.parametrize("name", [BCOS, TWIN])
pytestmark = pytest.mark.usefixtures("no_compiled_code")


def small(name):
    """A toy with a stem of all its stages, and two by two tokens."""
    return toy(name, image_size=32)


def classifier(name, **speed):
    """A tiny model with a stem and the recipe of its family, at a constant learning rate."""
    recipe = f"recipe={name.split('_')[0]}_digits"
    chosen = runs.config(recipe, "recipe.classifier.schedule=null").recipe.classifier
    made = build(chosen)(model=small(name).train(), recipe={})
    speed_up(made, **speed)
    return made


def learn(made, *, steps=STEPS, precision="32-true"):
    """So many steps on the same batches; the weights after them."""
    images = images_for(made.model, 12)
    items = list(zip(images, torch.arange(12) % 5, strict=True))
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_steps=steps, precision=precision, **quiet)
    trainer.fit(made, DataLoader(items, batch_size=4))
    assert trainer.global_step == steps
    return made.model.state_dict()


@functools.cache
def plainly(name):
    """The weights that all are compared with."""
    return learn(classifier(name))


def apart(found, name):
    """How far weights are from those learnt without a switch, as a share of the way that these went (both norms)."""
    expected, start = plainly(name), small(name).state_dict()
    assert list(found) == list(expected)
    off = torch.cat([(found[key] - tensor).flatten() for key, tensor in expected.items()])
    return float(off.norm() / torch.cat([(tensor - start[key]).flatten() for key, tensor in expected.items()]).norm())


class Calls:
    """Counts calls of a module, and keeps what it gives."""

    def __init__(self, module):
        self.begun, self.given = 0, []
        module.register_forward_pre_hook(self._begin)
        module.register_forward_hook(lambda _, taken, given: self.given.append((taken[0], given)))

    def _begin(self, *_):
        self.begun += 1


# --- weights ---


@FAMILIES
def test_it_learns_and_the_same_twice(name):
    assert apart(small(name).state_dict(), name) == 1
    assert not any(torch.equal(tensor, plainly(name)[key]) for key, tensor in small(name).state_dict().items())
    assert runs.equal(learn(classifier(name)), plainly(name))


@FAMILIES
def test_checkpointing_is_bitwise_the_same(name):
    assert runs.equal(learn(classifier(name, checkpointing=True)), plainly(name))


@FAMILIES
def test_channels_last_is_the_same_but_for_rounding(name):
    assert apart(learn(classifier(name, channels_last=True)), name) <= 1e-4  # measured: 4.9e-6


@FAMILIES
def test_a_fused_optimiser_is_the_same_but_for_rounding(name):
    assert apart(learn(classifier(name, fused=True)), name) <= 1e-5  # measured: 2.1e-6


@FAMILIES
def test_bfloat16_learns_nearly_the_same_in_float32_weights(name):
    found = learn(classifier(name), precision="bf16-mixed")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert 1e-4 < apart(found, name) <= BFLOAT16[name]


@pytest.mark.slow
@FAMILIES
def test_a_compiled_model_learns_the_same_but_for_rounding(name):
    assert apart(learn(classifier(name, compile=True)), name) <= 1e-4  # measured: 2.8e-5


@pytest.mark.slow
@FAMILIES
def test_a_compiled_model_in_bfloat16_with_all_switches_learns_nearly_the_same(name):
    made = classifier(name, **dict.fromkeys(("compile", "checkpointing", "channels_last", "fused"), True))
    assert 1e-4 < apart(learn(made, precision="bf16-mixed"), name) <= BFLOAT16[name]


# --- each does something ---


@pytest.mark.parametrize(("checkpointing", "calls"), [(False, 1), (True, 2)])
def test_checkpointing_computes_blocks_twice_and_the_stem_once(checkpointing, calls):
    made = classifier(BCOS, checkpointing=checkpointing)
    block, stem = Calls(made.model.blocks[1]), Calls(made.model.tokens.stem)
    learn(made, steps=3)
    assert (block.begun, stem.begun) == (3 * calls, 3)


@pytest.mark.parametrize("name", ["bcos_simple_vit_ti_patch16_224", "standard_simple_vit_ti_patch16_224"])
def test_checkpointing_keeps_less_for_the_backward_pass(name):
    kept = {}
    for checkpointing in (False, True):
        model = toy(name, depth=8).train()
        model.set_grad_checkpointing(checkpointing)
        tensors = {}

        def note(tensor, tensors=tensors):
            tensors[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used again
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(images_for(model, 4)).sum()
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        kept[checkpointing] = sum(t.untyped_storage().nbytes() for place, t in tensors.items() if place not in own)
    assert kept[True] < 0.2 * kept[False]


@FAMILIES
@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_last_reaches_every_stage_of_the_stem(name, channels_last):
    made = classifier(name, channels_last=channels_last)
    stages = [Calls(part) for stage in made.model.tokens.stem for part in (stage, stage.conv, stage.norm)]
    learn(made, steps=1)
    for stage in stages:
        ((taken, given),) = stage.given
        for tensor in (taken, given):
            assert tensor.is_contiguous(memory_format=torch.channels_last) is channels_last
    kernels = [stage.conv.weight for stage in made.model.tokens.stem]
    assert all(k.is_contiguous(memory_format=torch.channels_last) is channels_last for k in kernels)


def test_channels_last_needs_no_stem():
    model = toy("bcos_vit_digits").train()
    made = build(runs.config("recipe.classifier.schedule=null").recipe.classifier)(model=model, recipe={})
    speed_up(made, channels_last=True)
    learn(made, steps=1)


@FAMILIES
@pytest.mark.parametrize("fused", [False, True])
def test_fused_is_the_optimisers(name, fused):
    made = classifier(name, fused=fused)
    learn(made, steps=1)
    assert [bool(group["fused"]) for group in made.trainer.optimizers[0].param_groups] == [fused]


def test_an_optimiser_without_a_fused_form_is_refused_in_a_sentence(tmp_path):
    words = (
        "speed.fused=true",
        "recipe.classifier.optimizer._target_=torch.optim.RMSprop",
        f"output={tmp_path / 'run'}",
    )
    with pytest.raises(TypeError, match=r"^RMSprop\S* .*unexpected keyword argument 'fused'$"):
        runs.train(*words)
    with pytest.raises(SystemExit, match=r"^error: RMSprop.*'fused'$"), sentences(traceback=False):
        runs.train(*words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["compile", "checkpointing", "channels_last", "fused"])
def test_a_switch_is_on_or_off(tmp_path, name):
    words = "true, false or auto" if name == "compile" else "true or false"
    for value, found in (("1", "1"), ("yes please", "'yes please'"), ("null", "None"), ("Auto", "'Auto'")):
        with pytest.raises(ValueError, match=rf"^speed\.{name} must be {words}, found {found}$"):
            runs.train(f"output={tmp_path / 'run'}", f"speed.{name}={value}")
    assert not (tmp_path / "run").exists()


def test_an_unknown_switch_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(TypeError, match="unknown key of speed 'chanels_last', did you mean 'channels_last'"):
        runs.train(f"output={tmp_path / 'run'}", "+speed.chanels_last=true")


# --- compiling ---


@pytest.fixture
def traced(monkeypatch):
    """Lets torch.compile trace, but leave the code as it is: seconds instead of half a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.mark.slow
@FAMILIES
def test_compiling_is_done_in_place_and_names_stay(name, tmp_path, traced):
    made = classifier(name, compile=True)
    model = made.model
    assert model._compiled_call_impl is not None
    assert classifier(name).model._compiled_call_impl is None
    assert list(model.state_dict()) == list(small(name).state_dict())
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert apart(learn(made), name) <= 1e-5
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs

    model.eval()
    images, fresh = images_for(model), small(name)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(images), fresh(images))
    save_model(model, tmp_path / "model.safetensors")
    torch.testing.assert_close(create_model(tmp_path / "model.safetensors")(images), fresh(images))
    if name == BCOS:
        found, expected = explain(model, images).check(), explain(fresh, images)
        torch.testing.assert_close(found.contributions, expected.contributions)


# --- bfloat16 ---


class Dtypes(TorchDispatchMode):
    """Dtypes of what goes into matrix products, by their names."""

    def __init__(self):
        super().__init__()
        self.found = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        self.found.setdefault(name, set()).update(t.dtype for t in tensors)
        return func(*args, **(kwargs or {}))


@FAMILIES
def test_bfloat16_is_for_matrices_and_never_for_norms_or_weights(name, monkeypatch):
    made = classifier(name)
    modules = [m for m in made.model.modules() if isinstance(m, LayerNorm | GroupNorm)]
    norms = [Calls(module) for module in modules]
    ops, of_norms = Dtypes(), []
    for kind in (Dense, Convolution):

        def noted(self, x, original=kind.norm):
            found = original(self, x)
            of_norms.append((x.dtype, found.dtype))
            return found

        monkeypatch.setattr(kind, "norm", noted)
    with torch.autocast("cpu", torch.bfloat16), ops:
        made.loss(made(images_for(made.model, 4)), torch.arange(4)).backward()
    assert ops.found["mm"] == {torch.bfloat16}
    patches = {torch.float32} if name == BCOS else set()  # whose norms are a convolution, too
    assert ops.found["convolution"] == {torch.bfloat16} | patches
    assert set(of_norms) == ({(torch.bfloat16, torch.float32)} if name == BCOS else set())
    assert {p.grad.dtype for p in made.parameters()} == {torch.float32}
    assert len(norms) == 2 * 2 + 1 + len(made.model.tokens.stem)
    for norm, module in zip(norms, modules, strict=True):
        ((taken, given),) = norm.given
        exact = module.double()(taken.double()).to(given.dtype)
        assert float((given == exact).float().mean()) > 0.99  # in bfloat16 a third would differ

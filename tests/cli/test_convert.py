"""``bcos-vit convert``: weights change their form and nothing else; what cannot be is a sentence and leaves no file."""

import dataclasses
import errno
import hashlib
import os
import re

import bcos.models.pretrained as published
import pytest
import torch
from safetensors.torch import save_file

import runs
from bcos_vit import create_model, save_model
from bcos_vit.cli.main import main
from bcos_vit.models.published import to_published
from bcos_vit.models.zoo import CARDS, IMAGENET
from toys import VITC, perturb_norms, toy

NAMES = (VITC, "standard_vitc_ti_patch1_14")
DIGITS = "bcos_vit_digits"


@pytest.fixture(scope="module", params=NAMES)
def whole(request, tmp_path_factory):
    """A published architecture, whole, with random weights, and a file of ours that holds it."""
    model = perturb_norms(create_model(request.param))
    model.class_names = ("mine", *IMAGENET[1:])
    path = tmp_path_factory.mktemp("whole") / "mine.safetensors"
    save_model(model, path, about={"epochs": 3})
    return request.param, model, path


@pytest.fixture
def convert(command):
    """A call that succeeds: what it says of the input, once the output's hash has been compared."""

    def call(source, output, *arguments):
        said = command("convert", source, output, *arguments)
        assert (said.status, said.err) == (0, "")
        first, second = said.out.splitlines()
        assert second == f"{output}: SHA-256 {hashlib.sha256(output.read_bytes()).hexdigest()}"
        assert first.startswith(f"{source}: ")
        return first.removeprefix(f"{source}: ")

    return call


@pytest.fixture
def refused(command, tmp_path):
    """The sentence with which a call is refused; nothing may have changed."""

    def call(*arguments):
        before = runs.files(tmp_path)
        said = command("convert", *arguments)
        assert (said.status, said.out) == (2, "")
        assert runs.files(tmp_path) == before
        (line,) = said.err.splitlines()
        assert line.startswith("bcos-vit convert: ")
        return line.removeprefix("bcos-vit convert: ")

    return call


# --- what is written ---


def test_a_file_of_ours_to_the_published_keys_and_back_bit_for_bit(convert, whole, tmp_path):
    name, model, ours = whole
    bcos = name == VITC
    count = sum(p.numel() for p in model.parameters())
    words = f"{'bcos' if bcos else 'standard'}, sincos positions, {count:,} parameters, 1000 classes"
    assert convert(ours, tmp_path / "theirs.pth") == words
    state = torch.load(tmp_path / "theirs.pth", weights_only=True)
    assert runs.equal(state, to_published(model))
    with torch.device("meta"):  # the keys and shapes of the reference's own model, none more and none fewer
        getattr(published, name.removeprefix("bcos_"))(pretrained=False).load_state_dict(
            state, strict=True, assign=True
        )
    assert convert(tmp_path / "theirs.pth", tmp_path / "back.safetensors") == words
    back = create_model(tmp_path / "back.safetensors")
    assert runs.equal(back.state_dict(), model.state_dict())
    assert (back.spec, back.class_names, back.about) == (model.spec, None, {})  # the keys alone were between
    assert sorted(p.name for p in tmp_path.iterdir()) == ["back.safetensors", "theirs.pth"]


def test_a_file_of_ours_keeps_what_it_knows(convert, whole, tmp_path):
    name, model, ours = whole
    convert(ours, tmp_path / "again.safetensors", "--model", name)
    again = create_model(tmp_path / "again.safetensors")
    assert runs.equal(again.state_dict(), model.state_dict())
    assert (again.spec, again.class_names, again.about) == (model.spec, model.class_names, {"epochs": 3})


def test_published_weights_get_the_class_names_of_the_model_they_are_said_to_be(convert, whole, tmp_path):
    name, model, _ = whole
    torch.save(to_published(model), tmp_path / "theirs.pth")
    convert(tmp_path / "theirs.pth", tmp_path / "named.safetensors", "--model", name)
    assert create_model(tmp_path / "named.safetensors").class_names == IMAGENET


def test_a_file_of_the_release_is_known_by_its_name_and_hash(convert, whole, tmp_path, monkeypatch, caplog):
    name, model, _ = whole
    path, terms = tmp_path / CARDS[name].file, CARDS[name].licence
    torch.save(to_published(model), path)
    convert(path, tmp_path / "another.safetensors")  # the name alone is not enough
    assert create_model(tmp_path / "another.safetensors").class_names is None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(CARDS, name, dataclasses.replace(CARDS[name], sha256_prefix=digest[:10]))
    convert(path, tmp_path / "known.safetensors")
    assert caplog.messages == [f"{name}: licence: {terms}"]
    known = create_model(tmp_path / "known.safetensors")
    assert known.class_names == IMAGENET
    assert (known.about["name"], known.about["sha256"], known.about["licence"]) == (name, digest, terms)


def test_published_weights_of_other_classes_are_recognised(convert, tmp_path):
    model = create_model(VITC, num_classes=7)
    torch.save(to_published(model), tmp_path / "seven.pth")
    assert convert(tmp_path / "seven.pth", tmp_path / "seven.safetensors").endswith(" 7 classes")
    found = create_model(tmp_path / "seven.safetensors")
    assert found.spec == model.spec  # whose logit bias is that of seven
    assert runs.equal(found.state_dict(), model.state_dict())


def test_a_checkpoint_of_a_training_run_becomes_the_model_that_the_run_wrote(convert, tmp_path, capsys):
    runs.train(f"output={tmp_path / 'run'}", "explanations.every=null", "+model.position=sincos")
    capsys.readouterr()  # what training says
    checkpoint, written = tmp_path / "run/checkpoints/best.ckpt", create_model(tmp_path / "run/model.safetensors")
    assert convert(checkpoint, tmp_path / "best.safetensors").startswith("bcos, sincos positions, ")
    found = create_model(tmp_path / "best.safetensors")
    assert runs.equal(found.state_dict(), written.state_dict())
    assert (found.spec, found.class_names) == (written.spec, tuple("0123456789"))
    assert found.about["recipe"] == written.about["recipe"]
    convert(checkpoint, tmp_path / "best.pth")
    assert runs.equal(torch.load(tmp_path / "best.pth", weights_only=True), to_published(written))


@pytest.mark.parametrize("form", [".pth", ".safetensors"])
def test_a_bare_state_dict_with_our_keys_needs_to_be_told_what_it_belongs_to(convert, refused, tmp_path, form):
    model, path, output = perturb_norms(create_model(DIGITS)), tmp_path / f"bare{form}", tmp_path / "ours.safetensors"
    torch.save(model.state_dict(), path) if form == ".pth" else save_file(model.state_dict(), path)
    sentence = refused(path, output)
    assert sentence.startswith(f"{path} does not say which model its weights belong to, ")
    assert "`bcos-vit convert IN OUT --model NAME`" in sentence
    convert(path, output, "--model", DIGITS)
    found = create_model(output)
    assert runs.equal(found.state_dict(), model.state_dict())
    assert (found.spec, found.class_names) == (CARDS[DIGITS].spec, tuple("0123456789"))


# --- what is refused ---


@pytest.mark.parametrize(
    ("field", "found", "only"), [("position", "rope", "sincos"), ("value", "bcos", "plain"), ("head", "tokens", "pool")]
)
def test_what_the_release_does_not_have_has_no_published_keys(refused, tmp_path, field, found, only):
    save_model(toy(VITC, **{field: found}), tmp_path / "mine.safetensors")
    sentence = refused(tmp_path / "mine.safetensors", tmp_path / "theirs.pth")
    assert sentence == f"the published models have {field} '{only}' only, found '{found}'"


@pytest.mark.parametrize("kind", ["file", "folder", "itself"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_nothing_is_written_over(refused, model_file, tmp_path, kind, suffix):
    output = tmp_path / f"there{suffix}"
    if kind == "folder":
        output.mkdir()
    else:
        output.write_bytes(b"mine" if kind == "file" else model_file.read_bytes())
    sentence = refused(output if kind == "itself" else model_file, output)
    assert sentence == f"{output} exists: remove it, or give another name"


@pytest.mark.parametrize("name", ["out.pt", "out.ckpt", "out", "out.PTH", "out.safetensors.zip", ".safetensors"])
def test_the_suffix_says_what_is_to_be_written(refused, model_file, tmp_path, name):
    sentence = refused(model_file, tmp_path / name)
    assert sentence == f"OUT must end in .safetensors (ours) or .pth (published keys), found {tmp_path / name}"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("below", ["none", "file"])
def test_a_folder_that_is_not_there(refused, whole, tmp_path, below, suffix):
    (tmp_path / "file").write_text("in the way")
    output = tmp_path / below / f"out{suffix}"
    assert refused(whole[2], output).startswith(f"cannot write {output}: ")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.pth", None, "there is no weights file PATH$"),
        ("none", None, "there is no weights file PATH$"),
        ("folder.safetensors", "folder", "there is no weights file PATH/model.safetensors$"),
        ("text.pth", b"no weights at all" * 9, "PATH is neither a safetensors file nor an archive of torch.save: "),
        ("text.safetensors", b"hi", "PATH is not a safetensors file: it is text; weights are read from "),
        ("empty.pth", b"", "PATH is not a safetensors file: it is empty; weights are read from "),
        ("pickle.pth", b"\x80\x02}q\x00.", "PATH is neither a safetensors file nor an archive of torch.save: "),
        ("cut.pth", b"PK\x03\x04 and no more", "PATH cannot be read safely: "),
    ],
)
def test_files_that_hold_no_weights(refused, tmp_path, name, content, sentence):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert re.match(sentence.replace("PATH", re.escape(str(path))), refused(path, tmp_path / "out.safetensors"))


def test_archives_that_hold_something_else(refused, tmp_path):
    path, output = tmp_path / "in.pth", tmp_path / "out.safetensors"
    state = create_model(DIGITS).state_dict()
    nan = state | {"head.norm.weight": torch.full((96,), torch.nan)}
    for content, sentence in (
        ({}, "PATH holds no weights"),
        (torch.ones(3), "PATH holds no weights"),
        (state | {"more": 3}, "PATH is no state dict: 'more' is no tensor"),
        (Touches(tmp_path / "ran"), "PATH cannot be read safely: it asks for "),
        (nan, "PATH holds NaN or infinite weights, as in head.norm.weight"),
        (state | {"more": torch.ones(3)}, "PATH does not fit its model, tensors are 1 unexpected: more"),
    ):
        torch.save(content, path)
        assert refused(path, output, "--model", DIGITS).startswith(sentence.replace("PATH", str(path)))
    torch.save({"a.weight": torch.ones(3)}, path)
    assert refused(path, output).startswith(f"{path} does not say which model its weights belong to")
    for name in (VITC, DIGITS):
        assert refused(path, output, "--model", name).endswith("; 1 unexpected: a.weight")


class Touches:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [("bcos_vit_digit", r", did you mean 'bcos_vit_digits'\?$"), ("zzz", "; valid are: bcos_simple_vit_b_patch16_224")],
)
def test_an_unknown_model_is_answered_with_the_nearest(refused, model_file, tmp_path, given, nearest):
    sentence = refused(model_file, tmp_path / "out.safetensors", "--model", given)
    assert re.match(f"no model is named '{given}'{nearest}", sentence)


def test_a_model_that_the_file_does_not_hold(refused, whole, tmp_path):
    name, model, ours = whole
    output, other = tmp_path / "out.safetensors", NAMES[1 - NAMES.index(name)]
    assert refused(ours, output, "--model", other) == f"{ours} holds a model of another family"
    rope = f"{VITC.replace('_patch', '_rope_patch')}"
    wrong = "position" if name == VITC else "family"
    assert refused(ours, output, "--model", rope) == f"{ours} holds a model of another {wrong}"
    torch.save(to_published(model), tmp_path / "theirs.pth")
    sentence = refused(tmp_path / "theirs.pth", output, "--model", other)
    assert sentence.startswith(f"{tmp_path / 'theirs.pth'} does not fit its model, tensors are ")
    assert len(sentence) < 1000


def test_a_write_that_breaks_off_leaves_nothing(refused, whole, tmp_path, monkeypatch):
    def break_off(descriptor, *_, **__):
        os.write(descriptor, b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", break_off)
    for name in ("out.pth", "out.safetensors"):
        sentence = refused(whole[2], tmp_path / name)
        assert sentence.startswith(f"cannot write {tmp_path / name}: No space left on device")


@pytest.mark.parametrize("arguments", [(), ("in.pth",), ("in.pth", "out.pth", "more.pth"), ("a", "b", "--model")])
def test_arguments_that_are_missing_or_too_many(command, arguments):
    said = command("convert", *arguments)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("usage: bcos-vit convert [-h]" if len(arguments) < 2 or "--model" in arguments else "")


def test_debug_raises_instead(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no weights file"):
        main(["convert", str(tmp_path / "none.pth"), str(tmp_path / "out.pth"), "--debug"])


def test_a_spec_that_no_shape_shows_is_kept_by_our_files(convert, tmp_path):
    model = toy(VITC, b=1.5, logit_bias=-0.25, logit_scale=2.0)
    save_model(model, tmp_path / "one.safetensors")
    convert(tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    assert dataclasses.asdict(create_model(tmp_path / "two.safetensors").spec) == dataclasses.asdict(model.spec)

"""What ``bcos-vit explain`` writes and says: the explanation of the library, in words, a picture and a file."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from bcos_vit import Contrast, Explanation, create_model, explain, save_model
from bcos_vit.photos import read_photo
from commands import NAMES, paired, results, same
from hostile import picture
from toys import VITC, toy

UNTRAINED = "bcos_vitc_ti_rope_patch1_14"  # nobody has trained it yet


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.fixture
def titles(monkeypatch):
    """Titles of all pictures that are drawn."""
    seen, plot = [], Explanation.plot

    def watched(self, *, title, **options):
        seen.append(title)
        return plot(self, title=title, **options)

    monkeypatch.setattr(Explanation, "plot", watched)
    return seen


@pytest.fixture
def photos(tmp_path):
    """Three photos of different shapes."""
    sizes = {"a": (80, 60), "b": (60, 90), "c": (30, 30)}
    for seed, (name, size) in enumerate(sizes.items()):
        picture(*size, seed=seed).save(tmp_path / f"{name}.png")
    return [tmp_path / f"{name}.png" for name in sizes]


def test_files_hold_what_explain_returns_for_every_photo_and_target(command, model_file, photos, tmp_path):
    out = tmp_path / "new" / "out"
    said = command("explain", *photos, "--model", model_file, "--out", out, "--targets", "top2, WOLF,2,2-vs-tabby cat")
    assert (said.status, said.err) == (0, "")
    model, found = create_model(model_file), paired(out)
    expected = {}
    for photo in photos:
        image = model.transform(read_photo(photo))[None]
        logits = model(image)[0]
        slugs = {0: "0-tabby-cat", 1: "1-wolf", 2: "2--x-", 3: "3-crane", 4: "4-Crane"}
        for target in {*logits.topk(2).indices.tolist(), 1, 2}:
            expected[f"{photo.stem}.{slugs[target]}"] = explain(model, image, target)[0]
        expected[f"{photo.stem}.2-vs-0"] = explain(model, image, Contrast(2, 0))[0]
    assert found.keys() == expected.keys()
    assert [name for name, e in expected.items() if not same(e, found[name])] == []


def test_every_result_is_a_line_with_class_ledger_weights_and_place(command, model_file, photo, tmp_path):
    said = command("explain", photo, "--model", model_file, "--out", tmp_path, "--targets", "0,1-vs-2")
    one, contrast = said.out.splitlines()
    e = Explanation.load(tmp_path / "cat.0-tabby-cat.safetensors")
    ledger = (
        f"logit {e.logit:+.3f} = image {e.image:+.3f} position {e.constants['position']:+.3f} bias -1.386, residual "
    )
    assert one.startswith(f"{photo}: tabby cat, {ledger}")
    assert one.endswith(f", trained weights: {tmp_path / 'cat.0-tabby-cat.png'}")
    assert contrast.startswith(f"{photo}: wolf rather than $x^$, logit ")
    assert contrast.endswith(f"{tmp_path / 'cat.1-vs-2.png'}")


def test_the_predicted_class_is_explained_by_default(command, model_file, photo, tmp_path):
    assert command("explain", photo, "--model", model_file, "--out", tmp_path).status == 0
    model = create_model(model_file)
    (found,) = paired(tmp_path).values()
    assert int(found.target) == int(model(model.transform(read_photo(photo))[None]).argmax())


def test_trained_weights_are_named_in_file_and_title(command, model_file, photo, tmp_path, titles):
    command("explain", photo, "--model", model_file, "--out", tmp_path, "--targets", "wolf")
    about = metadata(tmp_path / "cat.1-wolf.safetensors")
    assert about["model"] == str(model_file)
    assert about["weights"] == "trained weights"
    assert about["photo"] == str(photo)
    (title,) = titles
    assert title == f"{str(photo)[-80:]}: {str(model_file)[-80:]}"  # the end of a long path tells more


def test_random_weights_are_said_in_words_file_and_title(command, photo, tmp_path, titles):
    state = torch.get_rng_state()
    said = command("explain", photo, "--model", UNTRAINED, "--out", tmp_path, "--random-weights", 7, "--targets", "7")
    assert said.status == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert ", random weights, seed 7: " in said.out
    assert "trained weights" not in said.out
    assert metadata(tmp_path / "cat.7-cock.safetensors")["weights"] == "random weights, seed 7"
    assert metadata(tmp_path / "cat.7-cock.safetensors")["model"] == UNTRAINED
    assert titles == [f"{str(photo)[-80:]}: {UNTRAINED}, random weights, seed 7"]
    torch.manual_seed(7)
    model = create_model(UNTRAINED)
    assert same(paired(tmp_path)["cat.7-cock"], explain(model, model.transform(read_photo(photo))[None], 7)[0])


@pytest.mark.parametrize("size", [1, 3])
def test_batches_do_not_change_results(command, model_file, photos, tmp_path, size):
    command("explain", *photos, photos[1], "--model", model_file, "--out", tmp_path / "8")
    arguments = ("--model", model_file, "--out", tmp_path / "n", "--batch-size", size)
    assert command("explain", *photos, photos[1], *arguments).status == 0
    found, expected = paired(tmp_path / "n"), paired(tmp_path / "8")
    assert found.keys() == expected.keys()
    assert len(found) == 4
    assert [name for name, e in expected.items() if not same(e, found[name])] == []


def test_a_model_without_class_names_is_explained_by_numbers(command, photo, tmp_path):
    save_model(toy(VITC), tmp_path / "nameless.safetensors")
    arguments = ("--model", tmp_path / "nameless.safetensors", "--out", tmp_path / "out", "--targets", "3,0-vs-1")
    said = command("explain", photo, *arguments)
    assert said.status == 0
    assert f"{photo}: 3, logit" in said.out
    assert paired(tmp_path / "out").keys() == {"cat.3", "cat.0-vs-1"}


def test_the_picture_shows_names_as_they_are(command, model_file, photo, tmp_path, monkeypatch):
    words, plot = [], Explanation.plot

    def watched(self, **options):
        figure = plot(self, **options)
        words.extend(text for ax in figure.axes for text in ax.texts)
        return figure

    monkeypatch.setattr(Explanation, "plot", watched)
    assert command("explain", photo, "--model", model_file, "--out", tmp_path, "--targets", "$X^$").status == 0
    (ledger,) = words
    assert ledger.get_text().splitlines()[0] == NAMES[2]
    assert not ledger.get_parse_math()


@pytest.mark.parametrize("there", [["cat.1-wolf.png", "cat.1-wolf.safetensors"], ["cat.1-wolf.png"]])
def test_what_is_there_is_never_replaced(command, model_file, photo, tmp_path, there):
    out = tmp_path / "out"
    out.mkdir()
    for name in there:
        (out / name).write_text("old")
    arguments = ("explain", photo, "--model", model_file, "--out", out, "--targets", "1")
    for number in (2, 3):
        said = command(*arguments)
        assert (said.status, said.err) == (0, "")
        assert said.out.endswith(f"{out / f'cat-{number}.1-wolf.png'}\n")
    assert [(out / name).read_text() for name in there] == ["old"] * len(there)
    for name in there:
        (out / name).unlink()
    assert paired(out).keys() == {"cat-2.1-wolf", "cat-3.1-wolf"}


def test_a_failed_photo_is_a_sentence_and_the_others_are_explained(command, model_file, photos, tmp_path):
    photos[1].write_bytes(b"no photo")
    said = command("explain", *photos, tmp_path / "none.png", "--model", model_file, "--out", tmp_path / "out")
    assert said.status == 1
    first, second, last = said.err.splitlines()
    assert first.startswith(f"bcos-vit explain: {photos[1]} is no image that can be read: the formats are AVIF, ")
    assert second == f"bcos-vit explain: there is no file {tmp_path / 'none.png'}"
    assert last == "bcos-vit explain: 2 of 4 photos failed"
    assert {name.split(".")[0] for name in paired(tmp_path / "out")} == {"a", "c"}


def test_of_an_animation_it_is_said_that_the_first_picture_counts(command, model_file, tmp_path):
    picture().save(tmp_path / "a.gif", save_all=True, append_images=[picture(seed=1)])
    said = command("explain", tmp_path / "a.gif", "--model", model_file, "--out", tmp_path / "out")
    assert (said.status, said.err) == (0, f"note: {tmp_path / 'a.gif'} holds 2 pictures, the first is explained\n")


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_a_ledger_that_does_not_close_is_a_failure_and_not_written(
    command, model_file, photo, tmp_path, monkeypatch, error
):
    def wrong(model, images, target):  # the lines of class 0 do not add up to its logit
        found = explain(model, images, target)
        return dataclasses.replace(found, logit=found.logit + error) if target == 0 else found

    monkeypatch.setattr("bcos_vit.cli.explain.explain", wrong)
    said = command("explain", photo, "--model", model_file, "--out", tmp_path / "out", "--targets", "0,1")
    assert said.status == 1
    first, last = said.err.splitlines()
    assert first.startswith(f"bcos-vit explain: {photo}: 1 of 1 ledgers do not close within 1e-05; ")
    assert last == "bcos-vit explain: 1 of 1 photos failed"
    (line,) = said.out.splitlines()
    assert line.startswith(f"{photo}: wolf, logit ")
    assert results(tmp_path / "out").keys() == {"cat.1-wolf"}

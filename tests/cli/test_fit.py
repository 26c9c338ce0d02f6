"""``bcos-vit explain --fit``: all of a photo or its centre, and a note where much of it is cut away."""

from PIL import Image

from bcos_vit import Explanation, create_model, explain, save_model
from commands import paired, same
from hostile import picture
from toys import VITC, toy


def test_a_panorama_is_cut_with_a_note(command, model_file, tmp_path):
    picture(300, 40).save(tmp_path / "wide.png")
    said = command("explain", tmp_path / "wide.png", "--model", model_file, "--out", tmp_path / "out")
    assert said.status == 0
    assert said.err == (
        f"note: 87 % of {tmp_path / 'wide.png'}, 300 x 40 pixels, are cut away around the square in its centre: --fit "
        "whole or --fit pad shows all of it\n"
    )


def test_the_share_is_that_of_the_published_crop_and_ordinary_photos_go_without_note(command, tmp_path):
    model = toy(VITC, image_size=224)
    save_model(model, tmp_path / "model.safetensors")
    for size in ((400, 300), (60, 90), (160, 100), (256, 100)):
        picture(*size).save(tmp_path / f"{size[0]}.png")
    photos = [tmp_path / f"{width}.png" for width in (400, 60, 160, 256)]
    said = command("explain", *photos, "--model", tmp_path / "model.safetensors", "--out", tmp_path / "out")
    (note,) = said.err.splitlines()
    share = 100 * (1 - (224 / 256) ** 2 * 100 / 256)
    assert note.startswith(f"note: {share:.0f} % of {photos[3]}, 256 x 100 pixels, are cut away")


def test_whole_and_pad_explain_what_transform_makes(command, model_file, tmp_path):
    picture(300, 40).save(tmp_path / "wide.png")
    model = create_model(model_file)
    for fit in ("whole", "pad"):
        arguments = ("--model", model_file, "--out", tmp_path / fit, "--targets", "1", "--fit", fit)
        said = command("explain", tmp_path / "wide.png", *arguments)
        assert (said.status, said.err) == (0, "")
        (found,) = paired(tmp_path / fit).values()
        assert same(found, explain(model, model.transform(tmp_path / "wide.png", fit=fit)[None], 1)[0])
    assert Explanation.load(tmp_path / "whole" / "wide.1-wolf.safetensors").images.shape == (3, 48, 352)


def test_photos_of_different_shapes_keep_their_order(command, model_file, tmp_path):
    sizes = {"a": (80, 60), "b": (60, 90), "c": (80, 60)}
    for seed, (name, size) in enumerate(sizes.items()):
        picture(*size, seed=seed).save(tmp_path / f"{name}.png")
    photos = [tmp_path / f"{name}.png" for name in sizes]
    lines = {}
    for fit in ("crop", "whole"):
        arguments = ("--model", model_file, "--out", tmp_path / fit, "--targets", "0,1", "--fit", fit)
        said = command("explain", *photos, *arguments)
        assert (said.status, said.err) == (0, "")
        lines[fit] = [line.partition(", logit")[0] for line in said.out.splitlines()]
    assert lines["whole"] == lines["crop"]
    model = create_model(model_file)
    found = paired(tmp_path / "whole")
    for photo in photos:
        expected = explain(model, model.transform(photo, fit="whole")[None], 1)[0]
        assert same(found[f"{photo.stem}.1-wolf"], expected)


def test_too_many_tokens_fail_one_photo_only(command, tmp_path):
    Image.new("RGB", (800, 8)).save(tmp_path / "line.png")
    picture().save(tmp_path / "a.png")
    save_model(toy("bcos_vit_digits", image_size=32), tmp_path / "model.safetensors")
    arguments = ("--model", tmp_path / "model.safetensors", "--out", tmp_path / "out", "--fit", "whole")
    said = command("explain", tmp_path / "line.png", tmp_path / "a.png", *arguments)
    assert said.status == 1
    sentence, total = said.err.splitlines()
    assert sentence.startswith(
        f"bcos-vit explain: {tmp_path / 'line.png'}: a photo of 800 x 8 pixels is 1600 x 16 patches"
    )
    assert total == "bcos-vit explain: 1 of 2 photos failed"
    assert len(paired(tmp_path / "out")) == 1


def test_a_model_of_one_size_cannot_see_all_in_its_own_shape(command, photo, tmp_path):
    save_model(toy("bcos_vit_digits", position="prior"), tmp_path / "prior.safetensors")
    arguments = ("--model", tmp_path / "prior.safetensors", "--out", tmp_path / "out", "--fit")
    said = command("explain", photo, *arguments, "whole")
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("bcos-vit explain: fit 'whole' makes images of other shapes than 8 x 8, which a model")
    assert not (tmp_path / "out").exists()
    assert command("explain", photo, *arguments, "pad").status == 0


def test_the_command_offers_what_transform_takes():
    from typing import get_args

    from bcos_vit.cli.main import _parser
    from bcos_vit.preprocessing import Fit

    for fit in get_args(Fit):
        assert _parser().parse_args(["explain", "a.png", "--model", "m", "--fit", fit]).fit == fit

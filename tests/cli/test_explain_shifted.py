"""``bcos-vit explain --shifts``: what the library returns, said in words, picture and file."""

import pytest
from safetensors import safe_open

from bcos_vit import Explanation, create_model, explain
from bcos_vit.photos import read_photo
from commands import paired, same


def test_results_are_those_of_the_library_and_say_how_they_were_made(command, model_file, photo, tmp_path, monkeypatch):
    titles, plot = [], Explanation.plot

    def watched(self, *, title, **options):
        titles.append(title)
        return plot(self, title=title, **options)

    monkeypatch.setattr(Explanation, "plot", watched)
    arguments = ("--model", model_file, "--out", tmp_path, "--targets", "wolf", "--shifts", 3, "--seed", 4)
    said = command("explain", photo, *arguments)
    assert (said.status, said.err) == (0, "")
    model, (found,) = create_model(model_file), paired(tmp_path).values()
    e = explain(model, model.transform(read_photo(photo))[None], 1, shifts=3, seed=4)[0]
    assert same(found, e)
    assert found.shifts == 3
    assert f", mean of 3 shifts, standard error {e.logit_error:.3f}, trained weights: " in said.out
    assert titles[0].endswith(", mean of 3 shifts")
    with safe_open(tmp_path / "cat.1-wolf.safetensors", framework="pt") as file:
        assert file.metadata()["seed of the shifts"] == "4"
        assert file.metadata()["shifts"] == "3"


def test_one_shift_has_no_error(command, model_file, photo, tmp_path):
    said = command("explain", photo, "--model", model_file, "--out", tmp_path, "--targets", "wolf", "--shifts", 1)
    assert said.status == 0
    assert ", mean of one shift, trained weights: " in said.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shifts", 0], "shifts must be at least 1, found 0"),
        (["--shifts", 257], "shifts=257 asks for more shifts than differ"),
        (["--seed", 1], "--seed chooses the shifts of --shifts N: give both, or neither"),
        (["--shifts", 2, "--compile"], "--compile makes no explanations of shifted photos: drop --compile or --shifts"),
    ],
)
def test_wrong_use_writes_nothing(command, model_file, photo, tmp_path, arguments, sentence):
    said = command("explain", photo, "--model", model_file, "--out", tmp_path / "out", *arguments)
    assert said.status == 2
    assert said.err.startswith(f"bcos-vit explain: {sentence}")
    assert not (tmp_path / "out").exists()

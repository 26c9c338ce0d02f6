"""``bcos-vit explain --compile``: the same results by compiled programs, and said beforehand that they take long."""

from functools import partial

import pytest

from bcos_vit import Explanation, compile_explainer
from bcos_vit.cli import explain
from commands import paired, same
from hostile import picture


@pytest.mark.slow
def test_results_are_the_same_and_the_wait_is_announced(command, model_file, tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "compile_explainer", partial(compile_explainer, backend="eager"))
    photos = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(photos):
        picture(60, 80, seed=number).save(path)
    arguments = (*photos, "--model", model_file, "--targets", "1,2-vs-tabby cat,top2", "--batch-size", 2)
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    assert command("explain", *arguments, "--out", plain).err == ""
    said = command("explain", *arguments, "--out", compiled, "--compile")
    assert (said.status, said.err) == (0, f"{explain.COLD_START}\n")
    expected, found = paired(plain), paired(compiled)
    assert found.keys() == expected.keys()
    assert [name for name, e in expected.items() if not same(e, found[name])] == []
    assert isinstance(next(iter(found.values())), Explanation)


def test_what_cannot_be_compiled_is_refused_in_a_sentence(command, model_file, photo, tmp_path, monkeypatch):
    arguments = ("explain", photo, "--model", model_file, "--out", tmp_path / "out", "--compile")
    said = command(*arguments, "--fit", "whole")
    assert said.status == 2
    assert "--compile with --fit whole would compile once for every shape of photo" in said.err
    monkeypatch.setenv("CXX", "no-such-compiler")
    said = command(*arguments)
    assert said.status == 2
    assert said.err.startswith("bcos-vit explain: --compile: an explainer for cpu cannot be compiled: no C++ compiler")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_by_inductor(command, photo, tmp_path):
    said = command("explain", photo, "--model", "bcos_vit_digits", "--out", tmp_path / "out", "--compile")
    assert said.status == 0
    assert command("explain", photo, "--model", "bcos_vit_digits", "--out", tmp_path / "plain").status == 0
    ((name, e),) = paired(tmp_path / "plain").items()
    assert same(e, paired(tmp_path / "out")[name])

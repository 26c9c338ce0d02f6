"""The parts that everything leans on: whole files, and questions asked of input."""

import pytest
import torch

from bcos_vit.atomic import replacing
from bcos_vit.checks import check_values, nearest, reject_unknown


def test_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        _write_half(temporary)
    assert target.read_text() == "old"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    ordinary = tmp_path / "ordinary.txt"
    ordinary.touch()
    assert target.stat().st_mode == ordinary.stat().st_mode


def test_file_in_a_missing_folder_or_in_place_of_one_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot write"), replacing(tmp_path / "no" / "out.txt"):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), replacing(tmp_path):
        pass


def test_nearest_offers_the_close_name_or_lists_all():
    assert nearest("hight", ["height", "width"]) == ", did you mean 'height'?"
    assert nearest("zzz", ["height", "width"]) == "; valid are: height, width"
    reject_unknown("thing", ["width"], ["height", "width"])


def test_values_are_let_through_with_a_little_slack():
    check_values(torch.tensor([-0.0009, 0.5, 1.0009]))
    for wrong in (torch.tensor([0.5, float("inf")]), torch.tensor([-0.002]), torch.zeros(0, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\], found|there are no images"):
            check_values(wrong)


def _write_half(path):
    path.write_text("half")
    raise RuntimeError

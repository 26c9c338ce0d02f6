"""The parts that everything leans on: whole files, and questions asked of input."""

import errno
import os

import pytest
import torch

from bcos_vit import atomic
from bcos_vit.atomic import write_whole
from bcos_vit.checks import check_values, nearest, reject_unknown
from commands import has_nameless_files


@pytest.fixture(params=["nameless", "hidden"])
def way(request, monkeypatch, tmp_path):
    """The two ways to write: a file without a name, and a hidden one where there is no such thing."""
    if request.param == "hidden":
        monkeypatch.setattr(atomic, "_open_nameless", lambda folder: None)
    elif not has_nameless_files(tmp_path):
        pytest.skip("this file system has no files without a name")


@pytest.mark.parametrize("content", [b"\0new\xff", "n\xebw\n", b"", bytes(3_000_000)])
@pytest.mark.parametrize("old", [None, "something older"])
def test_a_file_is_written_whole_and_alone(tmp_path, way, content, old):
    target = tmp_path / "out.txt"
    if old is not None:
        target.write_text(old)
    write_whole(target, content)
    assert target.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]


def test_a_file_may_be_read_by_whom_the_mask_says(tmp_path, way):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "out.txt", "new")
        (tmp_path / "ordinary.txt").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "out.txt").stat().st_mode == (tmp_path / "ordinary.txt").stat().st_mode


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("way", "moment", "old"),
    [
        ("nameless", "write", None),
        ("nameless", "write", "old"),
        ("nameless", "link", None),
        ("nameless", "link", "old"),
        ("nameless", "replace", "old"),
        ("hidden", "write", None),
        ("hidden", "write", "old"),
        ("hidden", "replace", None),
        ("hidden", "replace", "old"),
    ],
    indirect=["way"],
)
def test_a_failure_leaves_what_was_there_before(tmp_path, way, monkeypatch, failure, moment, old):
    target = tmp_path / "out.txt"
    if old is not None:
        target.write_text(old)

    def fail(*arguments, **options):
        raise failure

    def half(descriptor, *arguments, **options):
        os.write(descriptor, b"ne")
        fail()

    monkeypatch.setattr(os, *(("fdopen", half) if moment == "write" else (moment, fail)))
    with pytest.raises(type(failure)) as raised:
        write_whole(target, "new")
    assert (target.read_text() if target.exists() else None) == old
    assert [p.name for p in tmp_path.iterdir()] == ([] if old is None else ["out.txt"])
    if isinstance(failure, OSError):
        assert str(raised.value).startswith(f"cannot write {target}: No space left on device; give a path in a folder")


def test_file_in_a_missing_folder_or_in_place_of_one_is_refused(tmp_path, way):
    with pytest.raises(FileNotFoundError, match=r"cannot write .*out\.txt: No such file or directory; give a path"):
        write_whole(tmp_path / "no" / "out.txt", "new")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="cannot write"):
        write_whole(tmp_path / "file" / "out.txt", "new")
    with pytest.raises(IsADirectoryError, match="is a folder, give a file name in it"):
        write_whole(tmp_path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nearest_offers_the_close_name_or_lists_all():
    assert nearest("hight", ["height", "width"]) == ", did you mean 'height'?"
    assert nearest("zzz", ["height", "width"]) == "; valid are: height, width"
    reject_unknown("thing", ["width"], ["height", "width"])


def test_values_are_let_through_with_a_little_slack():
    check_values(torch.tensor([-0.0009, 0.5, 1.0009]))
    for wrong in (torch.tensor([0.5, float("inf")]), torch.tensor([-0.002]), torch.zeros(0, 3, 8, 8)):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\], found|there are no images"):
            check_values(wrong)

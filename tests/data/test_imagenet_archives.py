"""The archives of image-net.org become folders once, whole or not at all."""

import hashlib
import multiprocessing
import shutil
from pathlib import Path

import pytest
from torchvision.datasets import imagenet as archives

from bcos_vit.data import ImageNet
from imagenet_tree import ARCHIVES, CLASSES, VAL, bare_tree, write_devkit, write_train_archive, write_val_archive

NEEDED = {"train": ["train"], "val": ["val", "devkit"]}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A folder with all three archives."""
    folder = tmp_path_factory.mktemp("packed")
    for write in (write_train_archive, write_val_archive, write_devkit):
        write(folder)
    return folder


@pytest.fixture
def root(packed, tmp_path, monkeypatch):
    """The same, of each test's own; the check sums are those of these archives."""
    folder = tmp_path / "imagenet"
    folder.mkdir()
    for kind, name in ARCHIVES.items():
        shutil.copyfile(packed / name, folder / name)
        expect(monkeypatch, folder, kind)
    return folder


def expect(monkeypatch, folder, kind):
    """Let an archive as it lies in ``folder`` be the right one."""
    content = (folder / ARCHIVES[kind]).read_bytes()
    monkeypatch.setitem(archives.ARCHIVE_META, kind, (ARCHIVES[kind], hashlib.md5(content).hexdigest()))


def made(root):
    """What lies in ``root`` but the archives, the lock, and the list of classes of the validation photos."""
    return sorted(p.name for p in root.iterdir() if p.name not in (*ARCHIVES.values(), ".imagenet.lock", "meta.bin"))


def refused(root, split, *words):
    """That unpacking fails with one sentence that has these words, and leaves nothing half-made."""
    with pytest.raises(OSError, match=r"^the archives of ImageNet cannot be unpacked in ") as caught:
        ImageNet(split, root=str(root), unpack=True)
    sentence = str(caught.value)
    for word in (str(root), *words):
        assert word in sentence
    assert "\n" not in sentence
    assert made(root) == []


def test_train_archive_becomes_folders(root):
    part = ImageNet("train", root=str(root), unpack=True)
    assert part.samples == [(f"{root}/train/{wnid}/{wnid}_7.JPEG", number) for number, wnid in enumerate(CLASSES)]
    assert part[3][0].mode == "RGB"
    assert made(root) == ["train"]
    assert sorted(p.name for p in (root / "train").iterdir()) == sorted(CLASSES)  # the inner archives are gone
    assert sorted(p.name for p in root.glob("*.tar*")) == sorted(ARCHIVES.values())


@pytest.mark.parametrize("split", ["val", "test"])
def test_val_archive_becomes_folders(root, split):
    part = ImageNet(split, root=str(root), unpack=True)
    assert made(root) == ["val"]
    assert len(part) == len(VAL)
    classes = {Path(path).name: list(CLASSES)[number] for path, number in part.samples}
    assert classes == {f"ILSVRC2012_val_{number + 1:08}.JPEG": wnid for number, wnid in enumerate(VAL)}
    assert sorted(p.name for p in (root / "val").iterdir()) == sorted(CLASSES)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_second_time_nothing_is_done(tmp_path, split, monkeypatch):
    bare_tree(tmp_path, split)  # without any archive
    monkeypatch.setattr(archives, "extract_archive", None)
    assert len(ImageNet(split, root=str(tmp_path), unpack=True)) == len(CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == [split]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_without_unpack_nothing_is_touched(root, split):
    with pytest.raises(FileNotFoundError, match=rf"^there is no folder {root}/.*data\.dataset\.unpack=true unpacks"):
        ImageNet(split, root=str(root))
    assert sorted(p.name for p in root.iterdir()) == sorted(ARCHIVES.values())


@pytest.mark.parametrize(("split", "kind"), [(split, kind) for split, kinds in NEEDED.items() for kind in kinds])
def test_another_archive_than_expected(root, split, kind):
    with (root / ARCHIVES[kind]).open("ab") as file:
        file.write(b"more")
    refused(root, split, ARCHIVES[kind], "corrupted")


@pytest.mark.parametrize(("split", "kind"), [(split, kind) for split, kinds in NEEDED.items() for kind in kinds])
def test_a_missing_archive(root, split, kind):
    (root / ARCHIVES[kind]).unlink()
    refused(root, split, ARCHIVES[kind], "not present")


def test_an_archive_that_is_not_needed_may_be_missing(root):
    (root / ARCHIVES["val"]).unlink()
    (root / ARCHIVES["devkit"]).unlink()
    ImageNet("train", root=str(root), unpack=True)
    assert made(root) == ["train"]


@pytest.mark.parametrize(("split", "kind"), [(split, kind) for split, kinds in NEEDED.items() for kind in kinds])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_archive_whose_sum_is_right(root, split, kind, damage, monkeypatch):
    file = root / ARCHIVES[kind]
    whole = file.read_bytes()
    # cut within a photo or an inner archive, so that some of it has been unpacked by then
    file.write_bytes(
        {"cut": whole[: len(whole) // 2 + 700], "text": b"this is no archive\n" * 99, "empty": b""}[damage]
    )
    expect(monkeypatch, root, kind)
    refused(root, split)


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_a_killed_run_left_is_cleared(root, split):
    left = root / f".{split}.unpacking" / "n01440764"
    left.mkdir(parents=True)
    (left / "half.JPEG").write_bytes(b"half")
    (root / "meta.bin").write_bytes(b"half")
    part = ImageNet(split, root=str(root), unpack=True)
    assert made(root) == [split]
    assert not [path for path, _ in part.samples if path.endswith("half.JPEG")]


def test_a_root_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(OSError, match=f"{tmp_path}/none"):
        ImageNet("val", root=f"{tmp_path}/none", unpack=True)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_no_part(root, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "load_meta_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ImageNet("val", root=str(root), unpack=True)
    assert "val" not in made(root)


def test_processes_at_once_unpack_once(root, monkeypatch):
    processes, fork = 3, multiprocessing.get_context("fork")
    barrier, queue, extracted = fork.Barrier(processes), fork.Queue(), archives.extract_archive

    def noting(source, *arguments, **named):
        with (root.parent / "extracted").open("a") as file:
            file.write(f"{source}\n")
        return extracted(source, *arguments, **named)

    def unpack():
        barrier.wait()
        try:
            queue.put(len(ImageNet("train", root=str(root), unpack=True)))
        except Exception as error:
            queue.put(repr(error))

    monkeypatch.setattr(archives, "extract_archive", noting)
    started = [fork.Process(target=unpack, daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    assert [queue.get(timeout=60) for _ in started] == [len(CLASSES)] * processes
    for process in started:
        process.join()
    sources = (root.parent / "extracted").read_text().splitlines()
    assert len(sources) == len(set(sources)) == 1 + len(CLASSES)
    assert made(root) == ["train"]

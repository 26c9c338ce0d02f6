"""CIFAR-10 from a small archive of the same make, on a server of this machine."""

import functools
import hashlib
import io
import multiprocessing
import pickle
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torchvision import datasets

from bcos_vit.data import CIFAR10, cifar10

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TRAIN, TEST, VALIDATION = 200, 30, 20


def batch(size, seed):
    labels = [number % 10 for number in range(size)]
    data = np.random.default_rng(seed).integers(0, 256, (size, 3072), np.uint8)
    return {"data": data, "labels": labels}


@pytest.fixture(scope="module")
def archive():
    """The files of a small CIFAR-10 by name."""
    files = {f"data_batch_{n}": batch(TRAIN // 5, n) for n in range(1, 6)}
    files |= {"test_batch": batch(TEST, 6), "batches.meta": {"label_names": NAMES}}
    return {name: pickle.dumps(content) for name, content in files.items()}


@pytest.fixture
def packed(archive, monkeypatch):
    """The archive as one file, which torchvision takes for CIFAR-10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in archive.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    hashes = {name: hashlib.md5(content).hexdigest() for name, content in archive.items()}
    training = [[name, hashes[name]] for name in archive if name.startswith("data_batch")]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", training)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", hashes["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": hashes["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(buffer.getvalue()).hexdigest())
    monkeypatch.setattr(cifar10, "VALIDATION", VALIDATION)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Answers every request with ``content``, slowly, and counts them."""

    content, requests = b"", 0


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests += 1
        time.sleep(0.2)  # so that processes that do not wait for each other are in each other's way
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(packed, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Answer) as running:
        running.content = packed
        address = f"http://127.0.0.1:{running.server_port}/cifar-10-python.tar.gz"
        monkeypatch.setattr(datasets.CIFAR10, "url", address)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def unpacked(archive, packed, tmp_path):
    """A folder that holds the data."""
    (tmp_path / "cifar-10-batches-py").mkdir()
    for name, content in archive.items():
        (tmp_path / "cifar-10-batches-py" / name).write_bytes(content)
    return tmp_path


# --- what it holds ---


def test_split_is_disjoint_stratified_and_fixed(unpacked):
    train, val, test = (CIFAR10(split, root=str(unpacked)) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (TRAIN - VALIDATION, VALIDATION, TEST)
    assert sorted(train.indices + val.indices) == list(range(TRAIN))
    assert torch.bincount(torch.tensor([label for _, label in val])).tolist() == [VALIDATION // 10] * 10
    assert torch.bincount(torch.tensor([label for _, label in train])).tolist() == [(TRAIN - VALIDATION) // 10] * 10
    assert CIFAR10("val", root=str(unpacked)).indices == val.indices
    assert val.indices != sorted(val.indices)  # drawn, not cut off


def test_the_real_split_keeps_5000_for_validation():
    assert cifar10.VALIDATION == 5000


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_items_are_the_photos_of_the_archive(unpacked, split):
    part = CIFAR10(split, root=str(unpacked))
    batches = [batch(TEST, 6)] if split == "test" else [batch(TRAIN // 5, n) for n in range(1, 6)]
    data = np.concatenate([b["data"] for b in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([b["labels"] for b in batches])
    for number in (0, len(part) - 1):
        photo, label = part[number]
        assert (photo.mode, photo.size) == ("RGB", (32, 32))
        assert np.array_equal(np.asarray(photo).transpose(2, 0, 1), data[part.indices[number]])
        assert label == part.targets[number] == labels[part.indices[number]]
    assert part.class_names == tuple(NAMES)


def test_the_transform_is_applied(unpacked):
    assert CIFAR10("test", lambda photo: photo.size, root=str(unpacked))[3] == ((32, 32), 3)


# --- where it comes from ---


def test_nothing_is_downloaded_unasked(server, tmp_path):
    sentence = f"CIFAR-10 is missing from {tmp_path}.*download it with data.dataset.download=true"
    with pytest.raises(FileNotFoundError, match=sentence):
        CIFAR10("train", root=str(tmp_path))
    assert server.requests == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_damaged_data_are_refused(unpacked, name):
    (unpacked / "cifar-10-batches-py" / name).write_bytes(b"half")
    with pytest.raises(FileNotFoundError, match="or damaged: download it"):
        CIFAR10("test", root=str(unpacked))


def test_what_was_downloaded_is_used_again(server, tmp_path):
    root = tmp_path / "data"
    assert len(CIFAR10("test", root=str(root), download=True)) == TEST
    requests = server.requests
    assert len(CIFAR10("val", root=str(root), download=True)) == VALIDATION
    assert len(CIFAR10("train", root=str(root))) == TRAIN - VALIDATION
    assert server.requests == requests > 0


def _length(root, lengths):
    lengths.put(len(CIFAR10("train", root=root, download=True)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_at_once_download_once(server, tmp_path):
    CIFAR10("test", root=str(tmp_path / "alone"), download=True)
    alone, server.requests = server.requests, 0
    context = multiprocessing.get_context("fork")  # with the settings above
    lengths = context.Queue()
    work = functools.partial(_length, str(tmp_path / "both"), lengths)
    processes = [context.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    assert [lengths.get(timeout=60) for _ in processes] == [TRAIN - VALIDATION] * 2
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.requests == alone


@pytest.mark.parametrize("length", [0, 1000], ids=["nothing", "half"])
def test_wrong_bytes_are_refused_and_do_not_stand_in_the_way(server, packed, tmp_path, length):
    server.content = packed[:length]
    with pytest.raises(OSError, match=f"cannot be downloaded from http://127.*to {tmp_path}: .*corrupted; try again"):
        CIFAR10("test", root=str(tmp_path), download=True)
    server.content = packed
    assert len(CIFAR10("test", root=str(tmp_path), download=True)) == TEST


def test_a_server_that_is_not_there_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:1/cifar.tar.gz")
    with pytest.raises(OSError, match=r"cannot be downloaded from http://127\.0\.0\.1:1/cifar\.tar\.gz .*try again"):
        CIFAR10("test", root=str(tmp_path), download=True)


def test_another_split_is_refused_before_anything_is_downloaded(server, tmp_path):
    with pytest.raises(ValueError, match="split must be train, val or test, found 'valid'"):
        CIFAR10("valid", root=str(tmp_path), download=True)
    assert server.requests == 0

"""From configuration to objects, and from errors to one sentence on the way out."""

import datetime
import gc
import os
import signal

import hydra.errors
import lightning
import pytest
import torch
from omegaconf import MissingMandatoryValue, OmegaConf
from torch.utils.data import DataLoader, Dataset

from bcos_vit.config import build, plain, sentences

DATE = {"_target_": "datetime.date", "year": 2024, "month": 5, "day": 6}

# --- build ---


def test_build_calls_what_the_target_names():
    assert build(OmegaConf.create(DATE)) == datetime.date(2024, 5, 6)
    nested = {"_target_": "builtins.dict", "when": DATE}
    assert build(OmegaConf.create(nested)) == {"when": datetime.date(2024, 5, 6)}


def test_what_is_given_comes_in_addition_or_instead():
    partly = OmegaConf.create({"_target_": "datetime.date", "year": 2024, "month": 5})
    assert build(partly, day=6) == datetime.date(2024, 5, 6)
    assert build(partly, day=7, month=1) == datetime.date(2024, 1, 7)
    assert "day" not in partly
    assert partly.month == 5


def test_partial_holds_the_call_back():
    late = build(OmegaConf.create(DATE | {"_partial_": True}), day=9)
    assert late() == datetime.date(2024, 5, 9)
    assert late(day=1) == datetime.date(2024, 5, 1)


def test_arguments_are_plain_values():
    built = build(OmegaConf.create({"_target_": "builtins.dict", "parts": {"test": "val"}, "names": ["a", "b"]}))
    assert type(built["parts"]) is dict
    assert type(built["names"]) is list


@pytest.mark.parametrize(
    ("target", "kind", "sentence"),
    [
        ({"_target_": "bcos_vit.data.Digits", "split": "dev"}, ValueError, "split must be train, val or test"),
        ({"_target_": "bcos_vit.create_model", "name": "bcos_vit_digit"}, ValueError, "did you mean"),
        ({"_target_": "bcos_vit.create_model", "name": "none.ckpt"}, FileNotFoundError, "there is no weights file"),
        ({"_target_": "bcos_vit.data.Digits", "split": "val", "hour": 3}, TypeError, "hour"),
    ],
)
def test_build_raises_the_error_of_what_is_built(target, kind, sentence):
    for config in (target, {"_target_": "builtins.dict", "inner": target}):
        with pytest.raises(kind, match=sentence) as error:
            build(OmegaConf.create(config))
        assert type(error.value) is kind


def test_a_target_that_does_not_exist_is_named():
    with pytest.raises((ImportError, hydra.errors.InstantiationException), match="Nonesuch"):
        build(OmegaConf.create({"_target_": "bcos_vit.data.Nonesuch"}))


# --- plain ---


def test_plain_resolves_every_reference():
    config = OmegaConf.create({"size": 8, "data": {"size": "${size}", "sizes": [1, "${size}"]}})
    found = plain(config)
    assert found == {"size": 8, "data": {"size": 8, "sizes": [1, 8]}}
    assert type(found["data"]) is dict
    with pytest.raises(MissingMandatoryValue, match="size"):
        plain(OmegaConf.create({"size": "???"}))


# --- sentences ---


def said(error, *, debug=False):
    """What the program says about ``error`` before it ends, and its status."""
    with pytest.raises(SystemExit) as end, sentences(debug):
        raise error
    assert isinstance(end.value.code, str)  # Python prints a text on stderr, and the status is 1
    return end.value.code


@pytest.mark.parametrize(
    "error",
    [
        ValueError("width 97 must be a multiple of heads 3"),
        TypeError("unknown config key 'foo'"),
        FileNotFoundError("there is no folder photos"),
        PermissionError("cannot write out"),
        ImportError("wandb is not installed"),
        lightning.fabric.utilities.exceptions.MisconfigurationException("no such accelerator"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_a_user_can_mend_ends_the_program_with_a_sentence(error):
    assert said(error) == f"error: {error}"
    with pytest.raises(type(error)), sentences(True):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("bug"), ZeroDivisionError(), KeyError("x"), AssertionError()])
def test_an_error_of_our_own_shows_where_it_is(error):
    with pytest.raises(type(error)), sentences(False):
        raise error


class Spoilt(Dataset):
    """Items that cannot be read, for a reason with a reason."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("broken: data")
        except OSError as error:
            raise ValueError("photo 1: it is damaged\nand cannot be read") from error


def test_an_error_in_a_process_that_loads_data_is_said_without_its_traceback():
    loader = iter(DataLoader(Spoilt(), num_workers=1))
    with pytest.raises(SystemExit) as end, sentences(False):
        next(loader)
    assert end.value.code == "error: photo 1: it is damaged\nand cannot be read"
    del end
    gc.collect()  # the error holds the loader and itself; a worker that is ended by a later collection takes 5 s


def test_a_process_that_another_one_has_left_says_so():
    error = RuntimeError("[pair.cc:561] Connection closed by peer [127.0.0.1]:11924. Check the logs")
    assert said(error) == "error: another process of this run has ended, its own message says why"
    with pytest.raises(RuntimeError, match="by peer"), sentences(True):
        raise error


class Killed(Dataset):
    """Whoever loads an item is ended by the system, as where memory runs out."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_that_loads_data_is_named():
    loader = iter(DataLoader(Killed(), num_workers=1))
    with pytest.raises(SystemExit) as end, sentences(False):
        next(loader)
    assert "a process that loads images was ended from outside" in end.value.code
    assert "data.num_workers=" in end.value.code
    del end
    gc.collect()


def test_nothing_is_said_where_nothing_is_wrong(capsys):
    with sentences(False):
        torch.zeros(1)
    assert capsys.readouterr() == ("", "")

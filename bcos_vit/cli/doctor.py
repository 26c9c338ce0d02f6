"""``bcos-vit doctor``: what a bug report should say, and on request whether the device computes what it should."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import time
from pathlib import Path

import torch

from bcos_vit.cli.choice import chosen_device, trying_out
from bcos_vit.cli.self_test import findings
from bcos_vit.extras import versions
from bcos_vit.models.pretrained import CACHE, MIRROR, OFFLINE, cache_folder
from bcos_vit.models.shipped import SHIPPED, shipped_weights
from bcos_vit.models.weights import SUFFIX
from bcos_vit.models.zoo import CARDS


def run(given: argparse.Namespace) -> int:
    """Print versions, devices, caches and shipped models; 1 if one is missing or damaged, or a law does not hold."""
    if given.device is not None and not given.self_test:
        raise ValueError(f"--device {given.device} says where to test: add --self-test")
    print("versions")
    for package, found in versions().items():
        print(f"  {package:<14}{found or 'not installed'}")
    print("devices")
    for line in _devices():
        print(f"  {line}")
    print("caches")
    for name, path in _caches().items():
        print(f"  {name:<14}{path} ({_state(path)})")
    print("published weights")
    for line in _published():
        print(f"  {line}")
    print("shipped models")
    wrong = 0
    for name in SHIPPED:
        try:
            print(f"  {name:<22}{shipped_weights(name)} (SHA-256 as on its card)")
        except (OSError, ValueError) as error:
            wrong += 1
            print(f"  {name:<22}{error}")
    if given.self_test:
        wrong += _self_test(chosen_device(given))
    return 1 if wrong else 0


def _self_test(device: str) -> int:
    """How many laws do not hold on ``device``, after all have been printed with their figures."""
    start = time.perf_counter()
    with trying_out(device):
        (torch.eye(2, device=device) @ torch.ones(2, 2, device=device)).sum().item()
    print(f"self-test on {device}")
    held: list[bool] = []
    for finding in findings(torch.device(device)):
        print(f"  {finding}", flush=True)
        if finding.holds is not None:
            held.append(finding.holds)
    wrong, seconds = held.count(False), f"{time.perf_counter() - start:.0f} s"
    if wrong:
        print(f"verdict: {wrong} of {len(held)} laws do not hold on {device} ({seconds}): report all of the above")
    else:
        print(f"verdict: all {len(held)} laws hold on {device} ({seconds})")
    return wrong


def _devices() -> list[str]:
    lines = [f"cpu           {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads in use"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        assert kind is not None
        for number in range(torch.accelerator.device_count()):
            name = f"{kind.type}:{number}"
            known = torch.cuda.get_device_name(number) if kind.type == "cuda" else kind.type
            lines.append(f"{name:<14}{known}")
    else:
        lines.append("accelerator   none found")
    return lines


def _caches() -> dict[str, Path]:
    return {"weights": cache_folder(), "temporary": Path(os.environ.get("TMPDIR", "/tmp"))}


def _published() -> list[str]:
    """What the environment says of downloads, and which are in the cache, without checking them."""
    given = {name: os.environ[name] for name in (CACHE, MIRROR, OFFLINE) if name in os.environ}
    lines = [f"{name} is {re.sub('//[^/]*@', '//...@', value)!r}" for name, value in given.items()]  # no passwords
    for name, card in CARDS.items():
        if card.file is not None and card.source != "shipped":
            file = cache_folder() / card.file
            if found := next((path for path in (file.with_suffix(SUFFIX), file) if path.is_file()), None):
                lines.append(f"{name}: {found.name}")
    return lines if len(lines) > len(given) else [*lines, "none in the cache"]


def _state(path: Path) -> str:
    there = next(p for p in (path, *path.parents) if p.exists())
    free = f"{shutil.disk_usage(there).free / 2**30:.0f} GiB free"
    writable = "writable" if os.access(there, os.W_OK) else "not writable"
    return f"{free}, {writable}{'' if path.exists() else ', not there yet'}"

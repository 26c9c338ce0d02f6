"""Run as a program: has every hostile file refused in one fresh process, and prints what it cost, as JSON."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import torch

from bcos_vit.models.weights import load_model
from hostile_weights import CASES, RELEASES
from hostile_zips import LARGE
from releases import published
from toys import NAME, toy_spec

STATUS, PEAKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def megabytes(line: str) -> float:
    """A line of the process's status; where there is none, the highest level so far."""
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return int(next(text for text in STATUS.read_text().splitlines() if text.startswith(line)).split()[1]) / 2**10


def measure(path: Path) -> dict[str, object]:
    """What it takes to have ``path`` refused: seconds, and megabytes at the peak above the level before."""
    if PEAKS.exists():
        PEAKS.write_text("5")  # from here on the peak is counted anew
    before, started = megabytes("VmRSS"), time.monotonic()
    try:
        load_model(path, toy_spec(NAME))
        said = "it was read"
    except (ValueError, OSError, TypeError) as error:
        said = str(error) if path.name in str(error) else f"{error!r} names no file"
    except Exception as error:
        said = f"{error!r} is no refusal"
    return {
        "refused": str(path) in said,
        "said": said,
        "seconds": time.monotonic() - started,
        "megabytes": megabytes("VmHWM") - before,
    }


def main() -> None:
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "it.pth"
        path.write_bytes(published())
        load_model(path, toy_spec(NAME))  # what is loaded once is no file's doing
        for name, (make, _) in (CASES | RELEASES).items():
            path.write_bytes(make())
            results[name] = measure(path)
        for name, write in LARGE.items():
            path.unlink()
            write(path)
            results[name] = measure(path)
    print(json.dumps(results))


if __name__ == "__main__":
    main()

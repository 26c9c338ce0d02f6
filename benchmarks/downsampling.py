"""Which blur, and which border, before the strides of a stem: chosen by training on shapes whose masks are known.

    python benchmarks/downsampling.py                                   every arm, seeds 0, 1, 2, then the table
    python benchmarks/downsampling.py --arms strided "binomial, zero" --seeds 0
    python benchmarks/downsampling.py --untrained                       untrained models at 224 pixels, in a minute

Arms: ``strided``, a blur before every stride of two with each kernel and border of ``bcos_vit.layers.Blur``, a blur
after a convolution of stride one (``after``), and the conventional ``twin``. Training is that of ``bcos_vit_shapes``
(``standard_vit_shapes``), in a process of its own on one thread for every run, as many at once as ``--jobs`` says; then
the model is measured on 1,000 test images of a seed of their own. Seeds differ in the first weights and in the order of
the images, which are the same in all runs. Words before all options, as ``recipe.epochs=30``, are overrides of
``train.py``. Runs stay in ``runs/downsampling``, and those that were measured are not done again; one that was trained
with other overrides is an error. Images that were drawn stay there, too (2 GB). The table has means over the seeds with
95 % intervals (Student's t).
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from finetune import interval
from hydra import compose, initialize_config_dir
from shapes import measure
from skimage.data import astronaut
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

from bcos_vit import create_model, explain
from bcos_vit.atomic import write_whole
from bcos_vit.data import Shapes
from bcos_vit.layers import BcosConv2d, Blur
from bcos_vit.metrics import border_energy, lattice_period, lattice_share, white_noise_share
from bcos_vit.models import bricks
from bcos_vit.training.run import train

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs" / "downsampling"
DRAWING, DRAWN_BY = ROOT / "bcos_vit" / "data", ("shapes.py", "drawing.py", "backgrounds.py")
"""What draws the images: those that other code has drawn are not taken."""
BLURS = {
    f"{kernel}, {border}": (kernel, border)
    for kernel in ("box", "binomial")
    for border in ("zero", "replicate", "reflect")
}
ARMS = ("strided", *BLURS, "after", "twin")
COLUMNS = ("accuracy", "energy_in_mask", "grid_2x2", "lattice_share", "border_energy")


class BlurredAfter(nn.Module):
    """A convolution of stride 1, a blur of what it gives, and every second pixel of that."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.blur = Blur("binomial", "zero")

    def forward(self, x: Tensor) -> Tensor:
        return self.blur(self.conv(x))[..., ::2, ::2].contiguous()


def blurred_after(*given: Any, stride: int, **options: Any) -> nn.Module:
    """What takes the place of a convolution of the stem."""
    conv = BcosConv2d(*given, stride=1, **options)
    return conv if stride == 1 else BlurredAfter(conv)


def choose(arm: str) -> dict[str, str]:
    """Set this process up for an arm; the fields of the spec that it needs."""
    if arm == "after":
        bricks.BcosConv2d = blurred_after  # type: ignore[misc, assignment]
    if arm not in BLURS:
        return {"downsample": "strided"}
    kernel, border = BLURS[arm]
    bricks.Blur = functools.partial(Blur, kernel=kernel, border=border)  # type: ignore[misc, assignment]
    return {"downsample": "blurred"}


def drawn_once(part: Shapes, epoch: int) -> TensorDataset:
    """In place of ``Shapes.of_epoch``: the same images, kept for the runs to come."""
    drawn_by = hashlib.sha256(b"".join((DRAWING / name).read_bytes() for name in DRAWN_BY)).hexdigest()[:10]
    settings = (part.seed, part.side, part.plain_epochs, part.canvases_from, epoch, drawn_by)
    kept = RUNS / "drawn" / f"{'_'.join(map(str, settings))}.pt"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save(default_collate([part.learnt_from(epoch, index) for index in range(len(part))]), content)
        write_whole(kept, content.getvalue())
    return TensorDataset(*torch.load(kept, mmap=True))


def run(arm: str, seed: int, folder: Path, overrides: list[str]) -> None:
    """Train one model of an arm in ``folder``, measure it, and keep the figures beside its weights."""
    Shapes.of_epoch = drawn_once  # type: ignore[method-assign, assignment]
    Shapes.__getitem__ = functools.cache(Shapes.__getitem__)  # type: ignore[method-assign]
    name = "standard_vit_shapes" if arm == "twin" else "bcos_vit_shapes"
    words = [f"model={name}", "data=shapes", f"seed={seed}", f"output={folder}", "explanations.every=null"]
    words += [f"+model.{field}={value}" for field, value in choose(arm).items()]
    words += ["trainer.accelerator=cpu", "+trainer.enable_progress_bar=false", *overrides]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", words)
    train(config)
    figures = measure(create_model(folder / "model.safetensors"))
    (folder / "measured.json").write_text(json.dumps({"overrides": overrides} | figures))


def measured(arm: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """The figures of one run, which is done in a process of its own unless they are there."""
    folder = RUNS / f"{arm.replace(', ', '_')}_{seed}"
    kept = folder / "measured.json"
    if not kept.exists():
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut short
        words = [sys.executable, __file__, *overrides, "--one", arm, "--seeds", str(seed), "--folder", str(folder)]
        subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(kept.read_text())
    if found["overrides"] != overrides:
        raise SystemExit(f"{folder} was trained with {found['overrides']}, not {overrides}: move it away")
    return {"arm": arm, "seed": seed} | found


def untrained(arm: str) -> dict[str, float]:
    """Of a ViTC-Ti with random weights on a photo of 224 x 224 pixels: lattice share, and energy on the border."""
    torch.manual_seed(0)
    model = create_model("bcos_vitc_ti_rope_patch1_14", **choose(arm))
    maps = explain(model, model.transform(astronaut())[None]).check().contributions
    return {
        "lattice_share": float(lattice_share(maps, lattice_period(model))),
        "border_energy": float(border_energy(maps)),
    }


def table(found: list[dict[str, Any]]) -> str:
    """Means over seeds, a row an arm."""
    lines = ["| downsampling | seeds | " + " | ".join(name.replace("_", " ") for name in COLUMNS) + " |"]
    lines.append("|---|---|" + "---|" * len(COLUMNS))
    for arm in dict.fromkeys(record["arm"] for record in found):
        records = [record for record in found if record["arm"] == arm]
        cells = [[100 * record[name] for record in records if record.get(name) is not None] for name in COLUMNS]
        lines.append(f"| {arm} | {len(records)} | " + " | ".join(interval(c) if c else "" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of train.py, before all options: recipe.epochs=30")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--untrained", action="store_true", help="untrained models at 224 pixels instead")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--one", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    overrides: list[str] = given.overrides
    if given.one is not None:
        torch.set_num_threads(1)
        if given.untrained:
            print(json.dumps(untrained(given.one)))
        else:
            run(given.one, given.seeds[0], given.folder, overrides)
        return
    if given.untrained:
        noise = white_noise_share(224, 224, 16)
        print(f"| downsampling | lattice share (white noise {100 * noise:.2f} %) | border energy |\n|---|---|---|")
        for arm in (arm for arm in given.arms if arm != "twin"):
            words = [sys.executable, __file__, "--untrained", "--one", arm]
            figures = json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout)
            cells = " | ".join(f"{100 * figure:.2f} %" for figure in figures.values())
            print(f"| {arm} | {cells} |", flush=True)
        return
    with ThreadPoolExecutor(given.jobs) as pool:  # by seeds first, so that a run cut short has something to compare
        jobs = [pool.submit(measured, arm, seed, overrides) for seed in given.seeds for arm in given.arms]
        found = [job.result() for job in jobs]
    found.sort(key=lambda record: (ARMS.index(record["arm"]), record["seed"]))
    if given.json is not None:
        given.json.write_text("\n".join(map(json.dumps, found)) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()

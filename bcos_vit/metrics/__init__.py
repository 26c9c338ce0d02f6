"""What an evaluation measures: functions of maps, torchmetrics over images, and groups chosen in ``configs/metrics/``.

The functions need torch alone; what is built on torchmetrics is loaded when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bcos_vit.extras import needs
from bcos_vit.metrics.energy import border_energy, energy_in_mask
from bcos_vit.metrics.frequencies import lattice_period, lattice_share, white_noise_share
from bcos_vit.metrics.grid import confident_grids, grid_pointing, join_tiles
from bcos_vit.metrics.group import Batch, Group

__all__ = [
    "Accuracy",
    "Batch",
    "BorderEnergy",
    "Completeness",
    "EnergyInMask",
    "GridPointing",
    "Group",
    "Lattice",
    "LatticeShare",
    "MeanShare",
    "Speed",
    "border_energy",
    "confident_grids",
    "energy_in_mask",
    "grid_pointing",
    "join_tiles",
    "lattice_period",
    "lattice_share",
    "percent",
    "white_noise_share",
]

if TYPE_CHECKING:  # for editors and type checkers; what runs is below
    from bcos_vit.metrics.accuracy import Accuracy
    from bcos_vit.metrics.completeness import Completeness, percent
    from bcos_vit.metrics.lattice import Lattice
    from bcos_vit.metrics.shares import BorderEnergy, EnergyInMask, GridPointing, LatticeShare, MeanShare
    from bcos_vit.metrics.speed import Speed
else:
    _HOMES = {
        "accuracy": "Accuracy",
        "completeness": "Completeness percent",
        "lattice": "Lattice",
        "shares": "BorderEnergy EnergyInMask GridPointing LatticeShare MeanShare",
        "speed": "Speed",
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
    """Names that need torchmetrics, and the modules that hold them."""

    def __getattr__(name: str) -> Any:
        """Load a name that needs torchmetrics when it is first asked for."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        with needs("train"):
            globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})

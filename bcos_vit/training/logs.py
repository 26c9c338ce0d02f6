"""``metrics.csv`` of a run, to which a run that is resumed in the same folder adds."""

from __future__ import annotations

import csv
from pathlib import Path

from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import loggers
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


class CSVLogger(loggers.CSVLogger):
    """Lightning's, but for this: it never removes rows that are there.

    The steps behind the checkpoint that is gone on with are there twice, then, the later ones last.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> _ExperimentWriter:
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Take over the columns of a file that is there, where Lightning would remove it."""
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open("r+", newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])
                file.seek(0)
                if not file.read().endswith("\n"):  # a killed run has left half a row
                    file.write("\r\n")

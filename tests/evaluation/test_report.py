"""A report as numbers, as a table and in a few lines."""

import json

from bcos_vit.evaluation import Report
from bcos_vit.metrics import Accuracy, Completeness, Lattice, Speed
from toys import toy

FIGURES = {
    "accuracy": {"top1": 0.98333, "top5": 0.99999, "loss": 0.10537, "calibration_error": 0.00791},
    "completeness": {
        "ledgers": 360.0,
        "largest_residual": 1.0254e-6,
        "median_residual": 1.6719e-7,
        "smallest_image_share": 1.0,
        "median_image_share": 1.0,
    },
    "lattice": {
        "lattice_share": 0.51234,
        "standard_error": 0.01,
        "white_noise_share": 0.00508,
        "lattice_share_of_noise": 100.8,
    },
    "speed": {"predictions_per_second": 900.0, "explanations_per_second": 300.0, "explanations_per_prediction": 1 / 3},
}


def report_of(figures):
    model, rows = toy("bcos_vit_digits"), {}
    groups = {"accuracy": Accuracy, "completeness": Completeness, "lattice": Lattice, "speed": Speed}
    for name, group in groups.items():
        if name in figures:
            rows |= group(model).rows(figures[name])
    return Report(figures, 360, rows)


def test_numbers_are_everything_that_was_measured_as_json():
    numbers = report_of(FIGURES).numbers()
    assert numbers == {"images": 360, **FIGURES}
    assert json.loads(json.dumps(numbers)) == numbers


def test_table_has_a_row_for_every_figure_in_ascii():
    table = report_of(FIGURES).table()
    assert "\n".join(table) == (
        "----------------------------------------  --------\n"
        "images, each counted once                      360\n"
        "accuracy, top-1                            98.33 %\n"
        "accuracy, top-5                           100.00 %\n"
        "loss                                        0.1054\n"
        "calibration error                           0.0079\n"
        "ledgers checked                                360\n"
        "relative residual, median                  1.7e-07\n"
        "relative residual, largest                 1.0e-06\n"
        "image share, median                          100 %\n"
        "image share, smallest                        100 %\n"
        "lattice share of maps, mean                51.23 %\n"
        "lattice share of white noise                0.51 %\n"
        "predictions a second                         900.0\n"
        "explanations a second                        300.0\n"
        "explanations in the time of a prediction      0.33\n"
        "----------------------------------------  --------"
    )
    assert len({len(line) for line in table}) == 1
    assert all(line.isascii() for line in table)


def test_lines_sum_it_up():
    assert report_of(FIGURES).lines() == [
        "test accuracy: 98.33 %",
        "largest relative residual: 1.0e-06",
        "image share: 100 %",
    ]


def test_a_share_just_below_one_is_not_called_100_percent():
    ledgers = FIGURES["completeness"] | {"smallest_image_share": 1 - 1e-7}
    assert report_of({"completeness": ledgers}).lines()[-1] == "image share: 99.99 %"


def test_what_was_not_measured_has_no_line():
    assert report_of({"accuracy": FIGURES["accuracy"], "completeness": {}}).lines() == ["test accuracy: 98.33 %"]
    assert report_of({"speed": FIGURES["speed"]}).lines() == []
    assert report_of({"completeness": {}}).table()[2].split("  ")[0] == "ledgers checked"

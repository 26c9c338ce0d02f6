"""The command line: arguments in, exit status out."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from bcos_vit import __version__

DONE, SOME_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``bcos-vit`` with ``arguments`` (default: those of the process).

    Returns
    -------
    int
        0: all done. 1: some inputs failed, or something unforeseen happened. 2: wrong use. 130: interrupted. What
        went wrong is a sentence on stderr; ``--debug`` adds the traceback.
    """
    given = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that cannot be shown is no reason to stop
    try:
        status: int = import_module(f"bcos_vit.cli.{given.verb}").run(given)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except (ValueError, TypeError, OSError, ImportError) as error:
        if given.debug:
            raise
        print(f"bcos-vit {given.verb}: {error}", file=sys.stderr)
        return WRONG_USE
    except Exception as error:
        if given.debug:
            raise
        message = f"{type(error).__name__}: {error}"
        print(f"bcos-vit {given.verb}: unforeseen {message} (--debug shows where)", file=sys.stderr)
        return SOME_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bcos-vit", description="Vision Transformers that explain themselves exactly."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show a traceback instead of one sentence")

    models = verbs.add_parser("models", parents=[common], help="list the zoo, or show the card of one model")
    models.add_argument("pattern", nargs="?", default="*", help="a name, or a pattern such as 'bcos_*'")
    models.add_argument("--markdown", action="store_true", help="as the table of the README")

    explain = verbs.add_parser("explain", parents=[common], help="explain what a model sees in photos")
    explain.add_argument("images", nargs="+", metavar="IMAGE", help="any photo: JPEG, PNG, WebP, TIFF, ...")
    explain.add_argument("--model", required=True, metavar="NAME_OR_FILE", help="a trained model of the zoo, or a file")
    explain.add_argument(
        "--targets",
        default="top1",
        metavar="LIST",
        help="comma-separated class numbers (3, #3) or names, topN, A-vs-B; a name with a comma, or one that "
        "looks like something else, in double quotes, as '\"rocket, big\",top3' (default: top1, the predicted class)",
    )
    explain.add_argument(
        "--fit",
        choices=("crop", "whole", "pad"),
        default="crop",
        help="crop: the square in the photo's centre; whole: all of it, in its own shape; pad: all of it, in a grey "
        "square (default: %(default)s)",
    )
    explain.add_argument(
        "--out", default="explanations", metavar="DIR", help="folder of the results (default: %(default)s)"
    )
    explain.add_argument("--random-weights", type=int, metavar="SEED", help="build the model untrained")
    explain.add_argument(
        "--shifts",
        type=int,
        metavar="N",
        help="explain the mean over N shifts of the photo, at N times the cost: shows less of the patches' lattice",
    )
    explain.add_argument("--seed", type=int, metavar="SEED", help="which shifts those are (default: 0)")
    explain.add_argument("--batch-size", type=int, default=8, metavar="N", help="photos at once (default: %(default)s)")
    explain.add_argument(
        "--compile", action="store_true", help="compile first, which takes minutes: for folders of many photos"
    )
    explain.add_argument(
        "--device", metavar="DEVICE", help="such as cpu or cuda:1 (default: an accelerator if there is one)"
    )

    convert = verbs.add_parser("convert", parents=[common], help="change the form of a file with weights")
    convert.add_argument(
        "input", metavar="IN", help="a file of ours, a checkpoint, a published .pth, a state dict; nothing in it runs"
    )
    convert.add_argument("output", metavar="OUT", help=".safetensors (ours, spec inside) or .pth (published keys)")
    convert.add_argument("--model", metavar="NAME", help="what the weights belong to, where the file does not say")

    export = verbs.add_parser("export", parents=[common], help="write one ONNX file that predicts and explains")
    export.add_argument("--model", required=True, metavar="NAME_OR_FILE", help="a trained model of the zoo, or a file")
    export.add_argument(
        "--out", required=True, metavar="FILE.onnx", help="where it goes; FILE.onnx.json says how exact"
    )
    export.add_argument(
        "--targets",
        choices=("predicted", "input"),
        default="predicted",
        help="explain the predicted class, or the one of a second input (default: %(default)s)",
    )
    export.add_argument("--weights", action="store_true", help="the rows of the linear map among the outputs, too")
    export.add_argument(
        "--precision",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="of weights and most operations (default: %(default)s, the only exact one)",
    )
    export.add_argument(
        "--images", nargs="+", metavar="IMAGE", help="photos to verify it with (default: ten views of two photographs)"
    )
    export.add_argument("--random-weights", type=int, metavar="SEED", help="build the model untrained")

    doctor = verbs.add_parser("doctor", parents=[common], help="show versions, devices, caches and shipped models")
    doctor.add_argument(
        "--self-test", action="store_true", help="also try whether predictions and explanations are right here"
    )
    doctor.add_argument(
        "--device", metavar="DEVICE", help="to test, such as cpu or cuda:1 (default: an accelerator if there is one)"
    )
    return parser

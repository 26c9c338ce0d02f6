"""One ONNX file that predicts and explains: made, run, compared with PyTorch, and only then put in its place."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from bcos_vit import checks
from bcos_vit.atomic import write_whole
from bcos_vit.claim import claim_file
from bcos_vit.export.certificate import Certificate, Comparison, compare, photographs, random_images, weights_sha256
from bcos_vit.export.graph import Targets, output_names, to_program, turns
from bcos_vit.extras import needs, needs_version, versions
from bcos_vit.models import ViT
from bcos_vit.models.about import not_fine_tuned
from bcos_vit.models.vit import require_vit
from bcos_vit.paths import user_path
from bcos_vit.preprocessing import preprocessing_in_words

SUFFIX = ".onnx"
Precision = Literal["float32", "float16", "int8"]
SENSES = {
    "logits": "(N, K), bias included",
    "target": "(N,) the class explained: the predicted one, or the one given; one that is no class makes all else NaN",
    "contributions": "(N, H, W) what each pixel adds to the logit of the target",
    "position": "(N,) what the position code adds to it, zero where there is none",
    "bias": "(N,) the constant logit bias",
    "residual": "(N,) logit - sum of contributions - position - bias: rounding",
    "weights": "(N, 6, H, W) the row of the linear map, for [r, g, b, 1-r, 1-g, 1-b]",
}


@torch.inference_mode(False)  # which would make weights that cannot be differentiated
def to_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    targets: Targets = "predicted",
    weights: bool = False,
    *,
    precision: Precision = "float32",
    images: Tensor | None = None,
    replace: bool = True,
) -> Certificate:
    """Write a model as one ONNX file that predicts and explains, for any batch size, after it has been verified.

    Inputs and outputs are those of :func:`to_program`, by these names. The file's metadata hold class names,
    preprocessing, spec, licence, the SHA-256 of the weights, and a mark where they are not fine-tuned. It is run by
    onnxruntime on random and on real images and compared with PyTorch; what was measured is kept beside it as
    ``PATH.json``.

    Parameters
    ----------
    model
        A model of this project, float32, wrapped or not. A conventional one becomes a file that only predicts.
    path
        Where the file goes, ``.onnx``. What is there is replaced once the new file is whole. Nothing else can export
        to the same path meanwhile.
    targets
        ``"predicted"``, or ``"input"`` for a second input ``target`` (N,), int64. A target that is no class, -1 or K,
        makes every number about its image NaN, the logits too; other images of the batch stay as they are.
    weights
        Whether the rows are among the outputs.
    precision
        ``"float32"``; ``"float16"``, weights and most operations, norms in float32; ``"int8"``, weights and their
        products quantised by onnxruntime (dynamic, per channel). Inputs and outputs are float32 always. Of the latter
        two nothing is promised: the certificate says how far they drift.
    images
        (N, 3, H, W) real images in [0, 1] to verify with; None for ten views of two photographs.
    replace
        False: leave alone a file or certificate that is there.

    Returns
    -------
    Certificate
        What was measured; printing it says it in words.

    Raises
    ------
    ImportError
        Without the packages of the extra ``export``, or with an onnxruntime that is too old for ``precision``, with the
        install line.
    ValueError, TypeError
        For arguments that do not fit the model or each other, before anything is made.
    OSError
        In a sentence, if it cannot be written, is being written by another process, or is there and not to be replaced.
    ArithmeticError
        If a float32 file is further than rounding from PyTorch
        (:meth:`~bcos_vit.export.certificate.Comparison.require_exact`), or a file of any precision explains a target
        that is no class. Nothing is written then.
    """
    with needs("export"):
        import onnxruntime  # noqa: F401  # what every file is run with
        import onnxscript  # noqa: F401  # what torch writes ONNX with
    path = onnx_path(path)
    with claim_file(path):
        return _export(model, path, targets, weights, precision, images, replace)


def onnx_path(path: str | os.PathLike[str]) -> Path:
    """The path that a user gives; ``ValueError`` for another suffix, ``FileNotFoundError`` if its folder is missing."""
    path = user_path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"an ONNX file ends in {SUFFIX}, found {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    return path


def _export(
    model: nn.Module,
    path: Path,
    targets: Targets,
    weights: bool,
    precision: Precision,
    images: Tensor | None,
    replace: bool,
) -> Certificate:
    with needs("export"):
        import onnxruntime
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, found {precision!r}")
    if precision == "int8":
        needs_version("onnxruntime", (1, 31), "precision int8")  # 1.30 fails where a weight is used twice
    vit = copy.deepcopy(require_vit(model)).cpu().eval()
    if (dtype := next(vit.parameters()).dtype) != torch.float32:
        raise ValueError(f"a file is compared with the model in float32, found {dtype}: convert it with .float()")
    real = photographs(vit) if images is None else _checked(images, vit)
    names, digest = output_names(vit, weights), weights_sha256(vit)
    program = to_program(copy.deepcopy(vit).half() if precision == "float16" else vit, targets, weights)
    with TemporaryDirectory() as folder:
        made = Path(folder, "made.onnx")
        inputs = ["image", *(["target"] if targets == "input" else [])]
        _write(program, made, inputs, names, _metadata(vit, names, digest))
        if precision == "int8":
            made = _quantised(made)
        session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])

        def compared(images: Tensor) -> Comparison:
            asked = turns(images, vit.num_classes) if targets == "input" else None
            return compare(vit, lambda part, target: _run(session, names, part, target), images, asked)

        content = made.read_bytes()
        certificate = Certificate(
            file=path.name,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            precision=precision,
            stayed_float={} if precision == "float32" else _stayed_float(made),
            weights_sha256=digest,
            not_fine_tuned=not_fine_tuned(vit.about, vit.spec),
            versions=versions(),
            random=compared(random_images(vit)),
            real=compared(real),
        )
    for kind, found in (("random", certificate.random), ("real", certificate.real)):
        if precision == "float32":
            found.require_exact(f"{path} was not written, since it differs from PyTorch on {kind} images")
        found.require_nan(f"{path} was not written: on {kind} images")
    beside = certificate_of(path)
    before = beside.read_bytes() if beside.is_file() else None
    certificate.write(beside, replace=replace)
    try:
        write_whole(path, content, replace=replace)
    except OSError:
        beside.unlink() if before is None else write_whole(beside, before)
        raise
    return certificate


def certificate_of(path: Path) -> Path:
    """Where the certificate of an exported file is kept."""
    return path.with_name(f"{path.name}.json")


def _write(program: Any, path: Path, inputs: list[str], outputs: tuple[str, ...], metadata: dict[str, str]) -> None:
    given = "target" in inputs
    names = [f"{name}_given" if given and name == "target" else name for name in outputs]
    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        input_names=inputs,
        output_names=names,
        dynamic_shapes=({0: "batch"}, *({0: None} for _ in inputs[1:])),  # its name in all shapes of the file
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    if given:  # of two values of one name there can be but one: the target that came in goes out
        graph = exported.model.graph
        graph.outputs[outputs.index("target")] = graph.inputs[inputs.index("target")]
    for node in exported.model.graph.all_nodes():  # torch says of each how it was traced: up to half of the file
        for thing in (node, *node.inputs, *node.outputs):
            if thing is not None:
                thing.metadata_props.clear()
    exported.model.graph.metadata_props.clear()
    exported.model.metadata_props.update(metadata)
    exported.save(path, external_data=False)


def _quantised(path: Path) -> Path:
    with needs("export"):
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process
    folded, quantised = path.with_name("folded.onnx"), path.with_name("int8.onnx")
    quant_pre_process(path, folded, skip_symbolic_shape=True)  # transposed weights and norms become constants
    quantize_dynamic(folded, quantised, per_channel=True, weight_type=QuantType.QInt8)
    return quantised


def _run(session: Any, names: tuple[str, ...], images: Tensor, target: Tensor | None) -> dict[str, Tensor]:
    feed = {"image": images.numpy()} | ({} if target is None else {"target": target.numpy()})
    return {name: torch.from_numpy(found) for name, found in zip(names, session.run(None, feed), strict=True)}


def _stayed_float(path: Path) -> dict[str, int]:
    """Operations of the file that compute on float32, by kind; casts are none."""
    import onnx
    from onnx import TensorProto

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    floats = {name for name, kind in kinds.items() if kind == TensorProto.FLOAT}
    counted = Counter(node.op_type for node in graph.node if node.op_type != "Cast" and node.output[0] in floats)
    return dict(sorted(counted.items()))


def _metadata(model: ViT, names: tuple[str, ...], digest: str) -> dict[str, str]:
    said = {
        "name": model.about.get("name"),
        "class_names": model.class_names,
        "preprocessing": preprocessing_in_words(model.spec.image_size),
        "spec": dataclasses.asdict(model.spec),
        "licence": model.about.get("licence"),
        "not_fine_tuned": not_fine_tuned(model.about, model.spec),
        "weights_sha256": digest,
        "outputs": {name: SENSES[name] for name in names},
        "explains": "yes" if model.dynamic_linear else "no: a conventional model has no linear map to read off",
        "producer": f"bcos_vit {versions()['bcos_vit']}",
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items() if value}


def _checked(images: Tensor, model: ViT) -> Tensor:
    checks.require_float(images, "images")
    checks.check_values(images)
    size = model.spec.image_size
    if images.dim() != 4 or images.shape[1:] != (3, size, size):
        raise ValueError(f"images must be (N, 3, {size}, {size}), as the file takes them, found {tuple(images.shape)}")
    return images.detach().float().cpu()

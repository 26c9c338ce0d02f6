"""Models that leave Python: one file that predicts and explains, verified, with a certificate of how exact it is."""

from bcos_vit.export.certificate import Certificate
from bcos_vit.export.graph import to_program
from bcos_vit.export.onnx import to_onnx

__all__ = ["Certificate", "to_onnx", "to_program"]

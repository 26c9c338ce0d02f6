"""Data: data sets with fixed parts, and the one data module that serves them."""

from bcos_vit.extras import needs

with needs("train"):
    from bcos_vit.data.cifar10 import CIFAR10
    from bcos_vit.data.digits import Digits
    from bcos_vit.data.folder import Folder
    from bcos_vit.data.imagenet import ImageNet
    from bcos_vit.data.module import DataModule
    from bcos_vit.data.shapes import Scene, Shapes

__all__ = ["CIFAR10", "DataModule", "Digits", "Folder", "ImageNet", "Scene", "Shapes"]

"""Models by ``torch.hub``: ``torch.hub.load(REPOSITORY, "bcos_vit_digits", pretrained=True)``.

Every name of the zoo is an entry point and takes the arguments of ``bcos_vit.create_model``, which is one too, for
weights files.
"""

import functools

import bcos_vit
from bcos_vit import create_model

dependencies = ["torch", "torchvision", "safetensors", "huggingface_hub", "filelock", "tqdm", "numpy", "PIL"]

for _name in bcos_vit.list_models():
    globals()[_name] = functools.partial(create_model, _name)
    globals()[_name].__doc__ = f'``create_model("{_name}")`` with ``pretrained`` and other arguments.'

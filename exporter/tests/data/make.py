"""Makes the files of PyTorch's in this folder: `python make.py`, with torch 2.11 (any version since 1.6 will do)."""

from collections import OrderedDict

import torch
from torch.nn import Parameter

# What a state dict can hold of tensors: views, strides, one storage twice, half precision, integers, no values, a scalar.
base = torch.arange(12, dtype=torch.float32)
tensors = OrderedDict(
    whole=base,
    rows=base[4:8].reshape(2, 2),
    turned=base.reshape(3, 4).t(),
    parameter=Parameter(torch.tensor([0.5, -1.5])),
    half=torch.tensor([1.5, -2.0], dtype=torch.float16),
    brain=torch.tensor([[3.0, -0.25]], dtype=torch.bfloat16),
    steps=torch.tensor([7], dtype=torch.int64),
    empty=torch.zeros(1, 0, 2),
    scalar=torch.tensor(2.5),
)
tensors._metadata = OrderedDict({"": {"version": 1}})
torch.save(tensors, "tensors.pth")
torch.save({"model": tensors}, "tensors-legacy.pth", _use_new_zipfile_serialization=False)

# What isn't tensors alone.
torch.save({"weight": base, "epoch": 3}, "epoch.pth")
torch.save(torch.nn.Linear(1, 1), "module.pth")


class Command:
    """What a hostile file does: a pickle may name any function, and Python's own reader calls it."""

    def __reduce__(self):
        import os

        return os.system, ("echo executed",)


torch.save({"weight": Command()}, "command.pth")
torch.save({"weight": Command()}, "command-legacy.pth", _use_new_zipfile_serialization=False)

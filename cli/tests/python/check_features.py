"""Compares files of features with what transformers computes.

usage: check_features.py BACKBONE PIXELS FEATURES.parquet FEATURES.safetensors
PIXELS holds an image's normalised pixels [3, H, W] by its id; both files must hold one row for each.
"""

import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from safetensors.numpy import load_file
from transformers import AutoModel

backbone, pixels, parquet, safetensors = sys.argv[1:]
model = AutoModel.from_pretrained(backbone).eval()
with torch.no_grad():
    want = {
        name: model(torch.from_numpy(image)[None]).pooler_output[0].numpy() for name, image in load_file(pixels).items()
    }

table = pyarrow.parquet.read_table(parquet)
assert table.schema.field("id").type == pyarrow.string(), table.schema
assert table.schema.field("features").type == pyarrow.list_(pyarrow.field("element", pyarrow.float32(), False)), table.schema
assert b"stage1.model_digest" in pyarrow.parquet.read_metadata(parquet).metadata
from_parquet = dict(zip(table["id"].to_pylist(), table["features"].to_pylist()))
tensors = load_file(safetensors)
names = [bytes(row).rstrip(b"\0").decode() for row in tensors["id"]]
from_safetensors = dict(zip(names, tensors["features"]))
for rows in (from_parquet, from_safetensors):
    assert set(rows) == set(want), f"{set(rows)} for {set(want)}"
    for name, row in rows.items():
        error = np.abs(np.float32(row) - want[name]).max() / np.abs(want[name]).max()
        assert error <= 1e-4, f"{backbone} {name}: off by {error:.1e} of the scale"

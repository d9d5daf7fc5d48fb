"""Checks exported models with the libraries that define their format.

usage: check_exports.py DIR
DIR holds `<case>.onnx` (weights may lie beside it) and `<case>.safetensors`: `pixel_values`, and what we computed as
`output.<name>`. ONNX checks the whole model and infers all shapes; ONNX Runtime computes it again. Prints a line for each.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import shape_inference
from safetensors.numpy import load_file

# Another division of the work among threads may round otherwise.
TOLERANCE = 1e-6


def shape_of(value):
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def check_shapes(path):
    """Every value of the graph has an inferred shape, and each output the one that it was declared with."""
    model = onnx.load(path)
    declared = {output.name: shape_of(output) for output in model.graph.output}
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    found = {value.name: value for value in [*inferred.graph.value_info, *inferred.graph.output]}
    for node in inferred.graph.node:
        for name in node.output:
            assert name in found and found[name].type.tensor_type.HasField("shape"), f"{path}: no shape of {name}"
    for name, shape in declared.items():
        assert shape_of(found[name]) == shape, f"{path}: {name} is {shape_of(found[name])}, declared {shape}"


def check_numbers(path):
    """The largest difference to our outputs, as a share of their scale."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tensors = load_file(path.with_suffix(".safetensors"))
    wanted = {name.removeprefix("output."): tensor for name, tensor in tensors.items() if name.startswith("output.")}
    assert set(wanted) == {output.name for output in session.get_outputs()}, f"{path}: {list(wanted)}"
    outputs = session.run(list(wanted), {"pixel_values": tensors["pixel_values"]})
    worst = 0.0
    for (name, want), got in zip(wanted.items(), outputs):
        assert got.shape == want.shape, f"{path} {name}: {got.shape}, expected {want.shape}"
        assert np.isfinite(got).all(), f"{path} {name}: not finite"
        worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    assert worst <= TOLERANCE, f"{path}: off by {worst:.1e} of the scale"
    return worst


for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    onnx.checker.check_model(str(path), full_check=True)
    check_shapes(path)
    print(f"{path.stem} {check_numbers(path):.1e}")

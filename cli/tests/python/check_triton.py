"""usage: check_triton.py CONFIG.pbtxt: what NVIDIA's own protobuf types read in it."""

import sys

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

text = open(sys.argv[1]).read()
config = text_format.Parse(text, model_config_pb2.ModelConfig())
assert config.name == "flowers_fp32" and config.backend == "onnxruntime", config
assert config.max_batch_size == 8, config
[image] = config.input
assert list(image.dims) == [3, 32, 32] and image.data_type == model_config_pb2.TYPE_FP32, config
[logits] = config.output
assert list(logits.dims) == [2] and logits.label_filename == "labels.txt", config
assert config.HasField("dynamic_batching"), config
[accelerator] = config.optimization.execution_accelerators.gpu_execution_accelerator
assert accelerator.name == "tensorrt" and accelerator.parameters["precision_mode"] == "FP32", config

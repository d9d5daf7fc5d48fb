"""usage: peer.py MODEL.onnx OUTPUT IMAGE...: the script that one would write, with Pillow, NumPy and ONNX Runtime."""

import sys

import numpy as np
import onnxruntime as ort
from PIL import Image

model, output, *paths = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = 2
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
mean = np.array([0.485, 0.456, 0.406], np.float32)
std = np.array([0.229, 0.224, 0.225], np.float32)
for path in paths:
    image = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    pixels = ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)[None]
    logits = session.run([output], {name: pixels})[0][0]
    print(path, int(logits.argmax()), flush=True)

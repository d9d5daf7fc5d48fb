"""The server that one would write: FastAPI, Pillow, NumPy and ONNX Runtime around the same model.

usage: peer.py MODEL.onnx INPUT OUTPUT PORT THREADS RUNS
THREADS are those of one run of the model, RUNS how many requests are worked on at a time.
"""

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from PIL import Image, UnidentifiedImageError

model, input_name, output_name, port, threads, runs = sys.argv[1:]
options = ort.SessionOptions()
options.intra_op_num_threads = int(threads)
options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
mean = np.array([0.485, 0.456, 0.406], np.float32)
scale = 1 / np.array([0.229, 0.224, 0.225], np.float32)
workers = ThreadPoolExecutor(int(runs))
app = FastAPI()


def judge(body):
    image = Image.open(io.BytesIO(body)).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    pixels = (np.asarray(image, np.float32) * np.float32(1 / 255) - mean) * scale
    logits = session.run([output_name], {input_name: pixels.transpose(2, 0, 1)[None]})[0][0]
    powers = np.exp(logits - logits.max())
    probabilities = powers / powers.sum()
    label = int(probabilities.argmax())
    return {"label": label, "probability": float(probabilities[label]), "logits": logits.tolist()}


@app.post("/v1/classify")
async def classify(request: Request):
    body = await request.body()
    try:
        return await asyncio.get_running_loop().run_in_executor(workers, judge, body)
    except (UnidentifiedImageError, OSError) as error:
        raise HTTPException(422, str(error)) from error


uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)

"""NVIDIA's tritonclient, unchanged, against a server that runs.

usage: check_server.py HTTP GRPC RED.png DARK.png
The server has one bundle `m` of a model [N, 3, 8, 8] with the classes red, green and blue, that answers RED and defers DARK, and lets
clients load and unload.
"""

import sys
import time
import urllib.request

import numpy as np
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

http_address, grpc_address, red, dark = sys.argv[1:]
images = [open(path, "rb").read() for path in (red, dark)]


def planes(level):
    pixels = np.zeros((1, 3, 8, 8), np.float32)
    pixels[:, 0] = level / np.float32(255)
    return pixels


pixels = np.concatenate([planes(255), planes(40)])
elements = np.array([[image] for image in images], dtype=np.object_)


def check_described(client, as_json):
    """Health, metadata, configuration, index and statistics, before anything was asked."""
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m")
    server = client.get_server_metadata(**as_json)
    assert server["name"] == "stage1" and "binary_tensor_data" in server["extensions"], server
    model = client.get_model_metadata("m", **as_json)
    (version,) = model["versions"]
    assert client.is_model_ready("m", version)
    shapes = {tensor["name"]: (tensor["datatype"], [int(side) for side in tensor["shape"]]) for tensor in model["inputs"]}
    assert shapes == {"image": ("BYTES", [-1, 1]), "pixel_values": ("FP32", [-1, 3, 8, 8])}, shapes
    assert [tensor["name"] for tensor in model["outputs"]][0] == "logits", model
    config = client.get_model_config("m", **as_json)
    config = config.get("config", config)
    assert config["name"] == "m" and int(config["max_batch_size"]) == 64, config
    inputs = {one["name"]: (one["data_type"], one["optional"]) for one in config["input"]}
    assert inputs == {"image": ("TYPE_STRING", True), "pixel_values": ("TYPE_FP32", True)}, inputs
    assert config["parameters"]["certified"]["string_value"] == "true", config
    index = client.get_model_repository_index(**as_json)
    index = index["models"] if isinstance(index, dict) else index
    assert [(one["name"], one["version"], one["state"]) for one in index] == [("m", version, "READY")], index
    return version


def check_tensors(result):
    """The answer to RED and DARK."""
    assert result.as_numpy("label").tolist() == [[b"red"], [b""]], result.as_numpy("label")
    assert result.as_numpy("decision").tolist() == [[b"answer"], [b"defer"]]
    assert result.as_numpy("certified").tolist() == [[True], [True]]
    logits = result.as_numpy("logits")
    assert logits.shape == (2, 3) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[0], [np.exp(3), 1, 1], rtol=1e-5)
    probabilities = result.as_numpy("probabilities")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(result.as_numpy("probability")[:, 0], probabilities.max(axis=1))
    assert result.as_numpy("reason")[1, 0].endswith(b"is below 0.9000")


def check_inference(module, client, version, forms):
    """Images and pixels, in every form that the client knows, give the same answer."""
    for form in forms:
        image = module.InferInput("image", [2, 1], "BYTES")
        image.set_data_from_numpy(elements, **form.get("image", {}))
        check_tensors(client.infer("m", [image], request_id="7", model_version=version, **form.get("infer", {})))
        rows = module.InferInput("pixel_values", [2, 3, 8, 8], "FP32")
        rows.set_data_from_numpy(pixels, **form.get("pixels", {}))
        result = client.infer("m", [rows], request_id="8", **form.get("infer", {}))
        check_tensors(result)
        response = result.get_response()
        got = response["id"] if isinstance(response, dict) else response.id
        assert got == "8", got
        wanted = [module.InferRequestedOutput("logits"), module.InferRequestedOutput("label")]
        chosen = client.infer("m", [rows], outputs=wanted)
        assert chosen.as_numpy("label").tolist() == [[b"red"], [b""]] and chosen.as_numpy("decision") is None


def refused(status, part, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        assert status in str(error.status()) and part in error.message(), (error.status(), error.message())
    else:
        raise AssertionError(f"expected {status}: {part}")


def check_failures(module, client, codes):
    rows = module.InferInput("pixel_values", [1, 3, 8, 8], "FP32")
    rows.set_data_from_numpy(pixels[:1])
    refused(codes["missing"], "there is no model `x`", client.infer, "x", [rows])
    refused(codes["missing"], "no version `3`", client.infer, "m", [rows], model_version="3")
    wrong = module.InferInput("pixel_values", [1, 3, 9, 9], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3, 9, 9), np.float32))
    refused(codes["invalid"], "expected [n, 3, 8, 8]", client.infer, "m", [wrong])
    unknown = module.InferInput("pixels", [1, 3, 8, 8], "FP32")
    unknown.set_data_from_numpy(pixels[:1])
    refused(codes["invalid"], "there is no input `pixels`", client.infer, "m", [unknown])
    broken = module.InferInput("image", [1], "BYTES")
    broken.set_data_from_numpy(np.array([b"no image"], dtype=np.object_))
    refused(codes["image"], "not an image", client.infer, "m", [broken])
    refused(codes["invalid"], "no output `logit`", client.infer, "m", [rows], outputs=[module.InferRequestedOutput("logit")])
    refused(codes["late"], "deadline", client.infer, "m", [rows], timeout=1)


def check_control(client):
    client.unload_model("m")
    assert not client.is_model_ready("m") and not client.is_server_ready()
    client.load_model("m")
    assert client.is_model_ready("m") and client.is_server_ready()


def statistics_of(client, as_json):
    (model,) = client.get_inference_statistics("m", **as_json)["model_stats"]
    assert int(model["inference_count"]) > 0 and int(model["inference_stats"]["success"]["count"]) > 0, model
    assert any(int(batch["batch_size"]) == 2 for batch in model["batch_stats"]), model


with triton_http.InferenceServerClient(http_address, concurrency=4) as client:
    version = check_described(client, {})
    # Binary tensors are the client's default; images have no JSON form in this client, since they are no UTF-8.
    forms = [{}, {"pixels": {"binary_data": False}}, {"infer": {"request_compression_algorithm": "gzip"}},
             {"infer": {"request_compression_algorithm": "deflate", "response_compression_algorithm": "gzip"}}]
    check_inference(triton_http, client, version, forms)
    plain = [triton_http.InferRequestedOutput(name, binary_data=False) for name in ("logits", "label", "certified")]
    rows = triton_http.InferInput("pixel_values", [2, 3, 8, 8], "FP32")
    rows.set_data_from_numpy(pixels)
    result = client.infer("m", [rows], outputs=plain)
    np.testing.assert_allclose(result.as_numpy("logits")[0], [np.exp(3), 1, 1], rtol=1e-5)
    waiting = [client.async_infer("m", [rows]) for _ in range(16)]
    for request in waiting:
        check_tensors(request.get_result())
    check_failures(triton_http, client, {"missing": "404", "invalid": "400", "image": "422", "late": "504"})
    statistics_of(client, {})
    check_control(client)

with triton_grpc.InferenceServerClient(grpc_address) as client:
    as_json = {"as_json": True}
    version = check_described(client, as_json)
    forms = [{}, {"infer": {"compression_algorithm": "gzip"}}, {"infer": {"compression_algorithm": "deflate"}}, {"infer": {"client_timeout": 20}}]
    check_inference(triton_grpc, client, version, forms)
    rows = triton_grpc.InferInput("pixel_values", [2, 3, 8, 8], "FP32")
    rows.set_data_from_numpy(pixels)
    answers = []
    for _ in range(16):
        client.async_infer("m", [rows], callback=lambda result, error: answers.append((result, error)))
    end = time.monotonic() + 30
    while len(answers) < 16 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(answers) == 16 and not any(error for _, error in answers), answers
    for result, _ in answers:
        check_tensors(result)
    codes = {"missing": "NOT_FOUND", "invalid": "INVALID_ARGUMENT", "image": "INVALID_ARGUMENT", "late": "DEADLINE_EXCEEDED"}
    check_failures(triton_grpc, client, codes)
    statistics_of(client, as_json)
    check_control(client)

text = urllib.request.urlopen(f"http://{http_address}/metrics").read().decode()
families = {family.name: family for family in text_string_to_metric_families(text)}
assert families["stage1_decisions"].type == "counter" and families["stage1_stage_seconds"].type == "histogram", list(families)
answered = [s.value for s in families["stage1_decisions"].samples if s.labels.get("decision") == "answer"]
assert sum(answered) > 30, answered

//! The Open Inference Protocol in JSON, with its binary tensors:
//! <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol> and Triton's `extension_binary_data.md`.

use super::{Asked, answer::Answer, numbers::Flat};
use crate::{
    describe::{self, EXTENSIONS, SERVER},
    failure::{Failure, Result},
    infer::{Data, Input, Output, Request, Values},
    model::{Model, Sum},
    options::Batching,
    service::{Call, Service},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use std::{sync::Arc, time::Duration};

/// Where JSON ends and binary tensors begin.
const HEADER_LENGTH: &str = "inference-header-content-length";

pub(super) fn server() -> Value {
    json!({ "name": SERVER, "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS })
}

pub(super) fn model(model: &Model) -> Value {
    let tensors = |specs: Vec<crate::infer::TensorSpec>| -> Vec<Value> {
        let one = |spec: crate::infer::TensorSpec| {
            let shape: Vec<i64> = [-1].into_iter().chain(spec.dims).collect();
            json!({ "name": spec.name, "datatype": spec.datatype, "shape": shape })
        };
        specs.into_iter().map(one).collect()
    };
    let about = model.about();
    json!({
        "name": model.name,
        "versions": [about.version()],
        "platform": describe::PLATFORM,
        "inputs": tensors(crate::infer::input_specs(about)),
        "outputs": tensors(crate::infer::output_specs(about)),
        "parameters": describe::parameters(about),
    })
}

/// As Triton tells a model's configuration.
pub(super) fn config(model: &Model, batching: &Batching) -> Value {
    let about = model.about();
    let kind = |datatype: &str| match datatype {
        "BYTES" => "TYPE_STRING".to_owned(),
        other => format!("TYPE_{other}"),
    };
    let inputs: Vec<_> = crate::infer::input_specs(about)
        .into_iter()
        .map(|spec| json!({ "name": spec.name, "data_type": kind(spec.datatype), "format": "FORMAT_NONE", "dims": spec.dims, "optional": true }))
        .collect();
    let outputs: Vec<_> = crate::infer::output_specs(about)
        .into_iter()
        .map(|spec| json!({ "name": spec.name, "data_type": kind(spec.datatype), "dims": spec.dims, "label_filename": "" }))
        .collect();
    let parameters: Map<_, _> = describe::parameters(about)
        .into_iter()
        .map(|(key, value)| (key, json!({ "string_value": value })))
        .collect();
    json!({
        "name": model.name,
        "platform": describe::PLATFORM,
        "backend": describe::BACKEND,
        "version_policy": { "latest": { "num_versions": 1 } },
        "max_batch_size": model.capacity(),
        "input": inputs,
        "output": outputs,
        "dynamic_batching": {
            "preferred_batch_size": [batching.max_batch.min(about.batch)],
            "max_queue_delay_microseconds": batching.max_delay.as_micros() as u64,
        },
        "instance_group": [{ "name": model.name, "kind": "KIND_CPU", "count": batching.instances }],
        "parameters": parameters,
    })
}

pub(super) fn index(service: &Service) -> Value {
    let line = |entry: crate::registry::IndexEntry| {
        json!({
            "name": entry.name,
            "version": entry.version,
            "state": if entry.is_ready { "READY" } else { "UNAVAILABLE" },
            "reason": entry.reason,
        })
    };
    service.models.index().into_iter().map(line).collect()
}

pub(super) fn statistics(models: &[Arc<Model>]) -> Value {
    let sum = |sum: Sum| json!({ "count": sum.count, "ns": sum.time.as_nanos() as u64 });
    let one = |model: &Arc<Model>| {
        let sums = model.statistics.now();
        let batches: Vec<_> = sums
            .batches
            .iter()
            .map(|(size, infer)| json!({ "batch_size": size, "compute_input": sum(Sum::default()), "compute_infer": sum(*infer), "compute_output": sum(Sum::default()) }))
            .collect();
        json!({
            "name": model.name,
            "version": model.about().version(),
            "last_inference": sums.last,
            "inference_count": sums.images,
            "execution_count": sums.batches.values().map(|sum| sum.count).sum::<u64>(),
            "inference_stats": {
                "success": sum(sums.success),
                "fail": sum(sums.fail),
                "queue": sum(sums.queue),
                "compute_input": sum(sums.input),
                "compute_infer": sum(sums.infer),
                "compute_output": sum(sums.output),
                "cache_hit": sum(Sum::default()),
                "cache_miss": sum(Sum::default()),
            },
            "batch_stats": batches,
        })
    };
    json!({ "model_stats": models.iter().map(one).collect::<Vec<_>>() })
}

/// Loads or unloads a bundle.
pub(super) async fn control(
    asked: Asked<'_>,
    call: &mut Call,
    name: &str,
    load: bool,
) -> Result<Answer> {
    asked.post()?;
    let service = asked.service;
    service.allow_control()?;
    let (body, _) = asked.body(call).await?;
    check_control(&body)?;
    if load {
        service.models.load(name).await?;
    } else {
        service.models.unload(name).await?;
    }
    Ok(Answer::json(&json!({})))
}

/// A bundle is loaded from where the server was told that it is, and from nowhere else.
fn check_control(body: &[u8]) -> Result<()> {
    #[derive(Deserialize)]
    struct Control {
        #[serde(default)]
        parameters: Map<String, Value>,
    }
    if body.trim_ascii().is_empty() {
        return Ok(());
    }
    let control: Control = serde_json::from_slice(body)
        .map_err(|error| Failure::Invalid(format!("the request: {error}")))?;
    match control
        .parameters
        .keys()
        .find(|key| *key != "unload_dependents")
    {
        None => Ok(()),
        Some(key) => Err(describe::no_parameter(key)),
    }
}

/// A request's JSON.
#[derive(Deserialize)]
struct InferRequest<'a> {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(borrow)]
    inputs: Vec<InferInput<'a>>,
    #[serde(default)]
    outputs: Vec<InferOutput>,
}

#[derive(Deserialize)]
struct InferInput<'a> {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct InferOutput {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// What an answer needs of its request.
struct Wanted {
    id: String,
    outputs: Vec<String>,
    /// Which outputs are to be binary: as many as `outputs`, or one for all.
    binary: Vec<bool>,
}

pub(super) async fn infer(asked: Asked<'_>, call: &mut Call, model: Arc<Model>) -> Result<Answer> {
    let service = asked.service;
    let header_length = asked.header(HEADER_LENGTH).map(|text| {
        let length = text.trim().parse::<usize>();
        length.map_err(|_| {
            Failure::Invalid(format!(
                "`{HEADER_LENGTH}` is `{text}`, expected a number of bytes"
            ))
        })
    });
    let header_length = header_length.transpose()?;
    let (body, lease) = asked.body(call).await?;
    let (request, wanted) = parse(&body, header_length)?;
    let (outputs, outcomes) = service.infer(call, &model, request).await?;
    drop((body, lease));
    Ok(answer(&model, &wanted, &outputs).with_times(&outcomes))
}

fn parse(body: &Bytes, header_length: Option<usize>) -> Result<(Request, Wanted)> {
    let length = header_length.unwrap_or(body.len());
    if length > body.len() {
        return Err(Failure::Invalid(format!(
            "`{HEADER_LENGTH}` is {length}, the body has {} bytes",
            body.len()
        )));
    }
    let mut binary = body.slice(length..);
    let json: InferRequest<'_> = serde_json::from_slice(&body[..length]).map_err(|error| {
        Failure::Invalid(format!("the request is no JSON of the protocol: {error}"))
    })?;
    describe::check_parameters(json.parameters.keys())?;
    let inputs = json
        .inputs
        .into_iter()
        .map(|input| parse_input(input, &mut binary))
        .collect::<Result<Vec<_>>>()?;
    if !binary.is_empty() {
        return Err(Failure::Invalid(format!(
            "{} bytes after the last tensor belong to none",
            binary.len()
        )));
    }
    let all_binary = flag(&json.parameters, "binary_data_output")?.unwrap_or(false);
    let is_binary = |output: &InferOutput| {
        describe::check_output_parameters(output.parameters.keys())?;
        Ok(flag(&output.parameters, "binary_data")?.unwrap_or(all_binary))
    };
    let wanted = Wanted {
        id: json.id.clone(),
        binary: match json.outputs[..] {
            [] => vec![all_binary],
            _ => json.outputs.iter().map(is_binary).collect::<Result<_>>()?,
        },
        outputs: json.outputs.into_iter().map(|output| output.name).collect(),
    };
    let timeout = json.parameters.get("timeout").map(|value| {
        let microseconds = value.as_u64();
        microseconds.ok_or_else(|| {
            Failure::Invalid(format!(
                "`timeout` is {value}, expected a number of microseconds"
            ))
        })
    });
    let request = Request {
        id: json.id,
        inputs,
        outputs: wanted.outputs.clone(),
        timeout: timeout
            .transpose()?
            .filter(|time| *time > 0)
            .map(Duration::from_micros),
    };
    Ok((request, wanted))
}

fn flag(parameters: &Map<String, Value>, key: &str) -> Result<Option<bool>> {
    match parameters.get(key) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(Failure::Invalid(format!(
            "`{key}` is {other}, expected true or false"
        ))),
    }
}

fn parse_input(input: InferInput<'_>, binary: &mut Bytes) -> Result<Input> {
    let InferInput {
        name,
        shape,
        datatype,
        parameters,
        data,
    } = input;
    let size = parameters.get("binary_data_size");
    describe::check_input_parameters(&name, parameters.keys())?;
    let data = match (size, data) {
        (Some(size), None) => Data::Raw(take(&name, size, binary)?),
        (None, Some(data)) => elements(&name, &datatype, data.get())?,
        (Some(_), Some(_)) => {
            return Err(Failure::Invalid(format!(
                "`{name}` has both `data` and `binary_data_size`"
            )));
        }
        (None, None) => {
            return Err(Failure::Invalid(format!(
                "`{name}` has neither `data` nor `binary_data_size`"
            )));
        }
    };
    Ok(Input {
        name,
        datatype,
        shape,
        data,
    })
}

fn take(name: &str, size: &Value, binary: &mut Bytes) -> Result<Bytes> {
    let size = size.as_u64().and_then(|size| usize::try_from(size).ok());
    let size = size.ok_or_else(|| {
        Failure::Invalid(format!(
            "`{name}`: `binary_data_size` is no number of bytes"
        ))
    })?;
    if size > binary.len() {
        return Err(Failure::Invalid(format!(
            "`{name}` has {size} bytes by its `binary_data_size`, {} are left in the body",
            binary.len()
        )));
    }
    Ok(binary.split_to(size))
}

/// The elements of a tensor in JSON; bytes are in base64, since an image is no text.
fn elements(name: &str, datatype: &str, data: &str) -> Result<Data> {
    let bad = |error: serde_json::Error| Failure::Invalid(format!("`{name}`: {error}"));
    match datatype {
        "FP32" => serde_json::from_str::<Flat<f32>>(data)
            .map(|flat| Data::Floats(flat.0))
            .map_err(bad),
        "UINT8" => serde_json::from_str::<Flat<u8>>(data)
            .map(|flat| Data::Levels(flat.0))
            .map_err(bad),
        "BYTES" => {
            let texts = serde_json::from_str::<Flat<String>>(data).map_err(bad)?.0;
            let decode = |text: String| {
                let bytes = BASE64_STANDARD.decode(text).map(Bytes::from);
                bytes.map_err(|error| {
                    Failure::Invalid(format!("`{name}`: bytes in JSON are in base64: {error}"))
                })
            };
            Ok(Data::Elements(
                texts.into_iter().map(decode).collect::<Result<_>>()?,
            ))
        }
        other => Err(Failure::Invalid(format!(
            "`{name}` is {other}; FP32, UINT8 and BYTES are read"
        ))),
    }
}

fn answer(model: &Model, wanted: &Wanted, outputs: &[Output]) -> Answer {
    let is_binary = |i: usize| {
        wanted
            .binary
            .get(i)
            .or(wanted.binary.first())
            .copied()
            .unwrap_or(false)
    };
    let mut binary = Vec::new();
    let mut tensors = Vec::with_capacity(outputs.len());
    for (i, output) in outputs.iter().enumerate() {
        let mut tensor = json!({
            "name": output.name,
            "datatype": output.values.datatype(),
            "shape": output.shape,
        });
        if is_binary(i) {
            let raw = output.values.to_raw();
            tensor["parameters"] = json!({ "binary_data_size": raw.len() });
            binary.extend(raw);
        } else {
            tensor["data"] = values(&output.values);
        }
        tensors.push(tensor);
    }
    let mut document = json!({
        "model_name": model.name,
        "model_version": model.about().version(),
        "outputs": tensors,
    });
    if !wanted.id.is_empty() {
        document["id"] = wanted.id.as_str().into();
    }
    let mut body = serde_json::to_vec(&document).expect("plain data has a JSON form");
    if !wanted.binary.contains(&true) {
        return Answer::of_json_bytes(body);
    }
    let length = body.len();
    body.extend(binary);
    Answer::binary(body).with(HEADER_LENGTH, length)
}

fn values(values: &Values) -> Value {
    match values {
        Values::Fp32(values) => json!(values),
        Values::Fp64(values) => json!(values),
        Values::Bool(values) => json!(values),
        Values::Texts(texts) => json!(texts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str, header_length: Option<usize>) -> String {
        parse(&Bytes::from(body.to_owned()), header_length)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn requests_that_contradict_themselves_are_refused_by_name() {
        let input = |rest: &str| {
            format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32"{rest}}}]}}"#)
        };
        let cases = [
            ("no JSON", "{".to_owned(), "no JSON"),
            ("no inputs", "{}".to_owned(), "inputs"),
            ("no data", input(""), "neither `data` nor"),
            (
                "both",
                input(r#","data":[1],"parameters":{"binary_data_size":4}"#),
                "both `data` and",
            ),
            (
                "too little",
                input(r#","parameters":{"binary_data_size":4}"#),
                "0 are left",
            ),
            (
                "no size",
                input(r#","parameters":{"binary_data_size":-4}"#),
                "no number of bytes",
            ),
            (
                "shared memory",
                input(r#","data":[1],"parameters":{"shared_memory_region":"a"}"#),
                "shared_memory_region",
            ),
            ("no numbers", input(r#","data":["a"]"#), "expected numbers"),
            (
                "a sequence",
                r#"{"inputs":[],"parameters":{"sequence_id":3}}"#.to_owned(),
                "sequence_id",
            ),
            (
                "a timeout",
                r#"{"inputs":[],"parameters":{"timeout":"soon"}}"#.to_owned(),
                "microseconds",
            ),
            (
                "no flag",
                r#"{"inputs":[],"parameters":{"binary_data_output":1}}"#.to_owned(),
                "true or false",
            ),
        ];
        for (name, body, part) in cases {
            let message = refused(&body, None);
            assert!(message.contains(part), "{name}: {message}");
        }
        assert!(refused("{}", Some(3)).contains("the body has 2 bytes"));
        assert!(
            refused(
                &(input(r#","data":[1]"#) + "xy"),
                Some(input(r#","data":[1]"#).len())
            )
            .contains("2 bytes after")
        );
    }
}

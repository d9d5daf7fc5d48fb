//! Between messages and what they mean.

use super::messages::{
    BatchStatistics, DynamicBatching, InferInput, InferOutput, InferStatistics, ModelConfig,
    ModelIndex, ModelInferRequest, ModelInferResponse, ModelInput, ModelMetadataResponse,
    ModelOutput, ModelParameter, ModelStatistics, ModelStatisticsResponse, Parameter,
    ParameterChoice, RepositoryIndexResponse, ServerMetadataResponse, StatisticDuration,
    TensorMetadata,
};
use crate::{
    describe::{self, BACKEND, EXTENSIONS, PLATFORM, SERVER},
    failure::{Failure, Result},
    infer::{self, Data, Input, Output, Request, TensorSpec},
    model::{Model, Sum},
    options::Batching,
    registry::IndexEntry,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration, vec};

pub(super) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: SERVER.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

pub(super) fn model(model: &Model) -> ModelMetadataResponse {
    let about = model.about();
    let tensor = |spec: TensorSpec| TensorMetadata {
        name: spec.name,
        datatype: spec.datatype.to_owned(),
        shape: [-1].into_iter().chain(spec.dims).collect(),
    };
    ModelMetadataResponse {
        name: model.name.clone(),
        versions: vec![about.version()],
        platform: PLATFORM.to_owned(),
        inputs: infer::input_specs(about).into_iter().map(tensor).collect(),
        outputs: infer::output_specs(about).into_iter().map(tensor).collect(),
    }
}

/// The number of a type in `model_config.proto`.
fn data_type(datatype: &str) -> i32 {
    match datatype {
        "BOOL" => 1,
        "UINT8" => 2,
        "FP32" => 11,
        "FP64" => 12,
        "BYTES" => 13,
        _ => 0,
    }
}

pub(super) fn config(model: &Model, batching: &Batching) -> ModelConfig {
    let about = model.about();
    let input = |spec: TensorSpec| ModelInput {
        name: spec.name,
        data_type: data_type(spec.datatype),
        dims: spec.dims,
        optional: true,
    };
    let output = |spec: TensorSpec| ModelOutput {
        name: spec.name,
        data_type: data_type(spec.datatype),
        dims: spec.dims,
    };
    let parameter = |(key, string_value)| (key, ModelParameter { string_value });
    ModelConfig {
        name: model.name.clone(),
        platform: PLATFORM.to_owned(),
        max_batch_size: model.capacity() as i32,
        input: infer::input_specs(about).into_iter().map(input).collect(),
        output: infer::output_specs(about).into_iter().map(output).collect(),
        dynamic_batching: Some(DynamicBatching {
            preferred_batch_size: vec![batching.max_batch.min(about.batch) as i32],
            max_queue_delay_microseconds: batching.max_delay.as_micros() as u64,
        }),
        parameters: describe::parameters(about)
            .into_iter()
            .map(parameter)
            .collect(),
        backend: BACKEND.to_owned(),
    }
}

pub(super) fn statistics(models: &[Arc<Model>]) -> ModelStatisticsResponse {
    let duration = |sum: Sum| {
        Some(StatisticDuration {
            count: sum.count,
            ns: sum.time.as_nanos() as u64,
        })
    };
    let one = |model: &Arc<Model>| {
        let sums = model.statistics.now();
        let batch = |(size, infer): (&usize, &Sum)| BatchStatistics {
            batch_size: *size as u64,
            compute_infer: duration(*infer),
        };
        ModelStatistics {
            name: model.name.clone(),
            version: model.about().version(),
            last_inference: sums.last,
            inference_count: sums.images,
            execution_count: sums.batches.values().map(|sum| sum.count).sum(),
            inference_stats: Some(InferStatistics {
                success: duration(sums.success),
                fail: duration(sums.fail),
                queue: duration(sums.queue),
                compute_input: duration(sums.input),
                compute_infer: duration(sums.infer),
                compute_output: duration(sums.output),
            }),
            batch_stats: sums.batches.iter().map(batch).collect(),
        }
    };
    ModelStatisticsResponse {
        model_stats: models.iter().map(one).collect(),
    }
}

pub(super) fn index(entries: Vec<IndexEntry>, only_ready: bool) -> RepositoryIndexResponse {
    let line = |entry: IndexEntry| ModelIndex {
        name: entry.name,
        version: entry.version,
        state: if entry.is_ready {
            "READY"
        } else {
            "UNAVAILABLE"
        }
        .to_owned(),
        reason: entry.reason,
    };
    let wanted = entries
        .into_iter()
        .filter(|entry| entry.is_ready || !only_ready);
    RepositoryIndexResponse {
        models: wanted.map(line).collect(),
    }
}

pub(super) fn request(asked: ModelInferRequest) -> Result<Request> {
    describe::check_parameters(asked.parameters.keys())?;
    let timeout = asked
        .parameters
        .get("timeout")
        .map(microseconds)
        .transpose()?;
    for output in &asked.outputs {
        describe::check_output_parameters(output.parameters.keys())?;
    }
    let (raw, n) = (asked.raw_input_contents, asked.inputs.len());
    if !raw.is_empty() && raw.len() != n {
        return Err(Failure::Invalid(format!(
            "there are {} raw tensors for {n} inputs",
            raw.len()
        )));
    }
    let mut raw = raw.into_iter();
    Ok(Request {
        id: asked.id,
        inputs: asked
            .inputs
            .into_iter()
            .map(|one| input(one, raw.next()))
            .collect::<Result<_>>()?,
        outputs: asked
            .outputs
            .into_iter()
            .map(|output| output.name)
            .collect(),
        timeout: timeout.filter(|timeout| !timeout.is_zero()),
    })
}

fn microseconds(parameter: &Parameter) -> Result<Duration> {
    let number = match parameter.choice {
        Some(ParameterChoice::Int64(number)) => u64::try_from(number).ok(),
        Some(ParameterChoice::Uint64(number)) => Some(number),
        _ => None,
    };
    let number = number
        .ok_or_else(|| Failure::Invalid("`timeout` isn't a number of microseconds".to_owned()))?;
    Ok(Duration::from_micros(number))
}

fn input(input: InferInput, raw: Option<Bytes>) -> Result<Input> {
    let InferInput {
        name,
        datatype,
        shape,
        parameters,
        contents,
    } = input;
    describe::check_input_parameters(&name, parameters.keys())?;
    let data = match (raw, contents) {
        (Some(raw), None) => Data::Raw(raw),
        (None, Some(contents)) if contents.kinds() > 1 => {
            return Err(Failure::Invalid(format!(
                "`{name}` has `contents` of several types; one is read, of {datatype}"
            )));
        }
        (None, Some(contents)) => match datatype.as_str() {
            "FP32" => Data::Floats(contents.fp32_contents),
            "BYTES" => Data::Elements(contents.bytes_contents),
            "UINT8" => {
                let level = |value| {
                    u8::try_from(value)
                        .map_err(|_| Failure::Invalid(format!("`{name}`: {value} is no UINT8")))
                };
                Data::Levels(
                    contents
                        .uint_contents
                        .into_iter()
                        .map(level)
                        .collect::<Result<_>>()?,
                )
            }
            other => {
                return Err(Failure::Invalid(format!(
                    "`{name}` is {other}; FP32, UINT8 and BYTES are read"
                )));
            }
        },
        (Some(_), Some(_)) => {
            return Err(Failure::Invalid(format!(
                "`{name}` has both `contents` and raw contents"
            )));
        }
        (None, None) => {
            return Err(Failure::Invalid(format!(
                "`{name}` has neither `contents` nor raw contents"
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

pub(super) fn answer(model: &Model, id: String, outputs: Vec<Output>) -> ModelInferResponse {
    let tensor = |output: &Output| InferOutput {
        name: output.name.clone(),
        datatype: output.values.datatype().to_owned(),
        shape: output.shape.map(|side| side as i64).to_vec(),
    };
    ModelInferResponse {
        model_name: model.name.clone(),
        model_version: model.about().version(),
        id,
        outputs: outputs.iter().map(tensor).collect(),
        raw_output_contents: outputs
            .iter()
            .map(|output| output.values.to_raw())
            .collect(),
    }
}

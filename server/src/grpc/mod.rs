//! gRPC: the Open Inference Protocol.

mod convert;
mod messages;

use crate::{
    budget::Lease,
    failure::{Failure, Result},
    http::body::{Guarded, Held},
    metrics::Stage,
    service::{Call, Service},
};
use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Request, Response,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
};
use messages::{
    Empty, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelName,
    ModelReadyResponse, RepositoryIndexRequest, RepositoryModelRequest, ServerLiveResponse,
    ServerReadyResponse,
};
use prost::Message;
use std::{
    future::Future,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tonic::{
    Status,
    body::Body,
    codec::CompressionEncoding,
    server::{Grpc, UnaryService},
};
use tonic_prost::ProstCodec;

const SERVICE: &str = "/inference.GRPCInferenceService/";

/// Whether a request is gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|content_type| content_type.starts_with(b"application/grpc"))
}

/// Answers a request; failures become their code and message.
pub(crate) async fn serve(
    service: &Service,
    call: &mut Call,
    request: Request<Incoming>,
) -> Response<Body> {
    let method = request
        .uri()
        .path()
        .strip_prefix(SERVICE)
        .unwrap_or("")
        .to_owned();
    let prepared = prepare(service, call, &method, request.headers());
    let mut response = match prepared {
        Ok(()) => dispatch(service, call, &method, request).await,
        Err(failure) => unread(refuse(service, call, failure).into_http(), request),
    };
    let headers = response.headers_mut();
    // tonic says so of a message that is too large; gRPC's own libraries say that a resource is exhausted.
    if headers
        .get("grpc-status")
        .is_some_and(|status| status == "11")
    {
        headers.insert(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("8"),
        );
    }
    if let Ok(trace) = HeaderValue::from_str(&call.trace.to_string()) {
        headers.insert(HeaderName::from_static("traceparent"), trace);
    }
    response
}

fn prepare(service: &Service, call: &mut Call, method: &str, headers: &HeaderMap) -> Result<()> {
    call.must_end_within(timeout(headers)?);
    if matches!(method, "ServerLive" | "ServerReady") {
        return Ok(());
    }
    service.authorise(
        headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes),
    )
}

fn refuse(service: &Service, call: &Call, failure: Failure) -> Status {
    if let Some(reason) = failure.refusal() {
        service.metrics.refusal(&call.model, reason);
    }
    if let Failure::Internal(error) = &failure {
        tracing::error!(trace_id = call.trace.trace_id(), %error, "a request failed");
    }
    failure.into()
}

/// `grpc-timeout`: at most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>> {
    let Some(text) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let parse = || {
        let (digits, unit) = text
            .to_str()
            .ok()?
            .split_at_checked(text.len().checked_sub(1)?)?;
        let n = digits.parse::<u64>().ok().filter(|_| digits.len() <= 8)?;
        Some(match unit {
            "H" => Duration::from_secs(n * 3600),
            "M" => Duration::from_secs(n * 60),
            "S" => Duration::from_secs(n),
            "m" => Duration::from_millis(n),
            "u" => Duration::from_micros(n),
            "n" => Duration::from_nanos(n),
            _ => return None,
        })
    };
    parse()
        .map(Some)
        .ok_or_else(|| Failure::Invalid("`grpc-timeout` isn't a number with a unit".to_owned()))
}

async fn dispatch(
    service: &Service,
    call: &mut Call,
    method: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    match method {
        "ServerLive" => {
            unary(service, call, request, async |_: Empty, _: &mut Call| {
                Ok(ServerLiveResponse { live: true })
            })
            .await
        }
        "ServerReady" => {
            let ready = service.is_ready();
            unary(service, call, request, async |_: Empty, _: &mut Call| {
                Ok(ServerReadyResponse { ready })
            })
            .await
        }
        "ServerMetadata" => {
            unary(service, call, request, async |_: Empty, _: &mut Call| {
                Ok(convert::server())
            })
            .await
        }
        "ModelReady" => {
            unary(
                service,
                call,
                request,
                async |asked: ModelName, _: &mut Call| {
                    let ready = match service.models.get(&asked.name, &asked.version) {
                        Ok(_) => service.is_ready(),
                        Err(Failure::Unavailable { .. }) => false,
                        Err(failure) => return Err(failure),
                    };
                    Ok(ModelReadyResponse { ready })
                },
            )
            .await
        }
        "ModelMetadata" => {
            unary(
                service,
                call,
                request,
                async |asked: ModelName, _: &mut Call| {
                    Ok(convert::model(
                        &*service.models.get(&asked.name, &asked.version)?,
                    ))
                },
            )
            .await
        }
        "ModelConfig" => {
            unary(
                service,
                call,
                request,
                async |asked: ModelName, _: &mut Call| {
                    let model = service.models.get(&asked.name, &asked.version)?;
                    let config = Some(convert::config(&model, &service.options.batching));
                    Ok(ModelConfigResponse { config })
                },
            )
            .await
        }
        "ModelStatistics" => {
            unary(
                service,
                call,
                request,
                async |asked: ModelName, _: &mut Call| {
                    let models = match asked.name.as_str() {
                        "" => service.models.served(),
                        name => vec![service.models.get(name, &asked.version)?],
                    };
                    Ok(convert::statistics(&models))
                },
            )
            .await
        }
        "RepositoryIndex" => {
            unary(
                service,
                call,
                request,
                async |asked: RepositoryIndexRequest, _: &mut Call| {
                    Ok(convert::index(service.models.index(), asked.ready))
                },
            )
            .await
        }
        "RepositoryModelLoad" | "RepositoryModelUnload" => {
            let load = method == "RepositoryModelLoad";
            unary(
                service,
                call,
                request,
                async |asked: RepositoryModelRequest, _: &mut Call| {
                    control(service, &asked, load).await
                },
            )
            .await
        }
        "ModelInfer" => {
            unary(
                service,
                call,
                request,
                async |asked: ModelInferRequest, call: &mut Call| infer(service, call, asked).await,
            )
            .await
        }
        _ => {
            let name: String = request.uri().path().chars().take(100).collect();
            let what = format!(
                "`{name}` isn't offered; of inference.GRPCInferenceService, streams, shared memory, trace and log settings aren't"
            );
            let refused = refuse(service, call, Failure::Unsupported(what)).into_http();
            unread(refused, request)
        }
    }
}

/// The answer to a request whose body wasn't wanted: it may be a stream that never ends.
fn unread(response: Response<Body>, request: Request<Incoming>) -> Response<Body> {
    response.map(|body| Body::new(Held::new(body, request.into_body())))
}

async fn control(service: &Service, asked: &RepositoryModelRequest, load: bool) -> Result<Empty> {
    service.allow_control()?;
    if let Some(key) = asked
        .parameters
        .keys()
        .find(|key| *key != "unload_dependents")
    {
        return Err(crate::describe::no_parameter(key));
    }
    if load {
        service.models.load(&asked.model_name).await?;
    } else {
        service.models.unload(&asked.model_name).await?;
    }
    Ok(Empty {})
}

async fn infer(
    service: &Service,
    call: &mut Call,
    asked: ModelInferRequest,
) -> Result<ModelInferResponse> {
    let model = service
        .models
        .get(&asked.model_name, &asked.model_version)?;
    call.model.clone_from(&model.name);
    let id = asked.id.clone();
    let (outputs, _) = service
        .infer(call, &model, convert::request(asked)?)
        .await?;
    Ok(convert::answer(&model, id, outputs))
}

/// One message in, one out.
async fn unary<Asked, Answer, F>(
    service: &Service,
    call: &mut Call,
    request: Request<Incoming>,
    answer: F,
) -> Response<Body>
where
    Asked: Message + Default + Send + 'static,
    Answer: Message + Default + Send + 'static,
    F: AsyncFnOnce(Asked, &mut Call) -> Result<Answer>,
{
    let limits = &service.options.limits;
    let mut lease = None;
    let request = request.map(|body| {
        let body = Guarded::new(
            body,
            &service.budget,
            limits.max_body,
            service.patience(call),
        );
        lease = Some(body.lease());
        body.map_err(Status::from)
    });
    let (inflated, was_read) = (lease.clone(), AtomicBool::new(false));
    let mut grpc = Grpc::new(ProstCodec::<Answer, Asked>::default())
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .send_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(limits.max_body);
    let was_read = &was_read;
    let handler = Handler(Some(move |asked: Asked| async move {
        was_read.store(true, Ordering::Relaxed);
        service
            .metrics
            .stage(&call.model, Stage::Read, call.start.elapsed());
        let answer = match count(inflated.as_deref(), asked.encoded_len()) {
            Ok(()) => answer(asked, call).await,
            Err(failure) => Err(failure),
        };
        answer
            .map(tonic::Response::new)
            .map_err(|failure| refuse(service, call, failure))
    }));
    let mut response = grpc.unary(handler, request).await;
    drop(lease);
    // tonic calls what can't be decoded an error of the server's.
    let status = response.headers_mut().get_mut("grpc-status");
    if let Some(status) =
        status.filter(|status| !was_read.load(Ordering::Relaxed) && *status == "13")
    {
        *status = HeaderValue::from_static("3");
    }
    response
}

/// What a message takes once it is inflated counts beside what has come of it: small bodies may be large messages.
fn count(lease: Option<&Mutex<Lease>>, bytes: usize) -> Result<()> {
    let Some(lease) = lease else { return Ok(()) };
    lease
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .grow(bytes)
}

/// A function as tonic calls it, once.
struct Handler<F>(Option<F>);

impl<Asked, Answer, F, Fut> UnaryService<Asked> for Handler<F>
where
    F: FnOnce(Asked) -> Fut,
    Fut: Future<Output = Result<tonic::Response<Answer>, Status>>,
{
    type Response = Answer;
    type Future = Fut;

    fn call(&mut self, request: tonic::Request<Asked>) -> Fut {
        let answer = self
            .0
            .take()
            .expect("a unary method is called once per request");
        answer(request.into_inner())
    }
}

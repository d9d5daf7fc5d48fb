//! The Open Inference Protocol over gRPC. NVIDIA's own client has its tests in Python.

#[path = "../../src/grpc/messages.rs"]
#[allow(
    dead_code,
    reason = "the server reads and writes more than is asked here"
)]
mod messages;

use crate::{
    fixture::{Fixture, SIDE},
    running::{Running, red},
};
use messages::{
    Empty, InferInput, ModelInferRequest, ModelInferResponse, ModelName, ModelReadyResponse,
    ServerReadyResponse,
};
use prost::Message;
use std::time::Duration;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// One call, over a connection of its own.
fn call<Asked, Answer>(
    running: &Running,
    method: &str,
    request: Request<Asked>,
) -> Result<Answer, Status>
where
    Asked: Message + 'static,
    Answer: Message + Default + 'static,
{
    running.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc)).unwrap();
        let channel: Channel = endpoint.connect().await.unwrap();
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = format!("/inference.GRPCInferenceService/{method}");
        let path = PathAndQuery::from_maybe_shared(path).unwrap();
        let codec = ProstCodec::<Asked, Answer>::default();
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    })
}

fn of_image(bytes: &[u8]) -> ModelInferRequest {
    let mut tensor = (bytes.len() as u32).to_le_bytes().to_vec();
    tensor.extend(bytes);
    ModelInferRequest {
        model_name: "m".to_owned(),
        inputs: vec![InferInput {
            name: "image".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![1, 1],
            ..InferInput::default()
        }],
        raw_input_contents: vec![tensor.into()],
        ..ModelInferRequest::default()
    }
}

fn infer(running: &Running, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
    call(running, "ModelInfer", Request::new(request))
}

#[test]
fn an_image_gets_its_tensors() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let answer = infer(&running, of_image(&red(&fixture))).unwrap();
    let at = |name: &str| {
        answer
            .outputs
            .iter()
            .position(|output| output.name == name)
            .unwrap()
    };
    assert_eq!(answer.raw_output_contents[at("label")], b"\x03\0\0\0red");
    assert_eq!(answer.outputs[at("logits")].shape, [1, 3]);
    let ready: ModelReadyResponse = call(
        &running,
        "ModelReady",
        Request::new(ModelName {
            name: "m".to_owned(),
            version: String::new(),
        }),
    )
    .unwrap();
    assert!(ready.ready);
    // HTTP's address serves gRPC, too, and the other way round.
    assert_eq!(
        crate::client::Client::connect(running.grpc)
            .send("GET", "/livez", &[], b"")
            .status,
        200
    );
}

#[test]
fn each_failure_has_its_code() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.limits.max_body = 10_000;
        options.batching.queue = 2;
    });
    let good = || of_image(&red(&fixture));
    let mut unknown = good();
    unknown.model_name = "x".to_owned();
    let mut shape = good();
    shape.inputs[0].shape = vec![2, 1];
    let mut pixels = good();
    pixels.inputs[0] = InferInput {
        name: "pixel_values".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 3, SIDE as i64, 7],
        ..InferInput::default()
    };
    let mut no_contents = good();
    no_contents.raw_input_contents.clear();
    let cases = [
        ("an unknown model", unknown, Code::NotFound, "no model `x`"),
        (
            "a shape",
            shape,
            Code::InvalidArgument,
            "1 elements, its shape says 2",
        ),
        (
            "pixels",
            pixels,
            Code::InvalidArgument,
            "expected [n, 3, 8, 8]",
        ),
        ("no contents", no_contents, Code::InvalidArgument, "neither"),
        (
            "a bad image",
            of_image(b"no image"),
            Code::InvalidArgument,
            "not an image",
        ),
        (
            "too large",
            of_image(&[0; 20_000]),
            Code::ResourceExhausted,
            "",
        ),
    ];
    for (name, request, code, part) in cases {
        let status = infer(&running, request).unwrap_err();
        assert_eq!(status.code(), code, "{name}: {status:?}");
        assert!(status.message().contains(part), "{name}: {status:?}");
    }
    let status =
        call::<_, Empty>(&running, "ModelStreamInfer", Request::new(Empty {})).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status =
        call::<_, Empty>(&running, "RepositoryModelLoad", Request::new(Empty {})).unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(infer(&running, good()).is_ok());
}

#[test]
fn deadlines_and_full_queues() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.batching.queue = 1;
        options.batching.max_delay = Duration::from_secs(20);
    });
    let mut request = Request::new(of_image(&red(&fixture)));
    request.set_timeout(Duration::from_millis(100));
    let status = call::<_, ModelInferResponse>(&running, "ModelInfer", request).unwrap_err();
    // The client's own clock may be the faster one; it calls that cancelled.
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    crate::running::eventually("it has left", || {
        running.metric("stage1_images_in_flight") == 0.0
    });
    let mut first = crate::client::Client::connect(running.http);
    first
        .write(&crate::client::request(
            "POST",
            "/v1/classify",
            &[],
            &red(&fixture),
        ))
        .unwrap();
    crate::running::eventually("it waits", || running.metric("stage1_queue_depth") == 1.0);
    let status = infer(&running, of_image(&red(&fixture))).unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status.metadata().get("grpc-retry-pushback-ms").is_some(),
        "{status:?}"
    );
}

#[test]
fn a_token_opens_all_but_health() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.access.token = Some("s3cret".to_owned())
    });
    let ready: ServerReadyResponse = call(&running, "ServerReady", Request::new(Empty {})).unwrap();
    assert!(ready.ready);
    let status = infer(&running, of_image(&red(&fixture))).unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let mut request = Request::new(of_image(&red(&fixture)));
    request
        .metadata_mut()
        .insert("authorization", "Bearer s3cret".parse().unwrap());
    assert!(call::<_, ModelInferResponse>(&running, "ModelInfer", request).is_ok());
}

/// What isn't a message at all is the client's mistake.
#[test]
fn what_can_not_be_decoded_is_invalid() {
    /// Its first field is a text in the protocol.
    #[derive(Clone, PartialEq, Message)]
    struct Other {
        #[prost(uint64, tag = "1")]
        number: u64,
    }
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |_| {});
    let answer =
        call::<_, ModelInferResponse>(&running, "ModelInfer", Request::new(Other { number: 7 }));
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn small_bodies_of_large_messages_count_as_what_they_hold() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.limits.max_body = 8_000_000;
        options.limits.max_bodies = 8_000_000;
    });
    let of = |bytes: usize| ModelInferRequest {
        raw_input_contents: vec![vec![0; bytes].into()],
        ..of_image(b"")
    };
    let infer = |request: ModelInferRequest| {
        running.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{}", running.grpc)).unwrap();
            let mut grpc = Grpc::new(endpoint.connect().await.unwrap())
                .send_compressed(tonic::codec::CompressionEncoding::Gzip);
            grpc.ready().await.unwrap();
            let path = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
            let codec = ProstCodec::<ModelInferRequest, ModelInferResponse>::default();
            let answer = grpc.unary(Request::new(request), path, codec).await;
            answer.map_err(|status| status.code())
        })
    };
    // It is no picture, but small enough.
    assert_eq!(infer(of(1_000)).unwrap_err(), Code::InvalidArgument);
    // 8 kB come, and would hold all that bodies may.
    assert_eq!(infer(of(7_999_900)).unwrap_err(), Code::Unavailable);
    assert_eq!(running.metric("stage1_body_bytes"), 0.0);
}

/// Over HTTP/2 an answer must not be lost because the body wasn't read.
#[test]
fn a_refusal_arrives_although_the_body_was_not_read() {
    use tonic::{body::Body, client::GrpcService, codegen::http};
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.access.token = Some("right".to_owned());
    });
    for path in ["/v1/classify", "/v1/nope", "/v2/models/m?x=%"] {
        let status = running.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{}", running.http)).unwrap();
            let mut channel = endpoint.connect().await.unwrap();
            std::future::poll_fn(|context| channel.poll_ready(context))
                .await
                .unwrap();
            let body = Body::new(http_body_util::Full::new(bytes::Bytes::from(vec![
                7;
                900_000
            ])));
            let request = http::Request::post(path).body(body).unwrap();
            channel
                .call(request)
                .await
                .map(|answer| answer.status().as_u16())
        });
        let want = if path.contains('%') { 400 } else { 401 };
        assert_eq!(status.unwrap(), want, "{path}");
    }
}

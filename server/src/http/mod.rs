//! HTTP: the Open Inference Protocol, image bytes, health and metrics.

mod answer;
pub(crate) mod body;
mod classify;
mod multipart;
mod numbers;
mod protocol;

use crate::{
    budget::Lease,
    failure::{Failure, Result},
    metrics::{self, Stage},
    model::Model,
    service::{Call, Service},
};
use answer::Answer;
use body::{Guarded, Held, Patience};
use bytes::Bytes;
use hyper::{Method, Request, Response, body::Incoming, header};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A client's own deadline, in milliseconds.
const TIMEOUT: &str = "x-request-timeout-ms";

/// A request's head, and its body once it is wanted.
struct Asked<'a> {
    service: &'a Service,
    method: Method,
    headers: hyper::HeaderMap,
    path: String,
    query: Query,
    /// Until it is wanted.
    body: &'a mut Option<Guarded>,
}

/// The parameters after the `?`.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: Option<&str>) -> Result<Self> {
        let pairs = text
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((
                unescape(&key.replace('+', " "))?,
                unescape(&value.replace('+', " "))?,
            ))
        };
        Ok(Self(pairs.map(pair).collect::<Result<_>>()?))
    }

    fn get(&self, key: &str) -> Option<&str> {
        let mut pairs = self.0.iter();
        pairs
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// Fails for a parameter that nothing reads.
    fn only(&self, known: &[&str]) -> Result<()> {
        match self
            .0
            .iter()
            .find(|(key, _)| !known.contains(&key.as_str()))
        {
            None => Ok(()),
            Some((key, _)) => Err(Failure::Invalid(format!(
                "there is no parameter `{key}` here, there is {}",
                known.join(", ")
            ))),
        }
    }
}

/// Undoes percent-encoding.
fn unescape(text: &str) -> Result<String> {
    let bad = || Failure::Invalid("the address is no percent-encoded UTF-8".to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(bad)?;
        let digits = std::str::from_utf8(digits).map_err(|_| bad())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

impl Asked<'_> {
    fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn expect(&self, allowed: Method, name: &'static str) -> Result<()> {
        let is_head = self.method == Method::HEAD && allowed == Method::GET;
        if self.method == allowed || is_head {
            return Ok(());
        }
        Err(Failure::Method {
            path: self.path.clone(),
            allowed: name,
        })
    }

    fn get(&self) -> Result<()> {
        self.expect(Method::GET, "GET")
    }

    fn post(&self) -> Result<()> {
        self.expect(Method::POST, "POST")
    }

    /// The time that the client gives the request.
    fn timeout(&self) -> Result<Option<Duration>> {
        let Some(text) = self.header(TIMEOUT) else {
            return Ok(None);
        };
        let milliseconds = text.trim().parse();
        let milliseconds = milliseconds.map_err(|_| {
            Failure::Invalid(format!(
                "`{TIMEOUT}` is `{text}`, expected a whole number of milliseconds"
            ))
        })?;
        Ok(Some(Duration::from_millis(milliseconds)))
    }

    /// The body as it was before it was compressed, and the lease of its memory.
    async fn body(self, call: &Call) -> Result<(Bytes, Arc<Mutex<Lease>>)> {
        let encoding = self
            .header(header::CONTENT_ENCODING)
            .unwrap_or("identity")
            .trim()
            .to_ascii_lowercase();
        let limit = self.service.options.limits.max_body;
        let start = Instant::now();
        let body = self.body.take().expect("a body is read once");
        let (bytes, lease) = body::read(body.within(self.service.patience(call))).await?;
        self.service
            .metrics
            .stage(&call.model, Stage::Read, start.elapsed());
        match encoding.as_str() {
            "identity" | "" => Ok((bytes, lease)),
            "gzip" | "deflate" => {
                let task = tokio::task::spawn_blocking(move || {
                    body::inflate(&bytes, &encoding, limit, lease)
                });
                task.await.map_err(Failure::internal)?
            }
            other => Err(Failure::Encoding(format!(
                "`content-encoding: {other}` isn't read here; send gzip, deflate, or no encoding"
            ))),
        }
    }
}

/// Answers a request; failures become their status and a JSON document with `error`.
pub(crate) async fn serve(
    service: &Service,
    call: &mut Call,
    request: Request<Incoming>,
) -> Response<tonic::body::Body> {
    let (head, body) = request.into_parts();
    let is_head = head.method == Method::HEAD;
    // It sends its body only if it is asked to.
    let is_waiting = head.headers.contains_key(header::EXPECT);
    let limits = &service.options.limits;
    let body = Guarded::new(
        body,
        &service.budget,
        limits.max_body,
        Patience::of_body(limits.body),
    );
    let mut body = Some(body);
    let answer = match Query::of(head.uri.query()) {
        Ok(query) => {
            let asked = Asked {
                service,
                path: head.uri.path().trim_end_matches('/').to_owned(),
                method: head.method,
                headers: head.headers,
                query,
                body: &mut body,
            };
            route(asked, call).await
        }
        Err(failure) => Err(failure),
    };
    let answer = answer.unwrap_or_else(|failure| Answer::failure(service, call, &failure));
    let response = answer.response(service, call, is_head);
    // Over HTTP/2 a body that is dropped before the answer is sent takes the answer with it, and some clients don't look at an answer
    // that comes while they send.
    match body {
        Some(mut unread) => {
            if !is_waiting {
                unread.discard().await;
            }
            response.map(|body| tonic::body::Body::new(Held::new(body, unread)))
        }
        None => response,
    }
}

async fn route(asked: Asked<'_>, call: &mut Call) -> Result<Answer> {
    let service = asked.service;
    call.must_end_within(asked.timeout()?);
    let path = asked.path.clone();
    let segments: Vec<_> = path
        .split('/')
        .skip(1)
        .map(unescape)
        .collect::<Result<_>>()?;
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    // Whoever watches the server has no token: these tell nothing but whether it works.
    match segments[..] {
        ["livez"] | ["v2", "health", "live"] => return asked.get().map(|()| Answer::state(true)),
        ["readyz" | "healthz"] | ["v2", "health", "ready"] => {
            return asked.get().map(|()| Answer::state(service.is_ready()));
        }
        _ => {}
    }
    service.authorise(
        asked
            .headers
            .get(header::AUTHORIZATION)
            .map(header::HeaderValue::as_bytes),
    )?;
    match segments[..] {
        ["metrics"] => {
            asked.get()?;
            let served = service.models.served();
            let text = service.metrics.text(served.iter().map(|model| &**model), service.is_ready());
            Ok(Answer::text(metrics::CONTENT_TYPE, text.map_err(Failure::internal)?))
        }
        ["v1", "classify"] => {
            let model = service.models.choose(asked.query.get("model"))?;
            classify::classify(asked, call, model).await
        }
        ["v1", "models", name, "classify"] => {
            let model = service.models.get(name, "")?;
            classify::classify(asked, call, model).await
        }
        ["v2"] => asked.get().map(|()| Answer::json(&protocol::server())),
        ["v2", "repository", "index"] => asked.post().map(|()| Answer::json(&protocol::index(service))),
        ["v2", "repository", "models", name, action @ ("load" | "unload")] => {
            let name = name.to_owned();
            protocol::control(asked, call, &name, action == "load").await
        }
        ["v2", "models", "stats"] => {
            asked.get()?;
            Ok(Answer::json(&protocol::statistics(&service.models.served())))
        }
        ["v2", "models", name, "versions", version, ref rest @ ..] => of_model(asked, call, name, version, rest).await,
        ["v2", "models", name, ref rest @ ..] => of_model(asked, call, name, "", rest).await,
        ["v2", "systemsharedmemory" | "cudasharedmemory" | "trace" | "logging", ..] => Err(Failure::Unsupported(
            "shared memory, trace and log settings of the protocol aren't offered; send tensors with the request".to_owned(),
        )),
        _ => Err(Failure::NotFound(format!(
            "there is nothing at `{}`; there is /v1/classify, /v2/models/NAME/infer, /v2/health/ready and /metrics",
            path.chars().take(100).collect::<String>()
        ))),
    }
}

async fn of_model(
    asked: Asked<'_>,
    call: &mut Call,
    name: &str,
    version: &str,
    rest: &[&str],
) -> Result<Answer> {
    let model = asked.service.models.get(name, version);
    if rest == ["ready"] {
        asked.get()?;
        return match model {
            Ok(_) => Ok(Answer::state(asked.service.is_ready())),
            // A bundle that isn't loaded isn't ready; a name that doesn't exist is an error.
            Err(Failure::Unavailable { .. }) => Ok(Answer::state(false)),
            Err(failure) => Err(failure),
        };
    }
    let model = model?;
    match rest {
        [] => asked.get().map(|()| Answer::json(&protocol::model(&model))),
        ["config"] => asked
            .get()
            .map(|()| Answer::json(&protocol::config(&model, &asked.service.options.batching))),
        ["stats"] => asked
            .get()
            .map(|()| Answer::json(&protocol::statistics(&[model]))),
        ["infer"] => {
            asked.post()?;
            note_model(call, &model);
            protocol::infer(asked, call, model).await
        }
        _ => Err(Failure::NotFound(format!(
            "there is nothing at `{}`",
            asked.path
        ))),
    }
}

fn note_model(call: &mut Call, model: &Model) {
    call.model.clone_from(&model.name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unescaped() {
        let query = Query::of(Some("path=a%2Fb+c.png&x&y=")).unwrap();
        assert_eq!(query.get("path"), Some("a/b c.png"));
        assert_eq!(
            (query.get("x"), query.get("y"), query.get("z")),
            (Some(""), Some(""), None)
        );
        assert!(query.only(&["path", "x"]).is_err());
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff"] {
            assert!(Query::of(Some(bad)).is_err(), "{bad}");
        }
    }
}

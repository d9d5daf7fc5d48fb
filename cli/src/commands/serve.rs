//! `stage1 serve`: bundles over HTTP and gRPC, until a signal ends it.

use crate::{
    args::ServeArgs,
    output::{Answer, Output},
};
use anyhow::{Context, bail};
use serde::Serialize;
use stage1_server::{
    Access, Batching, BundleSource, Drain, Ended, Limits, Options, Server, TlsFiles,
};
use std::{env, fs, net::SocketAddr, path::Path};

/// Where requests may go: printed once, when they can be answered.
#[derive(Serialize)]
struct Listening {
    http: SocketAddr,
    grpc: Option<SocketAddr>,
    tls: bool,
}

/// Exits 0 if everything that had begun was answered, 1 if something was cut off.
pub(crate) fn run(args: &ServeArgs, output: &Output) -> anyhow::Result<Answer> {
    let options = options(args)?;
    let tls = options.access.tls.is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("stage1-net")
        .enable_all()
        .build()
        .context("cannot start the threads for connections")?;
    let ended = runtime.block_on(async {
        let server = Server::start(options).await?;
        let listening = Listening {
            http: server.http(),
            grpc: server.grpc(),
            tls,
        };
        output.raw(&if output.is_json() {
            serde_json::to_string(&listening)?
        } else {
            listening.text()
        })?;
        Ok::<_, anyhow::Error>(server.until_signal().await?)
    })?;
    Ok(match ended {
        Ended::Drained => Answer::Yes,
        Ended::CutOff => Answer::No,
    })
}

impl Listening {
    fn text(&self) -> String {
        let s = if self.tls { "s" } else { "" };
        let grpc = self
            .grpc
            .map_or_else(String::new, |grpc| format!(", gRPC on {grpc}"));
        format!("listening on http{s}://{}{grpc}", self.http)
    }
}

fn options(args: &ServeArgs) -> anyhow::Result<Options> {
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    Ok(Options {
        bundles: args
            .bundle
            .iter()
            .map(|text| source(text))
            .collect::<anyhow::Result<_>>()?,
        variant: args.variant.clone(),
        devices: args.devices.device.clone(),
        providers: args.devices.providers()?,
        allow_uncertified: args.allow_uncertified,
        http: args.http,
        grpc: args.grpc.0,
        access: Access {
            token: token(args.token_file.as_deref())?,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            allow_anonymous: args.allow_anonymous,
            model_control: args.model_control,
        },
        batching: Batching {
            max_batch: args.max_batch,
            max_delay: args.max_delay,
            queue: args.queue,
            instances: args.instances,
            threads: args.threads.unwrap_or(0),
            decoders: args.decoders.unwrap_or(0),
        },
        limits: Limits {
            max_body: args.max_body,
            max_bodies: args.max_bodies,
            max_pixels: args.max_pixels,
            connections: args.connections,
            request: args.timeout,
            header: args.header_timeout,
            body: args.body_timeout,
            write: args.write_timeout,
        },
        drain: Drain {
            grace: args.drain_grace,
            timeout: args.drain_timeout,
        },
        watch: args.watch,
        decision_log: args.decision_log.clone(),
    })
}

/// `NAME=DIR`, or a folder that has a name.
fn source(text: &str) -> anyhow::Result<BundleSource> {
    if let Some((name, dir)) = text.split_once('=') {
        return Ok(BundleSource {
            name: name.to_owned(),
            dir: dir.into(),
        });
    }
    let dir = Path::new(text);
    let Some(name) = dir.file_name().and_then(|name| name.to_str()) else {
        bail!(
            "--bundle {text}: the folder's name can't be the model's; give one, as --bundle NAME={text}"
        );
    };
    Ok(BundleSource {
        name: name.to_owned(),
        dir: dir.to_owned(),
    })
}

/// Never on the command line, where everybody on the machine could read it.
fn token(file: Option<&Path>) -> anyhow::Result<Option<String>> {
    let token = match file {
        Some(path) => Some(
            fs::read_to_string(path)
                .with_context(|| format!("cannot read the token {}", path.display()))?,
        ),
        None => env::var("STAGE1_TOKEN").ok(),
    };
    let token = token.map(|token| token.trim().to_owned());
    if token.as_deref() == Some("") {
        bail!("the token is empty: everybody could guess it");
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_has_a_name() {
        let cases = [
            ("boots=runs/a/bundle", Some(("boots", "runs/a/bundle"))),
            ("runs/a/bundle/", Some(("bundle", "runs/a/bundle/"))),
            ("..", None),
        ];
        for (text, want) in cases {
            let got = source(text).ok();
            let got = got
                .as_ref()
                .map(|one| (one.name.as_str(), one.dir.to_str().unwrap()));
            assert_eq!(got, want, "{text}");
        }
    }
}

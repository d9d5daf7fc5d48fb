//! Tokens, TLS, and addresses that everybody reaches.

use crate::{
    client::Client,
    fixture::Fixture,
    running::{Running, red, runtime},
};
use stage1_server::{Options, Server, TlsFiles};
use std::{fs, net::TcpStream, sync::Arc};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};

#[test]
fn with_a_token_only_health_is_open() {
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| {
        options.access.token = Some("s3cret".to_owned())
    });
    for path in ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"] {
        assert_eq!(running.get(path).status, 200, "{path}");
    }
    let red = red(&fixture);
    for path in ["/metrics", "/v2", "/v2/models/m", "/nothing"] {
        let reply = running.get(path);
        assert_eq!(
            (reply.status, reply.headers["www-authenticate"].as_str()),
            (401, "Bearer"),
            "{path}"
        );
    }
    let cases = [
        (None, 401),
        (Some("Bearer wrong"), 401),
        (Some("Bearer s3cret"), 200),
    ];
    for (token, status) in cases {
        let headers: Vec<_> = token
            .iter()
            .map(|token| ("authorization", *token))
            .collect();
        assert_eq!(
            running.post("/v1/classify", &headers, &red).status,
            status,
            "{token:?}"
        );
    }
}

#[test]
fn addresses_that_others_reach_need_a_token() {
    let fixture = Fixture::calibrated();
    let runtime = runtime();
    let mut options = Options::new("m", fixture.bundle());
    options.http = "0.0.0.0:0".parse().unwrap();
    let error = runtime
        .block_on(Server::start(options.clone()))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("0.0.0.0:0 isn't a loopback address") && error.contains("--allow-anonymous"),
        "{error}"
    );
    options.access.token = Some("x".to_owned());
    drop(Running::start(options.clone()));
    options.access.token = None;
    options.access.allow_anonymous = true;
    drop(Running::start(options));
}

#[test]
fn options_that_mean_nothing_are_refused_by_name() {
    let fixture = Fixture::calibrated();
    let runtime = runtime();
    type Change = fn(&mut Options);
    let cases: [(&str, Change); 6] = [
        ("--queue is 0", |options| options.batching.queue = 0),
        ("--instances is 100000", |options| {
            options.batching.instances = 100_000
        }),
        ("--bundle is `a/b`", |options| {
            options.bundles[0].name = "a/b".to_owned()
        }),
        ("twice", |options| {
            options.bundles.push(options.bundles[0].clone())
        }),
        ("--max-bodies", |options| options.limits.max_bodies = 1),
        ("bundle `m` in nowhere", |options| {
            options.bundles[0].dir = "nowhere".into()
        }),
    ];
    for (part, change) in cases {
        let mut options = Options::new("m", fixture.bundle());
        change(&mut options);
        let error = runtime
            .block_on(Server::start(options))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn tls_encrypts_and_its_certificate_can_be_exchanged() {
    let fixture = Fixture::calibrated();
    let dir = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
    };
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&files.certificate, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    };
    let first = renew();
    let running = Running::of(&fixture, |options| options.access.tls = Some(files.clone()));
    let red = red(&fixture);
    let ask = |certificate: &CertificateDer<'static>| {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = builder.with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(config, name).unwrap();
        let stream = StreamOwned::new(session, TcpStream::connect(running.http).unwrap());
        let mut client = Client::over(stream);
        client.write(&crate::client::request("POST", "/v1/classify", &[], &red))?;
        client.read()
    };
    assert_eq!(ask(&first).unwrap().json()["label"], "red");
    let second = renew();
    assert!(ask(&second).is_err());
    running.reload();
    assert_eq!(ask(&second).unwrap().status, 200);
    assert!(ask(&first).is_err());
    // A file that is no good leaves the certificate before.
    fs::write(&files.key, "no key").unwrap();
    running.reload();
    assert_eq!(ask(&second).unwrap().status, 200);
    // Plain words get no answer.
    let mut plain = Client::connect(running.http);
    plain
        .write(&crate::client::request("GET", "/livez", &[], b""))
        .unwrap();
    assert!(!plain.read().is_ok_and(|reply| reply.status == 200));
}

//! `stage1 serve` as a process: what it prints, how signals end it, and what `stage1 monitor` makes of its log.

use crate::{
    cli::{Cli, Outcome},
    fixture::Fixture,
};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// A server that listens.
struct Serving {
    child: Child,
    listening: Value,
}

impl Serving {
    fn start(cli: &Cli, args: &[&str]) -> Self {
        let mut command =
            cli.command(["serve", "--http", "127.0.0.1:0", "--grpc", "none", "--json"]);
        let mut child = command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            listening: serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{error}: {line}")),
            child,
        }
    }

    /// Status and body.
    fn post(&self, path: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.listening["http"].as_str().unwrap()).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    fn end(self) -> Outcome {
        self.signal("TERM");
        let output = self.child.wait_with_output().unwrap();
        Outcome {
            code: output.status.code().expect("it ended by itself"),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn image(fixture: &Fixture, colour: [u8; 3]) -> Vec<u8> {
    fs::read(fixture.picture("picture.png", colour)).unwrap()
}

fn bundle(fixture: &Fixture) -> String {
    format!("colours={}", fixture.bundle().display())
}

#[test]
fn it_answers_until_a_signal_ends_it_and_its_log_can_be_watched() {
    let (cli, fixture) = (Cli::new(), Fixture::calibrated());
    let bundle = bundle(&fixture);
    let serving = Serving::start(
        &cli,
        &[
            "--bundle",
            &bundle,
            "--decision-log",
            "log",
            "--log-format",
            "json",
        ],
    );
    let (status, body) = serving.post("/v1/classify?path=a.png", &image(&fixture, [255, 0, 0]));
    assert_eq!(
        (
            status,
            &serde_json::from_str::<Value>(&body).unwrap()["label"]
        ),
        (200, &"red".into())
    );
    serving.signal("HUP");
    let (status, _) = serving.post("/v1/classify?path=b.png", &image(&fixture, [40, 0, 0]));
    assert_eq!(status, 200);
    let outcome = serving.end();
    assert_eq!(
        (outcome.code, outcome.stdout.as_str()),
        (0, ""),
        "{outcome}"
    );
    let lines: Vec<Value> = outcome
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let requests: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "request")
        .collect();
    assert_eq!(requests.len(), 2, "{outcome}");
    assert_eq!(requests[0]["trace_id"].as_str().unwrap().len(), 32);
    assert_eq!(
        (&requests[0]["status"], &requests[0]["model"]),
        (&200.into(), &"colours".into())
    );

    let logs: Vec<PathBuf> = fs::read_dir(cli.path("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let [log] = &logs[..] else { panic!("{logs:?}") };
    for (name, tenths) in [("calib.csv", 1), ("select.csv", 2)] {
        let rows: String = (0..60)
            .map(|i| format!("{},{},{tenths}.{i},1\n", i % 3, i % 7))
            .collect();
        cli.write(name, format!("label,logit_0,logit_1,logit_2\n{rows}"));
    }
    let watched = cli.run([
        "monitor",
        log.to_str().unwrap(),
        "--bundle",
        fixture.bundle().to_str().unwrap(),
        "--reference",
        "calib.csv",
        "--select",
        "select.csv",
        "--json",
    ]);
    assert!(watched.code == 0, "{watched}");
    let counts = watched.json()["rows"].clone();
    assert_eq!(
        (&counts["new"], &counts["answered"], &counts["deferred"]),
        (&2.into(), &1.into(), &1.into()),
        "{watched}"
    );
}

#[test]
fn what_it_is_told_wrongly_is_said_before_it_listens() {
    let (cli, fixture) = (Cli::new(), Fixture::calibrated());
    let bundle = bundle(&fixture);
    cli.write("empty", "\n");
    let cases: [(&[&str], &str); 7] = [
        (&["--bundle", "none=nowhere"], "bundle `none` in nowhere"),
        (
            &["--bundle", &bundle, "--http", "0.0.0.0:0"],
            "isn't a loopback address",
        ),
        (&["--bundle", &bundle, "--queue", "0"], "--queue is 0"),
        (
            &["--bundle", &bundle, "--token-file", "empty"],
            "the token is empty",
        ),
        (
            &[
                "--bundle",
                &bundle,
                "--tls-cert",
                "cert.pem",
                "--tls-key",
                "key.pem",
            ],
            "cert.pem",
        ),
        (
            &["--bundle", &bundle, "--timeout=-1"],
            "expected a number of seconds",
        ),
        (&["--bundle", &bundle, "--grpc", "there"], "or `none`"),
    ];
    for (args, part) in cases {
        let args: Vec<_> = ["serve"].iter().chain(args).copied().collect();
        cli.refuses(&args, &[part]);
    }
}

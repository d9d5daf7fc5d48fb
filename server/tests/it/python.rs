//! NVIDIA's client, which knows nothing of this server.

use crate::{fixture::Fixture, running::Running};
use std::{env, path::Path, process::Command};

#[test]
#[ignore = "calls tritonclient in Python: cargo xtask test --python"]
fn tritonclient_works_unchanged_over_http_and_grpc() {
    let python = env::var("STAGE1_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let fixture = Fixture::calibrated();
    let running = Running::of(&fixture, |options| options.access.model_control = true);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_server.py");
    let output = Command::new(python)
        .arg(script)
        .args([running.http.to_string(), running.grpc.to_string()])
        .args([
            fixture.picture("red.png", [255, 0, 0]),
            fixture.picture("dark.png", [40, 0, 0]),
        ])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
}

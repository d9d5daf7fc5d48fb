//! Golden files of what isn't built yet: discovered and counted, so that they can't be forgotten.

use crate::golden::is_json_named;
use crate::goldens::Suite;

#[test]
fn files_of_later_work_are_listed() {
    const LATER: &str = "issue on calibration";
    const PREFIXES: [&str; 1] = ["ltt_thresholds"];
    let exceptions = PREFIXES.map(|prefix| (format!("calibration/{prefix}*.json"), LATER));
    let exceptions: Vec<_> = exceptions
        .iter()
        .map(|(pattern, reason)| (pattern.as_str(), *reason))
        .collect();
    let matcher =
        |path: &std::path::Path| PREFIXES.iter().any(|prefix| is_json_named(path, prefix));
    Suite::discover(
        "later calibration work",
        "calibration",
        matcher,
        &exceptions,
    )
    .finish();
}

use serde::{Deserialize, Serialize};

/// What became of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecisionKind {
    /// Stage 1 answers.
    Answer,
    /// Stage 1 leaves it to something slower.
    Defer,
    /// The image couldn't be judged.
    Error,
}

/// One record of `stage1 predict`. Every field but `reason` and `error` is always there; what has no value is null.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The image, as it was named.
    pub path: String,
    /// Answer, defer or error.
    pub decision: DecisionKind,
    /// The answered class; null unless answered, so that nobody takes a deferred guess for an answer.
    pub label: Option<String>,
    /// The calibrated probability of the leading class, answered or not; null on error.
    pub probability: Option<f64>,
    /// The model's raw logits `[K]`; null on error.
    pub logits: Option<Vec<f32>>,
    /// The model's gate, where it has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gate: Option<f32>,
    /// Whether the bundle's certificate covers the session that computed this.
    pub certified: bool,
    /// Why it was deferred.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Why it couldn't be judged.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl Prediction {
    /// The record of an image that couldn't be judged.
    pub fn failed(path: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Self {
            path: path.into(),
            decision: DecisionKind::Error,
            label: None,
            probability: None,
            logits: None,
            gate: None,
            certified: false,
            reason: None,
            error: Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_has_its_fields_in_their_order() {
        let answer = Prediction {
            path: "a.png".to_owned(),
            decision: DecisionKind::Answer,
            label: Some("cat".to_owned()),
            probability: Some(0.75),
            logits: Some(vec![1.5, -1.0]),
            gate: None,
            certified: true,
            reason: None,
            error: None,
        };
        let json = serde_json::to_string(&answer).unwrap();
        let want = r#"{"path":"a.png","decision":"answer","label":"cat","probability":0.75,"logits":[1.5,-1.0],"certified":true}"#;
        assert_eq!(json, want);
        let json = serde_json::to_string(&Prediction::failed("b.png", "truncated")).unwrap();
        let want = r#"{"path":"b.png","decision":"error","label":null,"probability":null,"logits":null,"certified":false,"error":"truncated"}"#;
        assert_eq!(json, want);
    }
}

//! `POST /v1/classify`: image bytes in, the record of `stage1 predict` out.

use super::{Asked, answer::Answer, multipart, note_model};
use crate::{
    failure::{Failure, Result},
    model::{Item, Model, Outcome, Picture},
    service::Call,
};
use bytes::Bytes;
use hyper::header;
use stage1_core::bundle::Prediction;
use std::sync::Arc;

/// One image gives its record, with status 422 if it can't be judged; the files of a form, if there are several, a list of records with
/// status 200, whatever became of each.
pub(super) async fn classify(
    asked: Asked<'_>,
    call: &mut Call,
    model: Arc<Model>,
) -> Result<Answer> {
    asked.post()?;
    note_model(call, &model);
    asked.query.only(&["model", "path", "group"])?;
    let service = asked.service;
    let path = asked.query.get("path").map(str::to_owned);
    let mut group = asked.query.get("group").map(str::to_owned);
    let boundary = asked
        .header(header::CONTENT_TYPE)
        .and_then(multipart::boundary)
        .transpose()?;
    let (body, lease) = asked.body(call).await?;
    let files = match boundary {
        None => vec![(None, body)],
        Some(boundary) => files(&body, &boundary, &mut group)?,
    };
    let one = files.len() == 1;
    let trace = call.trace.trace_id();
    let name = |i: usize, file_name: Option<String>| match (&path, file_name) {
        (Some(path), _) if one => path.clone(),
        (Some(path), _) => format!("{path}#{i}"),
        (None, Some(file_name)) => file_name,
        (None, None) if one => trace.clone(),
        (None, None) => format!("{trace}#{i}"),
    };
    let items = files
        .into_iter()
        .enumerate()
        .map(|(i, (file_name, bytes))| Item {
            path: name(i, file_name),
            picture: Picture::File(bytes),
        });
    let items = items.collect();
    let outcomes = service.judge(call, &model, items, group.as_deref()).await?;
    drop(lease);
    Ok(answer(&outcomes, one)
        .with("stage1-model-version", model.about().version())
        .with_times(&outcomes))
}

fn answer(outcomes: &[Outcome], one: bool) -> Answer {
    let records: Vec<&Prediction> = outcomes
        .iter()
        .map(|outcome| &outcome.judged.prediction)
        .collect();
    match records[..] {
        [record] if one => {
            let status = if outcomes[0].is_error() { 422 } else { 200 };
            Answer::json(record).with_status(status)
        }
        _ => Answer::json(&records),
    }
}

/// The files of a form, with their names; a field `group` is what the record's group is.
fn files(
    body: &Bytes,
    boundary: &str,
    group: &mut Option<String>,
) -> Result<Vec<(Option<String>, Bytes)>> {
    let mut files = Vec::new();
    for part in multipart::parts(body, boundary)? {
        match part.file_name {
            Some(file_name) => {
                files.push((Some(file_name).filter(|name| !name.is_empty()), part.bytes))
            }
            None if part.name == "group" => {
                *group = Some(String::from_utf8_lossy(&part.bytes).into_owned())
            }
            None => {
                let name: String = part.name.chars().take(64).collect();
                return Err(Failure::Invalid(format!(
                    "the form's field `{name}` is no file; send images as files, and `group` if records are to have one"
                )));
            }
        }
    }
    if files.is_empty() {
        return Err(Failure::Invalid("the form has no file".to_owned()));
    }
    Ok(files)
}

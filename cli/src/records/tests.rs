use super::{resume::Counts, *};
use crate::inputs::{Image, Images};
use ::parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use stage1_core::{artifact::json, certificate::BatchMode};
use std::fs;

pub(crate) fn job() -> Job {
    let digest = Digest::of_bytes(b"x");
    Job {
        schema_version: 1,
        variant: "fp32".to_owned(),
        variant_digest: digest,
        labels: ["cat", "aardvark"].map(str::to_owned).to_vec(),
        gate: false,
        fingerprint: Fingerprint {
            model_digest: digest,
            provider: "cpu".to_owned(),
            provider_version: "onnxruntime 1.31.1".to_owned(),
            precision: "fp32".to_owned(),
            batch_mode: BatchMode::Any,
            preprocessing_digest: digest,
            cpu_isa: "avx2".to_owned(),
        },
        certified: true,
        max_pixels: 1 << 26,
    }
}

/// An answer, an answer that isn't certified, a deferred image and one that can't be judged.
fn records() -> [Prediction; 4] {
    let answer = Prediction {
        path: "a.png".to_owned(),
        decision: DecisionKind::Answer,
        label: Some("cat".to_owned()),
        probability: Some(0.98765),
        logits: Some(vec![1.0, -2.5]),
        gate: None,
        certified: true,
        reason: None,
        error: None,
    };
    let uncertified = Prediction {
        path: "b, \"c\".png".to_owned(),
        certified: false,
        ..answer.clone()
    };
    let defer = Prediction {
        path: "ordner/ä\nb.png".to_owned(),
        decision: DecisionKind::Defer,
        label: None,
        reason: Some("score 0.5 is below 0.9".to_owned()),
        ..answer.clone()
    };
    let failed = Prediction::failed("d.png", "d.png: not an image");
    [answer, uncertified, defer, failed]
}

fn written(format: Format, job: &Job, records: &[Prediction]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = format.writer(&mut out, job).unwrap();
    for record in records {
        writer.push(record.clone()).unwrap();
    }
    writer.finish().unwrap();
    out
}

fn text(format: Format) -> String {
    String::from_utf8(written(format, &job(), &records())).unwrap()
}

#[test]
fn columns_of_the_table_are_aligned_whatever_the_record() {
    let want = "\
decision  label     probability  path
answer    cat       0.9877       a.png
answer    cat       0.9877       b, \"c\".png  not certified
defer     -         0.9877       ordner/ä\nb.png  score 0.5 is below 0.9
error     -         -            d.png: not an image
";
    assert_eq!(text(Format::Table), want);
}

#[test]
fn csv_has_a_column_for_everything() {
    let want = "\
path,decision,label,probability,certified,reason,error,logit_0,logit_1
a.png,answer,cat,0.98765,true,,,1,-2.5
\"b, \"\"c\"\".png\",answer,cat,0.98765,false,,,1,-2.5
\"ordner/ä
b.png\",defer,,0.98765,true,score 0.5 is below 0.9,,1,-2.5
d.png,error,,,false,,d.png: not an image,,
";
    assert_eq!(text(Format::Csv), want);
    let gated = Job {
        gate: true,
        ..job()
    };
    let record = Prediction {
        gate: Some(0.5),
        ..records()[0].clone()
    };
    let csv = String::from_utf8(written(Format::Csv, &gated, &[record])).unwrap();
    assert!(
        csv.contains("error,gate,logit_0") && csv.contains(",,,0.5,1,-2.5"),
        "{csv}"
    );
}

#[test]
fn json_lines_are_predictions() {
    let lines = text(Format::Jsonl);
    let read: Vec<Prediction> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read, records());
}

#[test]
fn parquet_is_read_back_over_several_groups() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let (job, four) = (job(), records());
    let many: Vec<_> = four.iter().cycle().take(40_001).cloned().collect();
    fs::write(&path, written(Format::Parquet, &job, &many)).unwrap();
    let file = SerializedFileReader::new(fs::File::open(&path).unwrap()).unwrap();
    assert_eq!(file.metadata().num_row_groups(), 2);
    let pairs = file
        .metadata()
        .file_metadata()
        .key_value_metadata()
        .unwrap();
    let made = pairs.iter().find(|pair| pair.key == "stage1").unwrap();
    assert_eq!(
        serde_json::from_str::<Job>(made.value.as_ref().unwrap()).unwrap(),
        job
    );
    let mut rows = 0;
    for (row, want) in file.into_iter().zip(&many) {
        assert_eq!(record(&row.unwrap()), *want, "row {rows}");
        rows += 1;
    }
    assert_eq!(rows, many.len());
}

/// A row as the record that it was.
fn record(row: &::parquet::record::Row) -> Prediction {
    let field = |name: &str| {
        row.get_column_iter()
            .find(|(column, _)| *column == name)
            .unwrap()
            .1
            .clone()
    };
    let text = |name: &str| match field(name) {
        Field::Str(text) => Some(text),
        Field::Null => None,
        other => panic!("{name}: {other:?}"),
    };
    let logits = match field("logits") {
        Field::ListInternal(list) => Some(
            list.elements()
                .iter()
                .map(|value| match value {
                    Field::Float(value) => *value,
                    other => panic!("{other:?}"),
                })
                .collect(),
        ),
        Field::Null => None,
        other => panic!("{other:?}"),
    };
    let json = serde_json::json!({
        "path": text("path"),
        "decision": text("decision"),
        "label": text("label"),
        "probability": match field("probability") { Field::Double(p) => Some(p), _ => None },
        "certified": field("certified") == Field::Bool(true),
        "reason": text("reason"),
        "error": text("error"),
    });
    Prediction {
        logits,
        gate: match field("gate") {
            Field::Float(gate) => Some(gate),
            _ => None,
        },
        ..serde_json::from_value(json).unwrap()
    }
}

fn images(ids: &[&str]) -> Images<'static> {
    let images: Vec<_> = ids
        .iter()
        .map(|id| {
            Ok(Image {
                id: (*id).to_owned(),
                path: id.into(),
            })
        })
        .collect();
    Box::new(images.into_iter())
}

fn names() -> Vec<String> {
    records().iter().map(|record| record.path.clone()).collect()
}

/// Cuts a file off at every byte; what is gone on with is the same file again.
#[test]
fn a_file_that_was_cut_off_anywhere_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let names = names();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    for (format, name) in [(Format::Jsonl, "a.jsonl"), (Format::Csv, "a.csv")] {
        let path = dir.path().join(name);
        let whole = written(format, &job(), &records());
        json::save(&job(), &dir.path().join(format!("{name}.job.json"))).unwrap();
        let mut seen = Vec::new();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut rest = images(&names);
            let begun = resume::open(&path, format, &job(), &mut rest).unwrap();
            let done = begun.done.images as usize;
            assert_eq!(rest.count(), records().len() - done, "{name} cut to {cut}");
            let mut writer = if begun.is_new {
                format.writer(&begun.file, &job()).unwrap()
            } else {
                format.further(&begun.file, &job()).unwrap()
            };
            for record in &records()[done..] {
                writer.push(record.clone()).unwrap();
            }
            writer.finish().unwrap();
            assert!(fs::read(&path).unwrap() == whole, "{name} cut to {cut}");
            seen.push(done);
        }
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4], "{name}");
    }
}

#[test]
fn done_records_are_counted_by_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.csv");
    fs::write(&path, written(Format::Csv, &job(), &records())).unwrap();
    json::save(&job(), &dir.path().join("a.csv.job.json")).unwrap();
    let names = names();
    let mut list = images(&names.iter().map(|name| &**name).collect::<Vec<_>>());
    let begun = resume::open(&path, Format::Csv, &job(), &mut list).unwrap();
    let want = Counts {
        images: 4,
        answered: 2,
        deferred: 1,
        errors: 1,
    };
    assert_eq!(begun.done, want);
    let error = resume::open(&path, Format::Csv, &job(), &mut images(&["a.png"])).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("another process is writing it"), "{error}");
}

#[test]
fn what_belongs_to_another_job_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let beside = dir.path().join("a.jsonl.job.json");
    let whole = written(Format::Jsonl, &job(), &records());
    let refusal = |job: &Job, list: &[&str]| {
        let error = resume::open(&path, Format::Jsonl, job, &mut images(list)).unwrap_err();
        format!("{error:#}")
    };
    fs::write(&path, &whole).unwrap();
    let message = refusal(&job(), &["a.png"]);
    assert!(
        message.contains("it wasn't written with --resume"),
        "{message}"
    );

    json::save(&job(), &beside).unwrap();
    let other = Job {
        variant: "int8".to_owned(),
        max_pixels: 5,
        ..job()
    };
    let message = refusal(&other, &["a.png"]);
    for part in [
        "`max_pixels` was 67108864, now it is 5",
        "`variant` was \"fp32\", now it is \"int8\"",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let message = refusal(&job(), &["a.png", "x.png"]);
    assert!(
        message.contains("record 2 is of `b, \"c\".png`, but image 2 is `x.png` now"),
        "{message}"
    );
    let message = refusal(&job(), &["a.png"]);
    assert!(message.contains("fewer images now"), "{message}");
    fs::write(&path, [b"what\n", &*whole].concat()).unwrap();
    let message = refusal(&job(), &["a.png"]);
    assert!(message.contains("record 1: not a record"), "{message}");

    let csv = dir.path().join("a.csv");
    fs::write(&csv, "path,label\na.png,cat\n").unwrap();
    json::save(&job(), &dir.path().join("a.csv.job.json")).unwrap();
    let error = resume::open(&csv, Format::Csv, &job(), &mut images(&["a.png"])).unwrap_err();
    assert!(
        format!("{error:#}").contains("its header is `path,label`"),
        "{error:#}"
    );
}

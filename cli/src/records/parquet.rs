//! Records as Parquet: a row group is written when it is full, so that memory doesn't grow with their number.

use super::{Job, Records, name_of};
use crate::columns::{ParquetResult, write_column};
use parquet::{
    basic::Compression,
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, FloatType},
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::{parser::parse_message_type, types::ColumnPath},
};
use stage1_core::bundle::Prediction;
use std::{
    io::{self, Write},
    mem,
    sync::Arc,
};

const SCHEMA: &str = "
message stage1_predictions {
    required binary path (STRING);
    required binary decision (STRING);
    optional binary label (STRING);
    optional double probability;
    required boolean certified;
    optional binary reason (STRING);
    optional binary error (STRING);
    optional float gate;
    optional group logits (LIST) {
        repeated group list {
            required float element;
        }
    }
}";

/// Records in a group: what is held in memory at once.
const GROUP: usize = 1 << 15;
/// The most logits in a group.
const GROUP_LOGITS: usize = 1 << 22;

pub(super) struct Parquet<W: Write + Send> {
    file: SerializedFileWriter<W>,
    group: Vec<Prediction>,
    size: usize,
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn start(out: W, job: &Job) -> io::Result<Self> {
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let made = KeyValue::new("stage1".to_owned(), serde_json::to_string(job)?);
        let many_values = |builder: parquet::file::properties::WriterPropertiesBuilder,
                           column: &str| {
            builder.set_column_dictionary_enabled(ColumnPath::from(column), false)
        };
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_key_value_metadata(Some(vec![made]));
        // Only the names of decisions and classes come again and again.
        let properties = [
            "path",
            "probability",
            "reason",
            "error",
            "gate",
            "logits.list.element",
        ]
        .into_iter()
        .fold(properties, many_values)
        .build();
        Ok(Self {
            file: SerializedFileWriter::new(out, schema, Arc::new(properties))?,
            group: Vec::new(),
            size: (GROUP_LOGITS / job.labels.len().max(1)).clamp(1, GROUP),
        })
    }

    fn write_group(&mut self) -> ParquetResult<()> {
        let rows = mem::take(&mut self.group);
        let mut group = self.file.next_row_group()?;
        write_text(
            &mut group,
            Presence::Required,
            rows.iter().map(|row| Some(&*row.path)),
        )?;
        write_text(
            &mut group,
            Presence::Required,
            rows.iter().map(|row| Some(name_of(row.decision))),
        )?;
        write_text(
            &mut group,
            Presence::Optional,
            rows.iter().map(|row| row.label.as_deref()),
        )?;
        write_column::<DoubleType, _>(&mut group, |column| {
            let (values, levels) = optional(rows.iter().map(|row| row.probability));
            column.write_batch(&values, Some(&levels), None)
        })?;
        write_column::<BoolType, _>(&mut group, |column| {
            let values: Vec<_> = rows.iter().map(|row| row.certified).collect();
            column.write_batch(&values, None, None)
        })?;
        write_text(
            &mut group,
            Presence::Optional,
            rows.iter().map(|row| row.reason.as_deref()),
        )?;
        write_text(
            &mut group,
            Presence::Optional,
            rows.iter().map(|row| row.error.as_deref()),
        )?;
        write_column::<FloatType, _>(&mut group, |column| {
            let (values, levels) = optional(rows.iter().map(|row| row.gate));
            column.write_batch(&values, Some(&levels), None)
        })?;
        write_logits(&mut group, &rows)?;
        group.close()?;
        Ok(())
    }
}

impl<W: Write + Send> Records for Parquet<W> {
    fn push(&mut self, record: Prediction) -> io::Result<()> {
        self.group.push(record);
        if self.group.len() == self.size {
            self.write_group()?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if !self.group.is_empty() {
            self.write_group()?;
        }
        self.file.close()?;
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

fn write_text<'a, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    presence: Presence,
    texts: impl Iterator<Item = Option<&'a str>>,
) -> ParquetResult<()> {
    let (values, levels) = optional(texts.map(|text| text.map(ByteArray::from)));
    let levels = (presence == Presence::Optional).then_some(&*levels);
    write_column::<ByteArrayType, _>(group, |column| column.write_batch(&values, levels, None))
}

/// The values that are there, and for each row 1 if it has one.
fn optional<T>(column: impl Iterator<Item = Option<T>>) -> (Vec<T>, Vec<i16>) {
    let mut values = Vec::new();
    let mut levels = Vec::new();
    for value in column {
        levels.push(i16::from(value.is_some()));
        values.extend(value);
    }
    (values, levels)
}

/// Level 0: no list; 1: an empty one; 2: an element.
fn write_logits<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Prediction],
) -> ParquetResult<()> {
    let (mut values, mut defined, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        let logits = row.logits.as_deref().unwrap_or_default();
        if logits.is_empty() {
            defined.push(i16::from(row.logits.is_some()));
            repeats.push(0);
        }
        for i in 0..logits.len() {
            defined.push(2);
            repeats.push(i16::from(i > 0));
        }
        values.extend_from_slice(logits);
    }
    write_column::<FloatType, _>(group, |column| {
        column.write_batch(&values, Some(&defined), Some(&repeats))
    })
}

//! Features as Parquet: a column of strings and a column of lists, uncompressed.

use super::{Rows, Values};
use crate::columns::{ParquetResult, write_column};
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, FloatType},
    file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter},
    schema::parser::parse_message_type,
};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
};

/// Lists as the format's specification wants them.
const SCHEMA: &str = "
message stage1_features {
    required binary id (STRING);
    required group features (LIST) {
        repeated group list {
            required float element;
        }
    }
}";

/// Values in a row group, about: what is held in memory at once.
const GROUP_VALUES: usize = 1 << 22;

pub(super) fn write(
    out: &mut (dyn Write + Send),
    rows: &Rows,
    values: &mut Values,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    write_groups(out, rows, values, metadata).map_err(io::Error::other)
}

fn write_groups(
    out: &mut (dyn Write + Send),
    rows: &Rows,
    values: &mut Values,
    metadata: &BTreeMap<String, String>,
) -> ParquetResult<()> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let pair = |(key, value): (&String, &String)| KeyValue::new(key.clone(), value.clone());
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        // Features hardly repeat.
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(metadata.iter().map(pair).collect()))
        .build();
    let mut file = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
    for ids in rows.ids.chunks((GROUP_VALUES / rows.width).max(1)) {
        let mut group = file.next_row_group()?;
        write_column::<ByteArrayType, _>(&mut group, |column| {
            let ids: Vec<_> = ids.iter().map(|id| ByteArray::from(id.as_str())).collect();
            column.write_batch(&ids, None, None)
        })?;
        write_column::<FloatType, _>(&mut group, |column| {
            let features = values.take(ids.len() * rows.width)?;
            // An element begins a row, or goes on with it.
            let mut repeats = vec![1; features.len()];
            repeats
                .iter_mut()
                .step_by(rows.width)
                .for_each(|level| *level = 0);
            let defined = vec![1; features.len()];
            column.write_batch(&features, Some(&defined), Some(&repeats))
        })?;
        group.close()?;
    }
    file.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::GROUP_VALUES;
    use crate::features::FeatureFile;
    use parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::{Field, Row},
    };
    use std::{collections::BTreeMap, fs::File};

    fn row(row: &Row) -> (String, Vec<f32>) {
        let mut columns = row.get_column_iter();
        let (Some((_, Field::Str(id))), Some((_, Field::ListInternal(list)))) =
            (columns.next(), columns.next())
        else {
            panic!("{row:?}");
        };
        let value = |field: &Field| match field {
            Field::Float(value) => *value,
            other => panic!("{other:?}"),
        };
        (id.clone(), list.elements().iter().map(value).collect())
    }

    #[test]
    fn what_was_written_is_read_over_several_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let width = GROUP_VALUES / 2;
        let mut file = FeatureFile::create(&path, width).unwrap();
        let rows: Vec<(String, Vec<f32>)> = (0..3)
            .map(|i| (format!("ä{i}.png"), vec![0.5 + i as f32; width]))
            .collect();
        for (id, features) in &rows {
            file.push(id.clone(), features).unwrap();
        }
        let metadata = BTreeMap::from([("preprocess".to_owned(), "{}".to_owned())]);
        file.finish(&metadata).unwrap();
        let file = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        assert_eq!(file.metadata().num_row_groups(), 2);
        let found = file
            .metadata()
            .file_metadata()
            .key_value_metadata()
            .unwrap();
        assert!(
            found
                .iter()
                .any(|pair| pair.key == "preprocess" && pair.value.as_deref() == Some("{}"))
        );
        let read: Vec<_> = file.into_iter().map(|found| row(&found.unwrap())).collect();
        assert!(
            read == rows,
            "ids {:?}",
            read.iter().map(|(id, _)| id).collect::<Vec<_>>()
        );
    }
}

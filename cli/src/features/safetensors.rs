//! Features as safetensors, written in one go: the library wants all tensors in memory.

use super::{Rows, Values};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// The header's length is a multiple of this, so that the values are aligned.
const ALIGNMENT: usize = 8;

pub(super) fn write(
    out: &mut dyn Write,
    rows: &Rows,
    values: &mut Values,
    metadata: &BTreeMap<String, String>,
) -> io::Result<()> {
    let (n, width) = (rows.ids.len(), rows.width);
    let id_width = rows.ids.iter().map(String::len).max().unwrap_or(0);
    let (features, ids) = (4 * n * width, n * id_width);
    let header = json!({
        "__metadata__": {"stage1": serde_json::to_string(metadata)?},
        "features": {"dtype": "F32", "shape": [n, width], "data_offsets": [0, features]},
        "id": {"dtype": "U8", "shape": [n, id_width], "data_offsets": [features, features + ids]},
    });
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let copied = values.copy_to(out)?;
    if copied != features as u64 {
        return Err(io::Error::other(format!(
            "the temporary file has {copied} bytes of features, expected {features}"
        )));
    }
    let mut cell = vec![0; id_width];
    for id in &rows.ids {
        cell.fill(0);
        cell[..id.len()].copy_from_slice(id.as_bytes());
        out.write_all(&cell)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::features::FeatureFile;
    use stage1_core::artifact::tensors::TensorFile;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/a.safetensors");
        let mut file = FeatureFile::create(&path, 3).unwrap();
        for (i, id) in ["a.png", "ordner/ä.png", ""].into_iter().enumerate() {
            let row = [0.0, 1.0, -2.5].map(|x| x + i as f32);
            file.push(id.to_owned(), &row).unwrap();
        }
        assert_eq!(file.len(), 3);
        let metadata = BTreeMap::from([("preprocess".to_owned(), "{\"x\": 1}".to_owned())]);
        file.finish(&metadata).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let want = vec![0.0, 1.0, -2.5, 1.0, 2.0, -1.5, 2.0, 3.0, -0.5];
        assert_eq!(file.f32("features").unwrap(), (vec![3, 3], want));
        let (shape, bytes) = file.u8("id").unwrap();
        assert_eq!(shape, [3, "ordner/ä.png".len()]);
        let ids = bytes.chunks(shape[1]).map(String::from_utf8_lossy);
        let ids: Vec<_> = ids.map(|id| id.trim_end_matches('\0').to_owned()).collect();
        assert_eq!(ids, ["a.png", "ordner/ä.png", ""]);
        assert_eq!(file.metadata().unwrap(), metadata);
    }
}

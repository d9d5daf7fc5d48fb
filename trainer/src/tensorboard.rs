//! TensorBoard's event files: records of a length and bytes, each with a masked CRC-32C, whose bytes are `Event` messages in
//! protobuf's wire format. Only scalars are written.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// TensorBoard reads every file whose name holds `tfevents`.
const FILE: &str = "events.out.tfevents.stage1";

/// An event file that grows.
pub struct Board {
    path: PathBuf,
    file: File,
}

impl Board {
    /// A new file in the folder `dir`, which is made; one that is there is replaced.
    ///
    /// # Errors
    /// The system's.
    pub fn create(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let path = dir.join(FILE);
        // Appending: what two processes write must never leave a gap.
        File::create(&path)?;
        let file = File::options().append(true).open(&path)?;
        let mut board = Self { path, file };
        let mut event = now();
        bytes_field(&mut event, 3, b"brain.Event:2");
        board.append(&event)?;
        Ok(board)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds the values of some scalars at a step.
    ///
    /// # Errors
    /// The system's.
    pub fn scalars(&mut self, step: usize, values: &[(String, f64)]) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend((*value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        let mut event = now();
        event.push(2 << 3);
        varint(&mut event, step as u64);
        bytes_field(&mut event, 5, &summary);
        self.append(&event)
    }

    fn append(&mut self, event: &[u8]) -> io::Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(event);
        record.extend(masked_crc(event).to_le_bytes());
        // In one call, so that a kill leaves a whole record or a short last one, which readers skip.
        self.file.write_all(&record)
    }
}

/// An event with its time, field 1.
fn now() -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0.0, |since| since.as_secs_f64());
    let mut event = vec![1 << 3 | 1];
    event.extend(seconds.to_le_bytes());
    event
}

fn bytes_field(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// As the record format rotates and shifts it, so that a checksum of data that holds checksums stays one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// CRC-32C (Castagnoli), reflected.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & 0_u32.wrapping_sub(crc & 1))
        })
    };
    !bytes.iter().fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn records_are_framed_and_hold_what_was_given() {
        let dir = tempfile::tempdir().unwrap();
        let mut board = Board::create(dir.path()).unwrap();
        board.scalars(300, &[("loss".to_owned(), 0.5)]).unwrap();
        let bytes = fs::read(board.path()).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_at(8);
            let n = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            assert_eq!(after[..4], masked_crc(length).to_le_bytes());
            assert_eq!(
                after[4 + n..][..4],
                masked_crc(&after[4..4 + n]).to_le_bytes()
            );
            events.push(after[4..4 + n].to_vec());
            rest = &after[8 + n..];
        }
        assert_eq!(events[0][9..], *b"\x1a\x0dbrain.Event:2");
        // Step 300, then a summary of one value: its tag and a float.
        let want = [
            &[0x10, 0xAC, 0x02, 0x2A, 13, 0x0A, 11, 0x0A, 4][..],
            b"loss",
            &[0x15],
            &0.5_f32.to_le_bytes(),
        ];
        assert_eq!(events[1][9..], want.concat());
    }
}

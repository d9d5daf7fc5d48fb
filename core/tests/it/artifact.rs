use stage1_core::artifact::{Digest, Error};
use std::fs;

/// Of no bytes, of some, and of several of the blocks in which reading and hashing take turns.
#[test]
fn the_bytes_that_are_read_are_those_that_were_verified() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.bin");
    for len in [0, 3, (5 << 20) + 7] {
        let bytes: Vec<u8> = (0..len).map(|i: usize| (i * 31 % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let digest = Digest::of_bytes(&bytes);
        assert_eq!(digest.read_file(&path).unwrap(), bytes, "{len} bytes");
        let other = Digest::of_bytes(b"other");
        let error = other.read_file(&path).unwrap_err();
        assert!(
            matches!(&error, Error::DigestMismatch { want, got, .. } if *want == other && *got == digest),
            "{error}"
        );
    }
    fs::remove_file(&path).unwrap();
    let error = Digest::of_bytes(b"").read_file(&path).unwrap_err();
    assert!(error.to_string().contains("a.bin: cannot read"), "{error}");
}

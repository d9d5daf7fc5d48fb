//! Files of torch.save (made by `tests/data/make.py`), and pickles written by hand.

use super::*;
use std::{fs, path::PathBuf};

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn open(bytes: &[u8]) -> Result<TorchFile> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pth");
    fs::write(&path, bytes).unwrap();
    let container = Container::of(bytes).expect("a file of PyTorch's");
    TorchFile::open(&container, File::open(path).unwrap())
}

fn open_data(name: &str) -> Result<TorchFile> {
    open(&fs::read(data(name)).unwrap())
}

#[test]
fn every_kind_of_tensor_is_read_from_both_containers() {
    let turned: Vec<_> = (0..4)
        .flat_map(|c| (0..3).map(move |r| (4 * r + c) as f32))
        .collect();
    let want: [(&str, &[usize], Vec<f32>); 8] = [
        ("whole", &[12], (0..12).map(|i| i as f32).collect()),
        ("rows", &[2, 2], vec![4.0, 5.0, 6.0, 7.0]),
        ("turned", &[4, 3], turned),
        ("parameter", &[2], vec![0.5, -1.5]),
        ("half", &[2], vec![1.5, -2.0]),
        ("brain", &[1, 2], vec![3.0, -0.25]),
        ("empty", &[1, 0, 2], vec![]),
        ("scalar", &[], vec![2.5]),
    ];
    for (file, prefix) in [("tensors.pth", ""), ("tensors-legacy.pth", "model.")] {
        let mut file = open_data(file).unwrap();
        let shapes = file.shapes();
        assert_eq!(shapes.len(), want.len() + 1, "{shapes:?}");
        for (name, shape, values) in &want {
            let name = format!("{prefix}{name}");
            assert_eq!(shapes[&name], *shape, "{name}");
            assert_eq!(file.read(&name).unwrap(), *values, "{name}");
        }
        let steps = file
            .read(&format!("{prefix}steps"))
            .unwrap_err()
            .to_string();
        assert!(steps.contains("steps` holds int64"), "{steps}");
    }
}

#[test]
fn what_is_not_a_tensor_is_refused_by_its_name() {
    let cases = [
        ("epoch.pth", "entry `epoch` is an integer"),
        ("module.pth", "`torch.nn.modules.linear.Linear`"),
        ("command.pth", "posix.system`"),
        ("command-legacy.pth", "posix.system`"),
    ];
    for (file, want) in cases {
        let error = open_data(file).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(want), "{file}: {error}");
    }
    let error = open_data("command.pth").map(|_| ()).unwrap_err();
    assert!(
        matches!(error, TorchError::Refused { position, .. } if position > 2),
        "{error}"
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for name in ["tensors.pth", "tensors-legacy.pth"] {
        let bytes = fs::read(data(name)).unwrap();
        for length in (4..bytes.len()).step_by(7) {
            let cut = &bytes[..length];
            // A legacy file may be cut inside of its last storage, which is noticed when that is read.
            let read = open(cut).and_then(|mut file| {
                let names: Vec<_> = file.shapes().into_keys().collect();
                let floats = names.iter().filter(|name| !name.ends_with("steps"));
                let read: Result<Vec<_>> = floats.map(|name| file.read(name)).collect();
                read.map(|_| ())
            });
            let ends_in_steps = name == "tensors-legacy.pth" && bytes.len() - length < 600;
            assert!(read.is_err() || ends_in_steps, "{name} of {length} bytes");
        }
    }
}

#[test]
fn changed_bytes_never_panic() {
    let mut state = 1_u64;
    for name in ["tensors.pth", "tensors-legacy.pth"] {
        let whole = fs::read(data(name)).unwrap();
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            if Container::of(&bytes).is_none() {
                continue;
            }
            if let Ok(mut file) = open(&bytes) {
                for name in file.shapes().into_keys() {
                    drop(file.read(&name));
                }
            }
        }
    }
}

/// A pickle run by itself.
fn run(program: &[u8]) -> Result<value::Root> {
    pickle::run(&mut &program[..], 0)
}

const FLOATS: &[u8] = b"ctorch\nFloatStorage\n";

/// `_rebuild_tensor_v2` of storage `0` with `count` elements, with the offset, shape and strides given as instructions.
fn tensor(count: u8, rest: &[u8]) -> Vec<u8> {
    let mut program =
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage".to_vec();
    program.extend(FLOATS);
    program.extend(b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK");
    program.push(count);
    program.extend(b"tQ");
    program.extend(rest);
    program.extend(b"\x89ccollections\nOrderedDict\n)RtR.");
    program
}

#[test]
fn views_must_lie_in_their_storage() {
    let cases: [(&[u8], bool); 9] = [
        (b"K\x00K\x04\x85K\x01\x85", true),
        (b"K\x02K\x02\x85K\x01\x85", true),
        (b"K\x01K\x02\x85K\x02\x85", true),
        (b"K\x00))", true),
        // Beyond the end, by offset, size or stride; backwards; as one element many times.
        (b"K\x01K\x04\x85K\x01\x85", false),
        (b"K\x00K\x05\x85K\x01\x85", false),
        (b"K\x00K\x03\x85K\x02\x85", false),
        (b"K\x03K\x02\x85J\xff\xff\xff\xff\x85", false),
        (b"K\x00K\xff\x85K\x00\x85", false),
    ];
    for (rest, fits) in cases {
        let result = run(&tensor(4, rest));
        assert_eq!(
            result.is_ok(),
            fits,
            "{:?}",
            rest.escape_ascii().to_string()
        );
    }
    let huge = b"K\x00\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86K\x01K\x01\x86";
    assert!(run(&tensor(4, huge)).is_err());
}

#[test]
fn instructions_without_operands_or_of_other_kinds_are_refused_at_their_place() {
    let cases: [(&[u8], u64, &str); 15] = [
        (b"\x80\x07N.", 0, "protocol 7"),
        (b"\x80\x02R.", 2, "nothing on the stack"),
        (b"\x80\x02N(.", 4, "nothing on the stack"),
        (b"\x80\x02u.", 2, "nothing on the stack"),
        (b"\x80\x02}(Nu.", 5, "setting 1 items"),
        (b"\x80\x02NNa.", 4, "appending to None"),
        (b"\x80\x02h\x05.", 2, "memo 5"),
        (b"\x80\x02cos\nsystem\n.", 2, "`os.system`"),
        (
            b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
            17,
            "`posix.system`",
        ),
        (
            b"\x80\x02ccollections\nOrderedDict\n}\x85R.",
            29,
            "OrderedDict",
        ),
        (b"\x80\x02}Nb.", 4, "setting the state"),
        (b"\x80\x02NQ.", 3, "no storage"),
        (b"\x80\x02\x81.", 2, "0x81"),
        (b"\x80\x02X\xff\xff\xff\x7fabc", 2, "more than"),
        (b"\x80\x02\x8a\xff", 2, "ends in the middle"),
    ];
    for (program, at, want) in cases {
        let name = program.escape_ascii().to_string();
        match run(program).map(|_| ()) {
            Err(TorchError::Refused { position, what }) => {
                assert_eq!(position, at, "{name}: {what}");
                assert!(what.contains(want), "{name}: {what}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_pickle_cannot_ask_for_much_memory() {
    let mut endless = b"\x80\x02".to_vec();
    endless.resize(3 << 20, b'N');
    let error = run(&endless).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("values"), "{error}");

    // A list in a list in a list, and one that holds itself.
    let mut nested = b"\x80\x02".to_vec();
    nested.resize(500_000, b']');
    nested.resize(999_000, b'a');
    nested.push(b'.');
    drop(run(&nested));
    let selfish = run(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.").unwrap();
    let error = selfish.tensors().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("`a.a.a.a` is a dictionary"), "{error}");
}

/// Dictionaries of a thousand times the same dictionary of a thousand times the same one.
#[test]
fn what_lies_in_many_places_is_counted_in_each() {
    let mut program = b"\x80\x02}q\x00".to_vec();
    for level in 1..4 {
        program.extend([b'}', b'q', level]);
        for i in 0..1000 {
            let key = format!("{i:04}");
            program.extend(b"X\x04\x00\x00\x00");
            program.extend(key.as_bytes());
            program.extend([b'h', level - 1, b's']);
        }
    }
    program.push(b'.');
    let error = run(&program).unwrap().tensors().map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("more than 1000000 entries"),
        "{error}"
    );
}

/// An archive as `torch.save` writes it, but for what a case changes.
fn archive(method: ::zip::CompressionMethod, storage: &[u8], order: &str) -> Vec<u8> {
    use std::io::{Cursor, Write};
    let mut program = tensor(4, b"K\x00K\x04\x85K\x01\x85");
    // A dictionary around the tensor.
    program.truncate(program.len() - 1);
    program.splice(2..2, b"}X\x01\x00\x00\x00w".iter().copied());
    program.extend(b"s.");
    let mut archive = ::zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = ::zip::write::FileOptions::default().compression_method(method);
    for (name, bytes) in [
        ("x/data.pkl", &program[..]),
        ("x/byteorder", order.as_bytes()),
        ("x/data/0", storage),
    ] {
        archive.start_file(name, options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[test]
fn archives_that_torch_would_not_write_are_refused() {
    use ::zip::CompressionMethod::{Deflated, Stored};
    let values: Vec<u8> = [1.0_f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let read = |bytes: &[u8]| open(bytes).and_then(|mut file| file.read("w"));
    let whole = archive(Stored, &values, "little");
    assert_eq!(read(&whole).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    let cases = [
        (archive(Deflated, &values, "little"), "is compressed"),
        (archive(Stored, &values[..12], "little"), "has 12 bytes"),
        (archive(Stored, &values, "big"), "its byte order is `big`"),
    ];
    for (bytes, want) in cases {
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

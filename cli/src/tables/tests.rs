use super::*;
use npyz::{AutoSerialize, WriterBuilder, npz::NpzWriter, zip::write::FileOptions};
use stage1_core::artifact::tensors::{self, Tensor};
use std::{collections::BTreeMap, fs, path::PathBuf};
use tempfile::TempDir;

fn csv_file(text: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logits.csv");
    fs::write(&path, text).unwrap();
    (dir, path)
}

fn message(path: &Path) -> String {
    read(path).unwrap_err().to_string()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

#[test]
fn csv_columns_go_by_name() {
    let (_dir, path) = csv_file(
        "\u{feff}split,logit_1, logit_0,label,group,id\n\
         val_select,1.5,-2,1,g,a\n\
         2,0.25,1e-3,0,g,\"b, c\"\n\
         \n\
         val_test,0,1,0,h,d\n",
    );
    let set = read(&path).unwrap().set;
    assert_eq!((set.classes, &set.labels), (2, &vec![1, 0, 0]));
    assert_eq!(set.logits, [-2.0, 1.5, 1e-3, 0.25, 1.0, 0.0]);
    assert_eq!(set.ids, ["a", "b, c", "d"]);
    assert_eq!(set.split.unwrap(), ["val_select", "val_calib", "val_test"]);
    let units = set.units.unwrap();
    assert_eq!(units[0], units[1]);
    assert_ne!(units[0], units[2]);
}

#[test]
fn a_gate_is_read_from_either() {
    let (_dir, path) = csv_file("label,logit,gate\n1,3.5,0.25\n0,-1,-2\n");
    assert_eq!(read(&path).unwrap().set.gate, Some(vec![0.25, -2.0]));
    let table = Npz::new()
        .with("logits", &[2], &[3.5_f32, -1.0])
        .with("labels", &[2], &[1_i64, 0])
        .with("gate", &[2], &[0.25_f64, -2.0])
        .read()
        .unwrap();
    assert_eq!(table.set.gate, Some(vec![0.25, -2.0]));
    assert!(table.notes[0].contains("the gates are float64"));
}

#[test]
fn one_csv_column_is_the_logit_of_class_1() {
    let (_dir, path) = csv_file("label,logit\n1,3.5\n0,-1\n");
    let set = read(&path).unwrap().set;
    assert_eq!(set.logits, [0.0, 3.5, 0.0, -1.0]);
    assert_eq!((set.classes, set.units, set.split), (2, None, None));
}

#[test]
fn a_wrong_csv_file_gets_one_error_that_names_what_and_where() {
    let cases = [
        (
            "label,logit_0,logit_1,weight\n0,1,2,3\n",
            "unexpected column `weight`: expected `label`, `logit_0`",
        ),
        ("label,logit_0,logit_2\n0,1,2\n", "no column `logit_1`"),
        (
            "label,logit_0,logit_1,logit_3\n0,1,2,3\n",
            "unexpected column `logit_3`",
        ),
        (
            "label,logit,logit_0\n0,1,2\n",
            "unexpected column `logit_0`",
        ),
        ("label,logit_0\n0,1\n", "no column `logit_1`"),
        (
            "0,1.5,2.5\n1,1.5,2.5\n",
            "no column `label`; the first line must name the columns, and it says: 0,1.5,2.5",
        ),
        (
            "label,label,logit\n0,0,1\n",
            "column `label` is there twice",
        ),
        (
            "label,logit\ncat,1\n",
            "line 2: column `label`: expected a whole number, the index of a class, got `cat`",
        ),
        (
            "label,logit\n0,1\n1,high\n",
            "line 3: column `logit`: expected a number, got `high`",
        ),
        (
            "label,logit,group\n0,1,\n",
            "line 2: column `group`: expected a name, got ``",
        ),
        ("label,logit\n0,1\n2,1\n", "row 1: label 2 is outside 0..2"),
        (
            "label,logit_0,logit_1\n0,1,2\n0,1\n",
            "found record with 2 fields, but the previous record has 3 fields",
        ),
        (
            "label,logit_0,logit_1\n0,1,2\n0,nan,1\n1,2,inf\n",
            "row 1: logit 0 is NaN, a finite number is needed; rows like this: 2",
        ),
        (
            "label,logit,split\n0,1,test\n",
            "row 0: split `test` is unknown: expected train, val_select",
        ),
        (
            "label,logit,gate\n0,1,x\n",
            "line 2: column `gate`: expected a number, got `x`",
        ),
        ("label,logit,gate\n0,1,inf\n", "row 0: gate is inf"),
        ("label,logit,id\n0,1,a\n0,1,a\n", "id `a` occurs twice"),
        ("label,logit\n", "no rows"),
        ("", "no rows"),
    ];
    for (text, want) in cases {
        let (_dir, path) = csv_file(text);
        let got = message(&path);
        assert!(
            got.contains(want) && got.contains("logits.csv"),
            "{text:?}: {got}"
        );
    }
}

#[test]
fn npz_as_numpy_writes_it() {
    let table = read(&fixture("numpy.npz")).unwrap();
    let set = table.set;
    assert_eq!((set.n(), set.classes), (12, 3));
    let want = [
        [0.001_230_153_4, 0.298_745_54, -0.274_137_85],
        [-0.890_591_86, -0.454_670_8, -0.991_646_5],
    ];
    for (i, row) in want.iter().enumerate() {
        let pairs = set.row(i).iter().zip(row);
        pairs.for_each(|(got, want): (&f32, &f32)| {
            assert!((got - want).abs() < 1e-7, "{got} for {want}")
        });
    }
    assert_eq!(set.labels, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    assert_eq!(set.ids[11], "bild-11-ä.png");
    assert_eq!(
        set.split.unwrap()[..3],
        ["train", "val_select", "val_calib"]
    );
    let units = set.units.unwrap();
    assert_eq!(
        (units[0], units[1]),
        (LogitSet::unit_of_name("a"), LogitSet::unit_of_name("bb"))
    );
    assert_eq!(table.notes, [""; 0]);
}

#[test]
fn python_objects_are_refused_by_name() {
    let got = message(&fixture("objects.npz"));
    let want = "array `id` holds Python objects (dtype object), which only unpickling could read, and that runs code; \
                save it as integers or fixed-width strings (U or S), e.g. `id.astype(str)`";
    assert!(got.contains(want), "{got}");
}

struct Npz {
    dir: TempDir,
    writer: NpzWriter<std::io::BufWriter<fs::File>>,
}

impl Npz {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let writer = NpzWriter::create(dir.path().join("logits.npz")).unwrap();
        Self { dir, writer }
    }

    fn with<T: AutoSerialize>(mut self, name: &str, shape: &[u64], values: &[T]) -> Self {
        let array = self.writer.array(name, FileOptions::default()).unwrap();
        let mut array = array.default_dtype().shape(shape).begin_nd().unwrap();
        values.iter().for_each(|value| array.push(value).unwrap());
        array.finish().unwrap();
        self
    }

    fn read(self) -> Result<LogitTable> {
        let Self { dir, writer } = self;
        drop(writer);
        read(&dir.path().join("logits.npz"))
    }
}

#[test]
fn npz_widths_and_short_forms() {
    for shape in [&[2][..], &[2, 1]] {
        let file =
            Npz::new()
                .with("logits", shape, &[1.5_f64, -0.1])
                .with("labels", &[2], &[1_u8, 0]);
        let table = file
            .with("group", &[2], &[9_u64, 9])
            .with("split", &[2], &[1_i16, 2])
            .read()
            .unwrap();
        assert_eq!(table.set.logits, [0.0, 1.5, 0.0, -0.1]);
        assert_eq!(
            (table.set.labels, table.set.units),
            (vec![1, 0], Some(vec![9, 9]))
        );
        assert_eq!(table.set.split.unwrap(), ["val_select", "val_calib"]);
        assert!(table.notes[0].contains("float64; they are rounded to float32"));
    }
}

#[test]
fn a_wrong_npz_file_gets_one_error_that_names_what_and_where() {
    let logits = || Npz::new().with("logits", &[2, 2], &[0.0_f32, 1.0, 2.0, 3.0]);
    let cases = [
        (
            Npz::new().with("labels", &[1], &[1_i64]),
            "no array `logits`; it holds: labels",
        ),
        (
            logits()
                .with("weights", &[1], &[1_i64])
                .with("groups", &[1], &[1_i64]),
            "unknown array `groups`; expected `logits`, `labels` and, if there are any, `group`, `split`, `id`",
        ),
        (logits(), "no array `labels`; it holds: logits"),
        (
            logits().with("labels", &[3], &[0_i64, 1, 1]),
            "`labels` has 3 values, but `logits` has 2 rows",
        ),
        (
            logits().with("labels", &[2, 1], &[0_i64, 1]),
            "array `labels` has shape [2, 1], expected [N]",
        ),
        (
            logits().with("labels", &[2], &[0.0_f32, 1.0]),
            "array `labels` has dtype '<f4', expected integers",
        ),
        (
            logits().with("labels", &[2], &[0_i64, 5]),
            "row 1: label 5 is outside 0..2",
        ),
        (
            Npz::new()
                .with("logits", &[1, 2, 1], &[0.0_f32, 1.0])
                .with("labels", &[1], &[0_i64]),
            "has shape [1, 2, 1]",
        ),
        (
            Npz::new()
                .with("logits", &[2], &[0_i64, 1])
                .with("labels", &[2], &[0_i64, 1]),
            "expected float32 or float64",
        ),
        (
            Npz::new()
                .with("logits", &[2], &[0.0_f64, 1e300])
                .with("labels", &[2], &[0_i64, 1]),
            "row 1: logit 1 is inf",
        ),
        (
            Npz::new()
                .with("logits", &[0, 2], &[0.0_f32; 0])
                .with("labels", &[0], &[0_i64; 0]),
            "no rows",
        ),
    ];
    for (file, want) in cases {
        let got = file.read().unwrap_err().to_string();
        assert!(
            got.contains(want) && got.contains("logits.npz"),
            "{want}: {got}"
        );
    }
}

#[test]
fn files_that_are_something_else_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(fixture("numpy.npz")).unwrap();
    let cases = [
        (
            "a.txt",
            &b""[..],
            "expected a file that ends in .safetensors, .npz or .csv",
        ),
        ("noextension", b"", "expected a file that ends in"),
        ("a.npz", b"no zip", "not readable as NumPy wrote it"),
        (
            "cut.npz",
            &whole[..whole.len() / 2],
            "not readable as NumPy wrote it",
        ),
        ("a.safetensors", b"", "a.safetensors"),
        ("a.csv", b"label,logit\n\xff,1\n", "invalid UTF-8"),
    ];
    for (name, bytes, want) in cases {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let got = message(&path);
        assert!(got.contains(want) && got.contains(name), "{name}: {got}");
    }
    for name in ["none.csv", "none.npz", "none.safetensors"] {
        let got = message(&dir.path().join(name));
        assert!(got.contains("cannot read") && got.contains(name), "{got}");
    }
}

#[test]
fn safetensors_with_codes_of_splits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("logits.safetensors");
    let tensor = |name: &str, tensor| (name.to_owned(), tensor);
    let mut all = BTreeMap::from([
        tensor("logits", Tensor::f32([2], vec![3.0, -1.0])),
        tensor("labels", Tensor::i64([2], vec![1, 0])),
        tensor("split", Tensor::u8([2], vec![1, 3])),
    ]);
    tensors::save(&path, &all, &BTreeMap::new()).unwrap();
    let set = read(&path).unwrap().set;
    assert_eq!(set.logits, [0.0, 3.0, 0.0, -1.0]);
    assert_eq!(set.split.unwrap(), ["val_select", "val_test"]);

    all.insert("split".to_owned(), Tensor::i64([2], vec![1, 4]));
    tensors::save(&path, &all, &BTreeMap::new()).unwrap();
    assert!(message(&path).contains("row 1: split `4` is unknown"));
    all.remove("labels");
    tensors::save(&path, &all, &BTreeMap::new()).unwrap();
    let got = message(&path);
    assert!(
        got.contains("logits.safetensors") && got.contains("`labels` is missing"),
        "{got}"
    );
}

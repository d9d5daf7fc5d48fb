//! A CSV file.

use super::{Content, DataOptions, Dataset, Error, GivenSplit, Listing, Result, Sample};
use csv::{ReaderBuilder, StringRecord, Trim};
use rayon::prelude::*;
use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

const COLUMNS: [&str; 4] = ["path", "label", "group", "split"];

pub(super) fn open(path: &Path, options: &DataOptions) -> Result<Dataset> {
    let root = options.root.clone().unwrap_or_else(|| folder_of(path));
    let table = Table { path, root };
    let rows = table.read()?;
    rows.splits.check(path)?;
    let samples = table.unique(rows.samples)?;
    if options.content == Content::Digest {
        table.check_files(&samples)?;
    }
    let (labels, samples) = rows.labels.sorted(samples);
    Ok(Dataset {
        root: table.root,
        labels,
        samples,
        skipped: Listing::default(),
        options: options.clone(),
    })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

struct Table<'a> {
    path: &'a Path,
    root: PathBuf,
}

/// The rows with their lines, and what is known of them all.
struct Rows {
    samples: Vec<(Sample, u64)>,
    labels: Labels,
    splits: SplitUse,
}

impl Table<'_> {
    fn read(&self) -> Result<Rows> {
        let mut reader = ReaderBuilder::new()
            .trim(Trim::All)
            .from_reader(self.text()?);
        let columns = Columns::find(self.path, reader.headers().map_err(|e| self.broken(&e))?)?;
        let mut rows = Rows {
            samples: Vec::new(),
            labels: Labels::default(),
            splits: SplitUse::default(),
        };
        let mut record = StringRecord::new();
        while reader
            .read_record(&mut record)
            .map_err(|e| self.broken(&e))?
        {
            let line = record.position().map_or(0, csv::Position::line);
            let sample = self.row(&record, line, &columns, &mut rows)?;
            rows.samples.push((sample, line));
        }
        if rows.samples.is_empty() {
            return Err(Error::NoRows {
                path: self.path.to_owned(),
            });
        }
        Ok(rows)
    }

    /// The file, behind the byte order mark that spreadsheets put in front.
    fn text(&self) -> Result<BufReader<File>> {
        let io = |action| Error::io(action, self.path);
        let mut file = File::open(self.path).map_err(io("open"))?;
        let mut mark = [0; 3];
        let marked = file.read_exact(&mut mark).is_ok() && mark == *b"\xef\xbb\xbf";
        file.seek(SeekFrom::Start(if marked { 3 } else { 0 }))
            .map_err(io("read"))?;
        Ok(BufReader::with_capacity(1 << 20, file))
    }

    fn row(
        &self,
        record: &StringRecord,
        line: u64,
        columns: &Columns,
        rows: &mut Rows,
    ) -> Result<Sample> {
        let cell = |column: Option<usize>| {
            column
                .and_then(|i| record.get(i))
                .filter(|text| !text.is_empty())
        };
        let filled = |index, column| {
            cell(Some(index)).ok_or_else(|| Error::EmptyCell {
                path: self.path.to_owned(),
                line,
                column,
            })
        };
        let id = self.id(filled(columns.path, "path")?, line)?;
        let label = rows.labels.index(filled(columns.label, "label")?);
        let given = cell(columns.split)
            .map(|name| self.split(name, line))
            .transpose()?;
        rows.splits.note(given, line);
        Ok(Sample {
            id,
            label,
            group: cell(columns.group).map(str::to_owned),
            given,
        })
    }

    /// The path as an id: relative, `/` between the parts, without `.` and empty parts.
    fn id(&self, cell: &str, line: u64) -> Result<String> {
        let bad = |reason| Error::BadPath {
            path: self.path.to_owned(),
            line,
            got: cell.to_owned(),
            reason,
            root: self.root.clone(),
        };
        let path = Path::new(cell);
        let below = if path.is_absolute() {
            // The root may have been named relatively; `absolute` doesn't follow links, nor do the cell's parts.
            let root = std::path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
            path.strip_prefix(&root)
                .map_err(|_| bad("lies elsewhere"))?
        } else {
            path
        };
        let mut parts = Vec::new();
        for part in below.components() {
            match part {
                Component::Normal(part) => parts.push(part.to_str().expect("part of a str")),
                Component::CurDir => {}
                _ => return Err(bad("has `..` in it")),
            }
        }
        if parts.is_empty() {
            return Err(bad("names no file"));
        }
        Ok(parts.join("/"))
    }

    fn split(&self, name: &str, line: u64) -> Result<GivenSplit> {
        let known = GivenSplit::ALL
            .into_iter()
            .find(|split| split.name() == name);
        known.ok_or_else(|| Error::UnknownSplit {
            path: self.path.to_owned(),
            line,
            got: name.to_owned(),
            nearest: nearest(name, GivenSplit::ALL.map(GivenSplit::name)),
        })
    }

    /// The rows sorted by id; no id twice.
    fn unique(&self, mut rows: Vec<(Sample, u64)>) -> Result<Vec<Sample>> {
        rows.par_sort_unstable_by(|(a, line_a), (b, line_b)| (&a.id, line_a).cmp(&(&b.id, line_b)));
        let twice = rows.windows(2).filter(|pair| pair[0].0.id == pair[1].0.id);
        let twice: Listing = twice
            .map(|pair| format!("{} (lines {} and {})", pair[0].0.id, pair[0].1, pair[1].1))
            .collect();
        match twice.non_empty() {
            Some(rows) => Err(Error::RepeatedPaths {
                path: self.path.to_owned(),
                rows,
            }),
            None => Ok(rows.into_iter().map(|(sample, _)| sample).collect()),
        }
    }

    fn check_files(&self, samples: &[Sample]) -> Result<()> {
        let missing = |sample: &&Sample| !self.root.join(&sample.id).is_file();
        let missing: Vec<_> = samples
            .par_iter()
            .filter(missing)
            .map(|sample| sample.id.as_str())
            .collect();
        match missing.into_iter().collect::<Listing>().non_empty() {
            None => Ok(()),
            Some(files) => Err(Error::MissingFiles {
                path: self.path.to_owned(),
                root: self.root.clone(),
                files,
                rows: samples.len(),
            }),
        }
    }

    fn broken(&self, error: &csv::Error) -> Error {
        Error::Csv {
            path: self.path.to_owned(),
            reason: error.to_string(),
        }
    }
}

/// Where the columns are.
struct Columns {
    path: usize,
    label: usize,
    group: Option<usize>,
    split: Option<usize>,
}

impl Columns {
    fn find(path: &Path, header: &StringRecord) -> Result<Self> {
        let mut places: [Option<usize>; 4] = [None; 4];
        for (place, name) in header.iter().enumerate() {
            let Some(column) = COLUMNS.iter().position(|known| *known == name) else {
                return Err(Self::unknown(path, header, name));
            };
            if places[column].replace(place).is_some() {
                return Err(Error::RepeatedColumn {
                    path: path.to_owned(),
                    column: COLUMNS[column],
                });
            }
        }
        let required = |column: usize| {
            places[column].ok_or_else(|| Self::missing(path, header, COLUMNS[column]))
        };
        Ok(Self {
            path: required(0)?,
            label: required(1)?,
            group: places[2],
            split: places[3],
        })
    }

    /// A header without any known name is probably a row: then the header is what is missing.
    fn unknown(path: &Path, header: &StringRecord, name: &str) -> Error {
        if !header.iter().any(|name| COLUMNS.contains(&name)) {
            return Self::missing(path, header, COLUMNS[0]);
        }
        Error::UnknownColumn {
            path: path.to_owned(),
            column: name.to_owned(),
            nearest: nearest(name, COLUMNS),
        }
    }

    fn missing(path: &Path, header: &StringRecord, column: &'static str) -> Error {
        let header = header.iter().collect::<Vec<_>>().join(",");
        Error::MissingColumn {
            path: path.to_owned(),
            column,
            header,
        }
    }
}

/// The known name that is most like `name`, whole or in one of its words (`test` is like `val_test`), if any is.
fn nearest<const N: usize>(name: &str, known: [&'static str; N]) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let likeness = |known: &str| {
        let words = known.split('_').chain([known]);
        let likenesses = words.map(|word| strsim::jaro_winkler(&lower, word));
        likenesses.fold(0.0, f64::max)
    };
    let scored = known.map(|known| (likeness(known), known));
    let best = scored.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.6).then_some(best.1)
}

/// Labels in order of appearance.
#[derive(Default)]
struct Labels {
    names: Vec<String>,
    indices: HashMap<String, usize>,
}

impl Labels {
    fn index(&mut self, name: &str) -> usize {
        if let Some(index) = self.indices.get(name) {
            return *index;
        }
        let index = self.names.len();
        self.names.push(name.to_owned());
        self.indices.insert(name.to_owned(), index);
        index
    }

    /// The labels sorted (as numbers, if all are), and the samples with the labels' new places.
    fn sorted(self, mut samples: Vec<Sample>) -> (Vec<String>, Vec<Sample>) {
        let mut labels = self.names;
        let numbers: Option<Vec<i64>> = labels.iter().map(|name| name.parse().ok()).collect();
        match numbers {
            Some(_) => labels.sort_by_cached_key(|name| (name.parse::<i64>().ok(), name.clone())),
            None => labels.sort(),
        }
        let mut places = vec![0; labels.len()];
        for (place, name) in labels.iter().enumerate() {
            places[self.indices[name]] = place;
        }
        for sample in &mut samples {
            sample.label = places[sample.label];
        }
        (labels, samples)
    }
}

/// The first line of each way of using the column `split`.
#[derive(Default)]
struct SplitUse {
    with: Option<u64>,
    without: Option<u64>,
    val: Option<u64>,
    part: Option<(u64, GivenSplit)>,
}

impl SplitUse {
    fn note(&mut self, given: Option<GivenSplit>, line: u64) {
        match given {
            Some(_) => self.with.get_or_insert(line),
            None => self.without.get_or_insert(line),
        };
        match given {
            None | Some(GivenSplit::Train) => {}
            Some(GivenSplit::Val) => _ = self.val.get_or_insert(line),
            Some(part) => _ = self.part.get_or_insert((line, part)),
        }
    }

    fn check(&self, path: &Path) -> Result<()> {
        if let (Some(with), Some(without)) = (self.with, self.without) {
            return Err(Error::PartialSplit {
                path: path.to_owned(),
                with,
                without,
            });
        }
        if let (Some(val), Some((part, split))) = (self.val, self.part) {
            return Err(Error::MixedSplits {
                path: path.to_owned(),
                val,
                part,
                name: split.name(),
            });
        }
        Ok(())
    }
}

use super::{LogitTable, Result, TableError};
use csv::{ReaderBuilder, StringRecord, Trim};
use stage1_core::logits::LogitSet;
use std::{collections::BTreeMap, fs::File, path::Path};

/// Where the columns of a file are.
struct Columns {
    label: usize,
    /// By class; one column is the logit of class 1.
    logits: Vec<(String, usize)>,
    id: Option<usize>,
    group: Option<usize>,
    split: Option<usize>,
    gate: Option<usize>,
}

pub(super) fn read(path: &Path) -> Result<LogitTable> {
    let file = File::open(path).map_err(|source| TableError::Open {
        path: path.to_owned(),
        source,
    })?;
    let csv_error = |source| TableError::Csv {
        path: path.to_owned(),
        source,
    };
    let mut reader = ReaderBuilder::new().trim(Trim::All).from_reader(file);
    let headers = reader.headers().map_err(csv_error)?;
    if headers.is_empty() {
        return Err(TableError::Empty {
            path: path.to_owned(),
        });
    }
    let columns = Columns::find(path, headers)?;
    let mut set = columns.no_rows();
    let mut record = StringRecord::new();
    while reader.read_record(&mut record).map_err(csv_error)? {
        columns.push(path, &record, &mut set)?;
    }
    Ok(LogitTable {
        set,
        notes: Vec::new(),
    })
}

impl Columns {
    fn find(path: &Path, headers: &StringRecord) -> Result<Self> {
        let mut places = BTreeMap::new();
        for (place, header) in headers.iter().enumerate() {
            // Spreadsheets put a byte order mark before the first name.
            let header = header.trim_start_matches('\u{feff}');
            if places.insert(header.to_owned(), place).is_some() {
                return Err(TableError::RepeatedColumn {
                    path: path.to_owned(),
                    column: header.to_owned(),
                });
            }
        }
        let missing = |column: &str| TableError::MissingColumn {
            path: path.to_owned(),
            column: column.to_owned(),
            found: headers.iter().collect::<Vec<_>>().join(","),
        };
        let columns = Self {
            label: places.remove("label").ok_or_else(|| missing("label"))?,
            logits: logit_columns(&mut places).map_err(missing)?,
            id: places.remove("id"),
            group: places.remove("group"),
            split: places.remove("split"),
            gate: places.remove("gate"),
        };
        match places.into_keys().next() {
            None => Ok(columns),
            Some(column) => Err(TableError::StrayColumn {
                path: path.to_owned(),
                column,
            }),
        }
    }

    fn no_rows(&self) -> LogitSet {
        LogitSet {
            classes: self.logits.len().max(2),
            units: self.group.map(|_| Vec::new()),
            split: self.split.map(|_| Vec::new()),
            gate: self.gate.map(|_| Vec::new()),
            ..LogitSet::default()
        }
    }

    fn push(&self, path: &Path, record: &StringRecord, set: &mut LogitSet) -> Result<()> {
        let line = record.position().map_or(0, csv::Position::line);
        let error = |column: &str, want, got: &str| TableError::Field {
            path: path.to_owned(),
            line,
            column: column.to_owned(),
            want,
            got: got.to_owned(),
        };
        let name = |column, place: usize| match &record[place] {
            "" => Err(error(column, "a name", "")),
            name => Ok(name.to_owned()),
        };
        let label = &record[self.label];
        let whole = "a whole number, the index of a class";
        set.labels
            .push(label.parse().map_err(|_| error("label", whole, label))?);
        if self.logits.len() == 1 {
            set.logits.push(0.0);
        }
        for (column, place) in &self.logits {
            let text = &record[*place];
            set.logits
                .push(text.parse().map_err(|_| error(column, "a number", text))?);
        }
        if let (Some(place), Some(gates)) = (self.gate, &mut set.gate) {
            let text = &record[place];
            gates.push(text.parse().map_err(|_| error("gate", "a number", text))?);
        }
        if let Some(place) = self.id {
            set.ids.push(name("id", place)?);
        }
        if let (Some(place), Some(units)) = (self.group, &mut set.units) {
            units.push(LogitSet::unit_of_name(&name("group", place)?));
        }
        if let (Some(place), Some(splits)) = (self.split, &mut set.split) {
            splits.push(name("split", place)?);
        }
        Ok(())
    }
}

/// Takes `logit`, or `logit_0`, `logit_1`, … as far as they go; what is left over is a stray column.
///
/// # Errors
/// The column that is missing. Two are the least: `logit_0` alone could be meant as that of class 0 or of class 1.
fn logit_columns(
    places: &mut BTreeMap<String, usize>,
) -> Result<Vec<(String, usize)>, &'static str> {
    if let Some(place) = places.remove("logit") {
        return Ok(vec![("logit".to_owned(), place)]);
    }
    let mut found = Vec::new();
    while let Some(column) = places.remove_entry(&format!("logit_{}", found.len())) {
        found.push(column);
    }
    match found.len() {
        0 => Err("logit_0"),
        1 => Err("logit_1"),
        _ => Ok(found),
    }
}

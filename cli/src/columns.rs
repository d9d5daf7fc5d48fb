//! What Parquet's writers share.

use parquet::{
    column::writer::ColumnWriterImpl, data_type::DataType, errors::ParquetError,
    file::writer::SerializedRowGroupWriter,
};
use std::io::Write;

pub(crate) type ParquetResult<T> = Result<T, ParquetError>;

/// Writes the next column of a group.
pub(crate) fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    fill: impl FnOnce(&mut ColumnWriterImpl<'_, T>) -> ParquetResult<usize>,
) -> ParquetResult<()> {
    let mut column = group.next_column()?.expect("a column of the schema");
    fill(column.typed::<T>())?;
    column.close()
}

//! Features of the frozen backbone: computed once per image, kept on disk.

mod batches;
mod cache;
mod extract;
mod images;

pub use batches::{Batches, Wanted};
pub use cache::FeatureCache;
pub use extract::{Extractor, Found, Target};
pub use images::{Image, ImageReader};

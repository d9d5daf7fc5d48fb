//! Makes the bundles that `benches/peers/predict` times: `cargo run --release -p stage1-benches --example predict_bundles -- FOLDER`.
//!
//! FOLDER holds the models that the example `export` wrote; `FOLDER/bundle` gets the fp32 and the int8 model of the whole
//! backbone, `FOLDER/half` the head on block 6 of 12.

use stage1_benches::bundle;
use std::{env, error::Error, fs, path::Path};

/// Those of the heads that `benches/peers/export/compare.py` makes.
const CLASSES: usize = 10;
const OUTPUT: &str = "logits";

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).ok_or("name the folder of the models")?;
    let folder = Path::new(&folder);
    let model = |form: &str| fs::read(folder.join(format!("stage1.{form}.onnx")));
    let labels: Vec<_> = (0..CLASSES).map(|class| class.to_string()).collect();
    let whole = folder.join("bundle");
    bundle::create(&whole, &model("mean")?, OUTPUT, labels.clone())?;
    bundle::add_int8(&whole, &model("int8-8bit")?, OUTPUT)?;
    bundle::create(&folder.join("half"), &model("half")?, OUTPUT, labels)
}

//! Makes the bundles that `benches/peers/predict` times: `cargo run --release -p stage1-benches --example predict_bundles -- FOLDER`.
//!
//! FOLDER holds the models that the example `export` wrote; `FOLDER/bundle` gets the fp32 and the int8 model of the whole
//! backbone, `FOLDER/half` the head on block 6 of 12; `bundle-scaled` and `half-scaled` are the same with scaled decoding.

use stage1_benches::bundle;
use stage1_core::preprocess::{Decode, PreprocessSpec};
use std::{env, error::Error, fs, path::Path};

/// Those of the heads that `benches/peers/export/compare.py` makes.
const CLASSES: usize = 10;
const OUTPUT: &str = "logits";
const SIDE: u32 = 224;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).ok_or("name the folder of the models")?;
    let folder = Path::new(&folder);
    let model = |form: &str| fs::read(folder.join(format!("stage1.{form}.onnx")));
    let labels: Vec<_> = (0..CLASSES).map(|class| class.to_string()).collect();
    let create = |name: &str, form: &str, decode: Decode| {
        let preprocess = PreprocessSpec {
            decode,
            ..PreprocessSpec::dinov3(SIDE, SIDE)
        };
        let dir = folder.join(name);
        bundle::create(&dir, &model(form)?, OUTPUT, labels.clone(), preprocess)
    };
    for (name, decode) in [("", Decode::Full), ("-scaled", Decode::Scaled)] {
        let (whole, half) = (format!("bundle{name}"), format!("half{name}"));
        create(&whole, "mean", decode)?;
        bundle::add_int8(&folder.join(&whole), &model("int8-8bit")?, OUTPUT)?;
        create(&half, "half", decode)?;
    }
    Ok(())
}

//! The guarantee by simulation, reduced: the cells of the example `guarantee` that a test can afford.

#[path = "../simulation/mod.rs"]
mod simulation;

use simulation::cells;

/// How often a cell is repeated here: the larger its rows, the fewer times.
fn repetitions(name: &str) -> u64 {
    match name {
        "control-fixed-reference" => 200,
        "control-pointwise" => 100,
        "control-split-wealth" | "fpr200" | "fpr1000" | "fpr5000" => 2000,
        "groups-hashed-order" | "control-units-by-size" => 1000,
        "control-rows-as-independent" | "control-equal-rows-as-one" => 200,
        _ if name.starts_with("groups") => 60,
        _ if name.contains("5000") => 40,
        _ => 300,
    }
}

#[test]
fn every_cell_is_as_it_should_be() {
    let mut wrong = Vec::new();
    for cell in cells() {
        let finding = cell.run(repetitions(&cell.name));
        if !finding.ok {
            wrong.push(format!("{}: {}", cell.name, finding.detail));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

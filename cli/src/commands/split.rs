use crate::{
    args::StepArgs,
    output::{Answer, Output},
    steps::{self, Run},
};

pub(crate) fn run(args: &StepArgs, output: &Output) -> anyhow::Result<Answer> {
    let run = Run::open(args, *output)?;
    let splits = steps::split::ensure_or_replace(&run)?;
    run.record()?;
    output.answer(
        &steps::split::summary(&run, &splits),
        &steps::split::table(&run, &splits),
    )?;
    Ok(Answer::Yes)
}

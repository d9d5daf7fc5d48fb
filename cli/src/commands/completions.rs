//! `stage1 completions`.

use crate::args::{Args, CompletionsArgs};
use crate::output::{Answer, Output};
use clap::CommandFactory;

pub(crate) fn run(args: &CompletionsArgs, output: &Output) -> anyhow::Result<Answer> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "stage1", &mut script);
    output.raw(&String::from_utf8(script)?)?;
    Ok(Answer::Yes)
}

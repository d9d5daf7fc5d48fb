//! `stage1 config schema` and `stage1 config show`.

use crate::args::{ConfigArgs, ConfigCommand, ConfigSource};
use crate::output::{Answer, Output};
use stage1_core::config::{Config, json_schema};

pub(crate) fn run(args: &ConfigArgs, output: &Output) -> anyhow::Result<Answer> {
    match &args.command {
        ConfigCommand::Schema => output.raw(&serde_json::to_string_pretty(&json_schema())?)?,
        ConfigCommand::Show(source) => show(source, *output)?,
    }
    Ok(Answer::Yes)
}

fn show(source: &ConfigSource, output: Output) -> anyhow::Result<()> {
    let config = Config::load(&source.config, &source.overrides)?;
    output.answer(&config, &config.to_yaml())
}

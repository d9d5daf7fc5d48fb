//! The commands that the README promises, read from its fenced code blocks so that they exist once.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The README's test command, as words: the one command line in its code blocks that starts with `cargo xtask test`.
pub(crate) fn test_command(workspace: &Workspace) -> Result<Vec<String>> {
    let path = workspace.path("README.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    find_test_command(&text)
        .with_context(|| format!("{}: the command that runs all tests", path.display()))
}

fn find_test_command(text: &str) -> Result<Vec<String>> {
    let lines = fenced_lines(text);
    // Only the command as it is given first counts; variants of it may be shown further down.
    match lines
        .iter()
        .map(|line| words(line))
        .find(|words| words.starts_with(&["cargo", "xtask", "test"]))
    {
        Some(words) => Ok(words.into_iter().map(str::to_owned).collect()),
        None => bail!(
            "expected a line `cargo xtask test` in a fenced code block, found none in {} lines",
            lines.len()
        ),
    }
}

/// The lines inside of fences (three backquotes).
fn fenced_lines(text: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if inside {
            lines.push(line);
        }
    }
    lines
}

/// The words of a command line, without a prompt and without a comment.
fn words(line: &str) -> Vec<&str> {
    let line = line.trim();
    let line = line.strip_prefix("$ ").unwrap_or(line);
    line.split_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_holds_the_test_command() {
        let words = test_command(&Workspace::find().unwrap()).unwrap();
        assert_eq!(words[..3], ["cargo", "xtask", "test"]);
    }

    #[test]
    fn the_command_is_read_from_code_blocks_only() {
        let cases = [
            (
                "plain",
                "```\ncargo xtask test\n```",
                Some("cargo xtask test"),
            ),
            (
                "prompt and comment",
                "```sh\n$ cargo xtask test  # all of them\n```",
                Some("cargo xtask test"),
            ),
            (
                "after another block",
                "```\nls\n```\ntext\n```sh\ncargo xtask test\n```",
                Some("cargo xtask test"),
            ),
            (
                "the first of two",
                "```\ncargo xtask test\ncargo xtask test --goldens D\n```",
                Some("cargo xtask test"),
            ),
            (
                "in prose only",
                "Run `cargo xtask test`.\n\ncargo xtask test\n",
                None,
            ),
            ("another task", "```\ncargo xtask demo\n```", None),
            (
                "between blocks",
                "```\nls\n```\ncargo xtask test\n```\nls\n```",
                None,
            ),
        ];
        for (name, text, want) in cases {
            let found = find_test_command(text).ok().map(|words| words.join(" "));
            assert_eq!(found.as_deref(), want, "{name}");
        }
    }
}

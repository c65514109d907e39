//! docs/hubctl.md, made from the command line itself.

use clap::{Command, CommandFactory};

use crate::cli::Cli;

/// The page.
pub fn reference() -> String {
    let mut text = String::from(
        "# hubctl\n\nMade from the command line itself; a test fails when this page is out of date \
         (`ISTHMUS_WRITE_DOCS=1 cargo test -p hubctl --test command_line` writes it anew).\n\n\
         Standard output is data only: tables, or one document with `-o json` and the same with `-o yaml`. Progress, errors \
         (`error: …`) and hints go to standard error.\nExit code 0: done; 1: failed; 2: wrong usage. \
         `source <(hubctl completions bash)` completes commands and options in a shell.\n",
    );
    add(&mut text, &Cli::command(), "hubctl");
    text
}

fn add(text: &mut String, command: &Command, path: &str) {
    let named = command.clone().bin_name(path).term_width(0).disable_help_subcommand(true);
    let help = named.mut_args(|argument| argument.hide_env_values(true)).render_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {path}\n\n```\n{}\n```\n", lines.join("\n").trim()));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        add(text, sub, &format!("{path} {}", sub.get_name()));
    }
}

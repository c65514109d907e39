//! The commands.

mod run;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use wan::{KNOBS, Rebind, Request, Status, ask, change_of_words};

/// A wide area network between two network namespaces: delay, loss, rate, MTU, NAT and outages, changed while it runs.
#[derive(Debug, Parser)]
#[command(name = "isthmus-wan", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a TUN device in each namespace and moves packets between them, until SIGTERM or SIGINT.
    Run(Box<run::Run>),
    /// Changes what holds on a running link; all of it, or nothing if one value is wrong.
    #[command(after_help = knobs())]
    Set {
        /// Its control socket.
        #[arg(long)]
        control: PathBuf,
        /// `left-to-right`, `right-to-left` or `both` (the default), each followed by conditions such as `delay=40ms`; `nat=left:ADDRESS,…`.
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Makes translated flows leave with another port or address.
    Rebind {
        /// Its control socket.
        #[arg(long)]
        control: PathBuf,
        /// What changes.
        what: What,
    },
    /// Shows what is set, and the counters.
    Show {
        /// Its control socket.
        #[arg(long)]
        control: PathBuf,
        /// How.
        #[arg(short, long, default_value = "text")]
        output: Output,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Another port of the same address.
    Port,
    /// The next address of the translation, and another port.
    Address,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs: the status of the control protocol.
    Json,
}

fn knobs() -> String {
    let lines: Vec<_> = KNOBS.iter().map(|knob| format!("  {}={}", knob.name, knob.form)).collect();
    format!(
        "Conditions (`off` puts one back to its default):\n{}\nOf the link:\n  nat=left|right:ADDRESS[,ADDRESS…]|off",
        lines.join("\n")
    )
}

pub(crate) fn main() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let causes: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
            let causes = if causes.is_empty() { String::new() } else { format!("\n    cause: {}", causes.join(": ")) };
            show::complain(&format!("error: {error}{causes}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(run) => run.execute(),
        Command::Set { control, words } => {
            let change = change_of_words(words.iter().map(String::as_str))?;
            let status = ask(&control, &Request::Set { change })?;
            show::print(&show::conditions(&status))
        }
        Command::Rebind { control, what } => {
            let what = match what {
                What::Port => Rebind::Port,
                What::Address => Rebind::Address,
            };
            ask(&control, &Request::Rebind { what }).map(drop).map_err(Into::into)
        }
        Command::Show { control, output } => {
            let status = ask(&control, &Request::Show {})?;
            show::print(&rendered(&status, output)?)
        }
    }
}

fn rendered(status: &Status, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Text => Ok(show::text(status)),
        Output::Json => Ok(serde_json::to_string_pretty(status)?),
    }
}

//! `ctl completion`: what a shell needs to complete commands and flags.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Command, CommandFactory as _};

#[derive(Args)]
pub struct Completion {
    /// bash or zsh
    pub shell: String,
}

/// Runs the command: prints a script to be sourced.
///
/// # Errors
/// For other shells.
pub fn run(args: &Completion) -> Result<ExitCode> {
    let bash = script(&crate::cli::Cli::command());
    match args.shell.as_str() {
        "bash" => print!("{bash}"),
        "zsh" => print!("autoload -U +X bashcompinit && bashcompinit\n{bash}"),
        other => bail!("unsupported shell type \"{other}\"; bash and zsh are supported"),
    }
    Ok(ExitCode::SUCCESS)
}

/// A table from the words so far to the words that may follow.
fn script(root: &Command) -> String {
    let mut rows = String::new();
    collect(root, &mut Vec::new(), &mut rows);
    format!(
        "_ctl() {{\n  local cur=\"${{COMP_WORDS[COMP_CWORD]}}\" path=\"\" word\n  for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n    \
         case \"$word\" in -*) ;; *) [ -n \"$(_ctl_words \"$path $word\")\" ] && path=\"$path $word\" ;; esac\n  done\n  \
         COMPREPLY=($(compgen -W \"$(_ctl_words \"$path\")\" -- \"$cur\"))\n}}\n\
         _ctl_words() {{\n  case \"$1\" in\n{rows}  esac\n}}\ncomplete -o default -F _ctl ctl\n"
    )
}

fn collect(command: &Command, path: &mut Vec<String>, rows: &mut String) {
    let mut words: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    words.extend(
        command
            .get_arguments()
            .filter_map(|flag| flag.get_long())
            .map(|flag| format!("--{flag}")),
    );
    let key: String = path.iter().map(|word| format!(" {word}")).collect();
    rows.push_str(&format!("    \"{key}\") echo \"{}\" ;;\n", words.join(" ")));
    for sub in command.get_subcommands() {
        path.push(sub.get_name().to_owned());
        collect(sub, path, rows);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_flags_are_in_the_table() {
        let text = script(&crate::cli::Cli::command());
        assert!(text.contains("\" rollout\") echo \"status history undo"), "{text}");
        assert!(text.contains("\" logs\")") && text.contains("--follow"));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        crate::cli::Cli::command().debug_assert();
    }
}

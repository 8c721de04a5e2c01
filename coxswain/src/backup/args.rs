//! What the command line says about backups.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::Place;

/// What a backup is locked with. Without either, the passphrase is asked for.
#[derive(Args, Clone, Default)]
#[group(multiple = false)]
pub struct Lock {
    /// A file with the passphrase
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// A file with at least 32 random bytes, in the place of a passphrase
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// Takes backups of the cluster.
#[derive(Args)]
pub struct Backup {
    /// The file to make
    #[arg(value_name = "FILE", required_unless_present = "every", conflicts_with = "every")]
    pub file: Option<PathBuf>,
    /// Go on taking backups, this far apart: for example 6h, 30m, 1d
    #[arg(long, value_name = "TIME", requires = "to", value_parser = interval)]
    pub every: Option<Duration>,
    /// How many of the latest to keep
    #[arg(
        long,
        value_name = "N",
        requires = "every",
        conflicts_with = "file",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub keep: u32,
    /// The directory for them
    #[arg(long, value_name = "DIR", requires = "every", conflicts_with = "file")]
    pub to: Option<PathBuf>,
    #[command(flatten)]
    pub lock: Lock,
    #[command(flatten)]
    pub place: Place,
}

/// Makes a data directory from a backup.
#[derive(Args)]
pub struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub lock: Lock,
    #[command(flatten)]
    pub place: Place,
}

/// Encrypts what is stored with a new key.
#[derive(Args)]
pub struct RotateKey {
    #[command(flatten)]
    pub place: Place,
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    const USAGE: &str = "give a number and one of s, m, h or d, for example 6h";
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(USAGE)?;
    let unit_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(USAGE),
    };
    let number: u32 = number.parse().map_err(|_| USAGE)?;
    if number == 0 {
        return Err("it must be longer than nothing");
    }
    Ok(Duration::from_secs(u64::from(number) * unit_s))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn intervals_are_a_number_and_a_unit() {
        let table = [
            ("6h", Some(6 * 3600)),
            ("90s", Some(90)),
            ("30m", Some(1800)),
            ("1d", Some(86400)),
            ("0h", None),
            ("h", None),
            ("", None),
            ("6", None),
            ("-6h", None),
            ("6 h", None),
            ("6ä", None),
            ("99999999999d", None),
        ];
        for (text, seconds) in table {
            assert_eq!(interval(text).ok().map(|every| every.as_secs()), seconds, "{text:?}");
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let table: [(&[&str], bool); 9] = [
            (&["f"], true),
            (&["f", "--key-file", "k"], true),
            (&["f", "--key-file", "k", "--passphrase-file", "p"], false),
            (&[], false),
            (&["--every", "6h"], false),
            (&["--every", "6h", "--to", "d", "--keep", "3"], true),
            (&["--every", "6h", "--to", "d", "--keep", "0"], false),
            (&["f", "--every", "6h", "--to", "d"], false),
            (&["f", "--to", "d"], false),
        ];
        for (flags, is_good) in table {
            let parsed = Cli::try_parse_from(["coxswain", "backup"].iter().chain(flags));
            assert_eq!(parsed.is_ok(), is_good, "{flags:?}");
        }
    }
}

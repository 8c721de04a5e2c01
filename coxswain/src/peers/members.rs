//! `coxswain members`: the servers of the cluster.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use coxswain_consensus::peers;

use super::args::{Command, Members};
use super::{Record, credentials};
use crate::report::line;
use crate::tasks::runtime;

/// Asks the server on this machine.
///
/// # Errors
/// When there is none, or it does not answer.
pub fn run(args: &Members) -> Result<()> {
    let data_dir = &args.place.data_dir;
    let record = Record::load(data_dir)?.with_context(|| format!("{} holds no server", data_dir.display()))?;
    let Some(listen) = record.listen else {
        anyhow::bail!("this server is alone and does not listen for others; start it with --peer-listen");
    };
    let ip = if listen.ip().is_unspecified() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        listen.ip()
    };
    let address = SocketAddr::new(ip, listen.port()).to_string();
    match args.command {
        None => runtime()?.block_on(show(data_dir, record.id, &address)),
        Some(Command::Token) => runtime()?.block_on(async {
            line(&peers::create_token(&address, &credentials::issue(data_dir, record.id)?, record.id).await?);
            Ok(())
        }),
        Some(Command::Remove { id }) => runtime()?.block_on(async {
            peers::remove(&address, &credentials::issue(data_dir, record.id)?, record.id, id).await?;
            line(&format!("Member {id} is leaving."));
            Ok(())
        }),
    }
}

async fn show(data_dir: &std::path::Path, id: u64, address: &str) -> Result<()> {
    let members = peers::members(address, &credentials::issue(data_dir, id)?, id).await?;
    let heading = [
        "ID", "NAME", "ADDRESS", "ROLE", "TERM", "COMMIT", "APPLIED", "LAG", "ALIVE",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    let number = |number: Option<u64>| number.map_or("?".to_owned(), |number| number.to_string());
    for member in members {
        rows.push([
            member.id.to_string(),
            member.name,
            member.address,
            member.role,
            member.term.to_string(),
            number(member.commit),
            number(member.applied),
            number(member.lag),
            member
                .alive
                .map_or("?", |alive| if alive { "yes" } else { "no" })
                .to_owned(),
        ]);
    }
    for text in table(&rows) {
        line(&text);
    }
    Ok(())
}

/// Rows as lines whose columns are aligned.
fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let cell = |(text, width): (&String, &usize)| format!("{text:<width$}", width = *width);
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(cell).collect();
            cells.join("   ").trim_end().to_owned()
        })
        .collect()
}

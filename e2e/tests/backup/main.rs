//! Backups, restores and new keys, by real processes under a stream of writes.

mod load;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use coxswain_e2e::eventually;
use coxswain_e2e::load::{CONFIG_MAPS as MAPS, Requests};
use coxswain_e2e::servers::Servers;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use load::{Load, Maps, at_revision, follow, maps};

const WITHIN: Duration = Duration::from_secs(60);
/// How far a restored cluster's revisions are ahead.
const AHEAD: u64 = 1_000_000_000_000;
/// What a Secret holds, and how that looks where it is stored.
const CANARY: [&str; 2] = ["canary-in-the-coal-mine!", "Y2FuYXJ5LWluLXRoZS1jb2FsLW1pbmUh"];

/// A file that only we can read.
fn private(path: PathBuf, content: &[u8]) -> Result<String> {
    fs::write(&path, content)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path.to_str().context("a name that is text")?.to_owned())
}

/// Every file below a directory that holds the canary.
fn canaries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(canaries(&path)?);
        } else {
            // A file may go away between listing and reading it.
            let bytes = fs::read(&path).unwrap_or_default();
            let holds = |text: &&str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            found.extend(CANARY.iter().any(holds).then_some(path));
        }
    }
    Ok(found)
}

fn put_canary(client: &mut Requests) -> Result<()> {
    let secret = json!({"metadata": {"name": "canary"}, "stringData": {"song": CANARY[0]}});
    let stored = client.ask("POST", "/api/v1/namespaces/default/secrets", &secret)?;
    ensure!(stored["data"]["song"] == CANARY[1], "{stored}");
    Ok(())
}

/// The revision in what `coxswain backup` printed.
fn revision_in(printed: &str) -> Result<u64> {
    let after = printed.split("revision ").nth(1).context("no revision")?;
    let digits = after.split(' ').next().unwrap_or_default();
    digits.parse().with_context(|| printed.to_owned())
}

#[test]
fn a_backup_under_load_restores_to_what_was_real() -> Result<()> {
    let mut servers = Servers::grown(1)?;
    let passphrase = private(servers.folder().join("passphrase"), b"correct horse battery\n")?;
    let kubeconfig = servers.kubeconfig(0);
    let mut client = Requests::to(&kubeconfig)?;
    put_canary(&mut client)?;
    let (from, _) = maps(&mut client)?;
    let seen = Arc::default();
    let _following = follow(&kubeconfig, from, &seen)?;
    let accounts = "/api/v1/namespaces/default/serviceaccounts/default";
    let token = eventually(WITHIN, "a service account token", || {
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = client.ask("POST", &format!("{accounts}/token"), &asked)?;
        Ok(answer["status"]["token"].as_str().context("no token")?.to_owned())
    })?;
    let load = Load::start(&kubeconfig);
    load.goes_on(300)?;
    let backup = servers.folder().join("backup").to_str().context("text")?.to_owned();
    let lock = ["--passphrase-file", passphrase.as_str()];
    let printed = servers.coxswain(0, "backup", &[&[backup.as_str()], &lock[..]].concat())?;
    let revision = revision_in(&printed)?;
    load.goes_on(300)?;
    load.finish()?;
    let mode = fs::metadata(&backup)?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    let (newest, _) = maps(&mut client)?;
    ensure!(revision > from && revision < newest, "{from} {revision} {newest}");
    servers.stop(0)?;

    let restored = servers.place()?;
    let printed = servers.coxswain(restored, "restore", &[&[backup.as_str()], &lock[..]].concat())?;
    ensure!(printed.contains(&format!("revision {revision} ")), "{printed}");
    servers.start(restored)?;
    let mut found = Requests::to(&servers.kubeconfig(restored))?;
    let (at, there) = maps(&mut found)?;
    ensure!(at >= revision + AHEAD, "{at}");
    let there: Maps = there
        .into_iter()
        .map(|(name, (revision, number))| (name, (revision - AHEAD, number)))
        .collect();
    let events = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let expected = at_revision(&events, revision);
    ensure!(there.len() > 20 && there == expected, "{there:?}\nis not\n{expected:?}");

    // Who watched before is told so, and never waits in a gap.
    for before in [from, revision, newest] {
        let (status, answer) = found.call(
            "GET",
            &format!("{MAPS}?watch=true&resourceVersion={before}"),
            &Value::Null,
        )?;
        let code = if status == 200 {
            answer["object"]["code"].as_u64()
        } else {
            Some(u64::from(status))
        };
        ensure!(code == Some(410), "{before}: {status} {answer}");
    }
    // Yesterday's kubeconfig and service account token are good for the restored cluster.
    let ports = [0, restored].map(|number| format!("127.0.0.1:{}", servers.api_port(number)));
    let text = fs::read_to_string(&kubeconfig)?.replace(&ports[0], &ports[1]);
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let with_token: String = text
        .lines()
        .filter(|line| !line.contains("client-key-data"))
        .map(|line| match line.contains("client-certificate-data") {
            true => format!("    token: {token}\n"),
            false => format!("{line}\n"),
        })
        .collect();
    for (text, user) in [
        (text, "kubernetes-admin"),
        (with_token, "system:serviceaccount:default:default"),
    ] {
        let path = private(servers.folder().join("old.kubeconfig"), text.as_bytes())?;
        let who = Requests::to(Path::new(&path))?.ask("POST", reviews, &review)?;
        ensure!(who["status"]["userInfo"]["username"] == user, "{who}");
    }
    let secret = found.ask("GET", "/api/v1/namespaces/default/secrets/canary", &Value::Null)?;
    ensure!(secret["data"]["song"] == CANARY[1], "{secret}");
    for dir in [servers.data_dir(0), servers.data_dir(restored)] {
        ensure!(canaries(&dir)?.is_empty(), "{:?}", canaries(&dir)?);
    }
    ensure!(canaries(servers.folder())?.is_empty(), "the backup sings");
    Ok(())
}

#[test]
fn what_cannot_be_done_is_refused_in_one_sentence() -> Result<()> {
    let mut servers = Servers::grown(1)?;
    let folder = servers.folder().to_owned();
    let text = |path: PathBuf| -> Result<String> { Ok(path.to_str().context("text")?.to_owned()) };
    let key = private(folder.join("key"), &[1; 32])?;
    let other = private(folder.join("other"), &[2; 32])?;
    let passphrase = private(folder.join("passphrase"), b"correct horse battery")?;
    let short = private(folder.join("short"), b"short")?;
    let open = private(folder.join("open"), &[1; 32])?;
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644))?;
    let good = text(folder.join("good"))?;
    servers.coxswain(0, "backup", &[&good, "--key-file", &key])?;
    let bytes = fs::read(&good)?;
    let half = private(folder.join("half"), &bytes[..bytes.len() / 2])?;
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    let flipped = private(folder.join("flipped"), &flipped)?;
    let mut newer = bytes.clone();
    newer[8] = 2;
    let newer = private(folder.join("newer"), &newer)?;
    let (empty, running) = (servers.place()?, 0);
    let new = text(folder.join("new"))?;
    let nowhere = text(folder.join("no/where"))?;
    let table: [(usize, &str, &[&str], &str); 18] = [
        (
            running,
            "backup",
            &[&good, "--key-file", &key],
            "is there already: choose another name",
        ),
        (
            running,
            "backup",
            &[&nowhere, "--key-file", &key],
            "there is no directory",
        ),
        (
            running,
            "backup",
            &[&new, "--passphrase-file", &short],
            "the passphrase is too short",
        ),
        (
            running,
            "backup",
            &[&new, "--key-file", &open],
            "can be read by other users",
        ),
        (running, "backup", &[&new, "--key-file", &nowhere], "No such file"),
        (
            running,
            "backup",
            &[&new],
            "there is no terminal to ask for the passphrase on",
        ),
        (empty, "backup", &[&new, "--key-file", &key], "no server has run in"),
        (empty, "rotate-key", &[], "no server has run in"),
        (empty, "restore", &[&nowhere, "--key-file", &key], "there is no backup"),
        (empty, "restore", &[&key, "--key-file", &key], "it is not a backup"),
        // Told before anything is asked for.
        (empty, "restore", &[&key], "it is not a backup"),
        (empty, "restore", &[&good], "it was made with a key file"),
        (
            empty,
            "restore",
            &[&good, "--key-file", &other],
            "the key file is not the one that it was made with",
        ),
        (
            empty,
            "restore",
            &[&good, "--passphrase-file", &passphrase],
            "it was made with a key file",
        ),
        (
            empty,
            "restore",
            &[&half, "--key-file", &key],
            "it was cut off; use another backup",
        ),
        (
            empty,
            "restore",
            &[&flipped, "--key-file", &key],
            "a block is invalid; use another backup",
        ),
        (
            empty,
            "restore",
            &[&newer, "--key-file", &key],
            "it has format 2, and this version knows formats up to 1",
        ),
        (running, "restore", &[&good, "--key-file", &key], "is not empty"),
    ];
    for (number, command, arguments, expected) in table {
        let told = servers.coxswain(number, command, arguments);
        let told = told
            .err()
            .with_context(|| format!("{command} {arguments:?} went well"))?
            .to_string();
        ensure!(told.contains(expected), "{command} {arguments:?}: {told}");
        ensure!(
            told.starts_with("error: ") && told.trim_end().lines().count() == 1,
            "{told}"
        );
        let left = [
            &folder.join("new"),
            &folder.join("new.partial"),
            &servers.data_dir(empty),
        ];
        ensure!(
            left.iter().all(|path| !path.exists()),
            "{command} {arguments:?} left something"
        );
    }
    // Half a restore is no cluster, and is no obstacle to a whole one.
    let data_dir = servers.data_dir(empty);
    fs::create_dir_all(data_dir.join("pki"))?;
    for name in ["restoring", "pki/ca.crt"] {
        fs::write(data_dir.join(name), "")?;
    }
    servers.launch(empty)?;
    eventually(WITHIN, "a refusal", || {
        let log = fs::read_to_string(folder.join("s1.log"))?;
        ensure!(
            log.contains("a restore into") && log.contains("was interrupted: run it again"),
            "{log}"
        );
        Ok(())
    })?;
    let _ = servers.crash(empty);
    servers.coxswain(empty, "restore", &[&good, "--key-file", &key])?;
    servers.start(empty)?;
    // Without its server a backup cannot be taken, and says so.
    servers.stop(running)?;
    let told = servers
        .coxswain(running, "backup", &[&new, "--key-file", &key])
        .err()
        .context("refused")?;
    ensure!(told.to_string().contains("cannot be asked; does it run?"), "{told}");
    ensure!(!Path::new(&new).exists());
    Ok(())
}

/// The numbers of the keys in a key file.
fn keys(servers: &Servers, number: usize) -> Result<Vec<u64>> {
    let text = fs::read_to_string(servers.data_dir(number).join("keys/store.key"))?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| Ok(line.split(' ').next().unwrap_or_default().parse()?))
        .collect()
}

#[test]
fn a_key_is_rotated_under_load_whenever_the_server_dies() -> Result<()> {
    let mut servers = Servers::grown(1)?;
    let kubeconfig = servers.kubeconfig(0);
    put_canary(&mut Requests::to(&kubeconfig)?)?;
    let load = Load::start(&kubeconfig);
    for round in 0..6 {
        load.goes_on(100)?;
        let mut rotating = servers
            .command(0, "rotate-key", &[])?
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // From before the command has reached the server until after it has ended.
        std::thread::sleep(Duration::from_millis(30 * round));
        servers.crash(0)?;
        rotating.wait()?;
        servers.start(0)?;
        eventually(WITHIN, "an end of the rotation", || {
            let keys = keys(&servers, 0)?;
            ensure!(keys.len() == 1, "{keys:?}");
            Ok(())
        })?;
    }
    load.goes_on(50)?;
    let before = keys(&servers, 0)?;
    servers.coxswain(0, "rotate-key", &[])?;
    ensure!(
        keys(&servers, 0)? == [before[0] + 1],
        "{before:?} {:?}",
        keys(&servers, 0)?
    );
    load.goes_on(50)?;
    let acknowledged = load.finish()?;
    servers.crash(0)?;
    ensure!(
        canaries(&servers.data_dir(0))?.is_empty(),
        "{:?}",
        canaries(&servers.data_dir(0))?
    );
    servers.start(0)?;
    let (_, there) = maps(&mut Requests::to(&kubeconfig)?)?;
    for (name, number) in acknowledged {
        let kept = there.get(&name).map(|(_, number)| *number);
        ensure!(kept >= Some(number), "{name} holds {kept:?}, not {number}");
    }
    Ok(())
}

#[test]
fn any_server_can_be_asked_and_what_is_restored_knows_none() -> Result<()> {
    let mut servers = Servers::grown(3)?;
    let key = private(servers.folder().join("key"), &[1; 32])?;
    let load = Load::start(&servers.kubeconfig(0));
    load.goes_on(100)?;
    let leader = servers.leader()?;
    for number in 0..3 {
        let file = servers.folder().join(format!("backup-{number}"));
        let file = file.to_str().context("text")?;
        // What was acknowledged anywhere before is in it.
        let (before, _) = maps(&mut Requests::to(&servers.kubeconfig(leader))?)?;
        let printed = servers.coxswain(number, "backup", &[file, "--key-file", &key])?;
        ensure!(revision_in(&printed)? >= before, "{before}: {printed}");
        servers.coxswain(number, "rotate-key", &[])?;
        ensure!(
            keys(&servers, number)? == [2],
            "server {number}: {:?}",
            keys(&servers, number)?
        );
    }
    load.goes_on(50)?;
    load.finish()?;
    let file = servers.folder().join("backup-2");
    let restored = servers.place()?;
    servers.coxswain(
        restored,
        "restore",
        &[file.to_str().context("text")?, "--key-file", &key],
    )?;
    servers.start(restored)?;
    let alone = servers.members(restored, &[])?;
    ensure!(alone.lines().count() == 2 && alone.contains("leader"), "{alone}");
    // Those of the old cluster go on among themselves.
    ensure!(servers.rows()?.len() == 3, "{:?}", servers.rows()?);
    let (_, there) = maps(&mut Requests::to(&servers.kubeconfig(restored))?)?;
    ensure!(
        there.len() > 20 && there.values().all(|(revision, _)| *revision > AHEAD),
        "{there:?}"
    );
    Ok(())
}

#[test]
fn backups_go_on_after_a_round_that_failed() -> Result<()> {
    let mut servers = Servers::grown(1)?;
    let folder = servers.folder().join("backups");
    fs::create_dir(&folder)?;
    fs::write(folder.join("coxswain-mine.backup"), "precious")?;
    let key = private(servers.folder().join("key"), &[1; 32])?;
    let to = folder.to_str().context("text")?;
    let log = servers.folder().join("every.log");
    let out = fs::File::create(&log)?;
    let mut service = servers
        .command(
            0,
            "backup",
            &["--every", "1s", "--keep", "2", "--to", to, "--key-file", &key],
        )?
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()?;
    let printed = |what: &str, times: usize| {
        eventually(WITHIN, what, || {
            let text = fs::read_to_string(&log)?;
            if text.matches(what).count() >= times {
                return Ok(());
            }
            bail!("{text}")
        })
    };
    let outcome = (|| {
        printed("Backup of revision", 4)?;
        servers.crash(0)?;
        printed("no backup was taken; the next attempt is in 1 s", 1)?;
        let so_far = fs::read_to_string(&log)?.matches("Backup of revision").count();
        servers.start(0)?;
        printed("Backup of revision", so_far + 2)
    })();
    kill(Pid::from_raw(service.id().cast_signed()), Signal::SIGTERM)?;
    let status = service.wait()?;
    outcome?;
    ensure!(status.success(), "{status}");
    let mut names: Vec<String> = fs::read_dir(&folder)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    ensure!(names.len() == 3 && names[2] == "coxswain-mine.backup", "{names:?}");
    let newest = folder.join(&names[1]);
    let restored = servers.place()?;
    servers.coxswain(
        restored,
        "restore",
        &[newest.to_str().context("text")?, "--key-file", &key],
    )?;
    Ok(())
}

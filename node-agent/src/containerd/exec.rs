//! Commands in running containers through containerd's task service.
//!
//! The command's streams are named pipes of ours, so that the end of standard input can be passed on
//! while output still flows. Everything of a command is removed when it ends or the caller leaves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tonic::transport::Channel;

use crate::cri::containers::GetContainerRequest;
use crate::cri::containers::containers_client::ContainersClient;
use crate::cri::in_namespace;
use crate::cri::tasks::tasks_client::TasksClient;
use crate::cri::tasks::{
    AnyValue, CloseIoRequest, ExecProcessRequest, KillRequest, ProcessRequest, ResizePtyRequest, StartRequest,
};

const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
const KILL: u32 = 9;

/// What to run.
#[derive(Clone, Debug)]
pub struct Command {
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// With a terminal.
    pub tty: bool,
    /// With standard input.
    pub stdin: bool,
}

/// A running command.
pub struct Process {
    client: TasksClient<Channel>,
    container: String,
    id: String,
    directory: PathBuf,
    /// Standard input; drop it and call [`Process::end_input`] to end it.
    pub stdin: Option<Sender>,
    /// Standard output.
    pub stdout: Option<Receiver>,
    /// Standard error; absent with a terminal.
    pub stderr: Option<Receiver>,
}

/// How a command that was waited for ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself: its exit code and the beginning of what it wrote, standard output first.
    Exited(u32, Vec<u8>),
    /// It was killed, because it took longer than it might.
    TimedOut,
}

/// After the end of a command, or of a kill: how long its pipes are read on, since children may keep them open.
const AFTERWARDS: Duration = Duration::from_secs(2);

/// Runs a command to its end, at most for `limit`. Of each stream, `output_max` bytes are kept and the rest is thrown
/// away, so that a command that writes without end costs no memory. The error is a sentence.
pub async fn run(
    channel: Channel,
    run_dir: &Path,
    command: &Command,
    limit: Duration,
    output_max: usize,
) -> Result<Ended, String> {
    let mut process = start(channel, run_dir, command).await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (out, err) = (process.stdout.take(), process.stderr.take());
    let mut control = process.control();
    let flows = async {
        tokio::join!(
            keep_beginning(out, &mut stdout, output_max),
            keep_beginning(err, &mut stderr, output_max)
        );
    };
    let ended = {
        tokio::pin!(flows);
        let work = async {
            let wait = control.wait();
            tokio::pin!(wait);
            let code = tokio::select! {
                code = &mut wait => code,
                () = &mut flows => return wait.await,
            };
            let _ = tokio::time::timeout(AFTERWARDS, &mut flows).await;
            code
        };
        tokio::time::timeout(limit, work).await
    };
    let ended = match ended {
        Ok(code) => code.map(|code| {
            stdout.extend_from_slice(&stderr);
            Ended::Exited(code, stdout)
        }),
        Err(_) => {
            control.kill().await;
            let _ = tokio::time::timeout(AFTERWARDS, control.wait()).await;
            Ok(Ended::TimedOut)
        }
    };
    process.remove().await;
    ended
}

/// Reads a stream to its end; keeps its first `max` bytes.
async fn keep_beginning(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, max: usize) {
    let Some(mut stream) = stream else { return };
    let mut buffer = vec![0_u8; 16 << 10];
    while let Ok(n) = stream.read(&mut buffer).await {
        if n == 0 {
            return;
        }
        let room = max.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
    }
}

/// Starts a command; the error is a sentence.
pub async fn start(channel: Channel, run_dir: &Path, command: &Command) -> Result<Process, String> {
    let spec = process_spec(channel.clone(), command).await?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let directory = run_dir.join("exec").join(&id);
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut process = match open(channel, &directory, command, id) {
        Ok(process) => process,
        Err(error) => {
            let _ = std::fs::remove_dir_all(&directory);
            return Err(error);
        }
    };
    let path = |name: &str| directory.join(name).display().to_string();
    let request = ExecProcessRequest {
        container_id: command.container.clone(),
        stdin: if command.stdin { path("stdin") } else { String::new() },
        stdout: path("stdout"),
        stderr: if command.tty { String::new() } else { path("stderr") },
        terminal: command.tty,
        spec: Some(AnyValue {
            type_url: PROCESS_TYPE.into(),
            value: spec,
        }),
        exec_id: process.id.clone(),
    };
    if let Err(status) = process.client.exec(in_namespace(request)).await {
        process.remove().await;
        return Err(status.message().to_string());
    }
    let request = StartRequest {
        container_id: process.container.clone(),
        exec_id: process.id.clone(),
    };
    if let Err(status) = process.client.start(in_namespace(request)).await {
        process.remove().await;
        return Err(status.message().to_string());
    }
    Ok(process)
}

fn open(channel: Channel, directory: &Path, command: &Command, id: String) -> Result<Process, String> {
    let make = |name: &str| -> Result<PathBuf, String> {
        let path = directory.join(name);
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    };
    let receive = |name: &str| -> Result<Receiver, String> {
        let path = make(name)?;
        OpenOptions::new()
            .open_receiver(&path)
            .map_err(|error| format!("{}: {error}", path.display()))
    };
    let stdin = if command.stdin {
        let path = make("stdin")?;
        // Opened for both directions so that opening does not need a reader yet.
        let sender = OpenOptions::new().read_write(true).open_sender(&path);
        Some(sender.map_err(|error| format!("{}: {error}", path.display()))?)
    } else {
        None
    };
    Ok(Process {
        client: TasksClient::new(channel),
        container: command.container.clone(),
        id,
        directory: directory.to_path_buf(),
        stdin,
        stdout: Some(receive("stdout")?),
        stderr: if command.tty { None } else { Some(receive("stderr")?) },
    })
}

/// The container's own process, with another command.
async fn process_spec(channel: Channel, command: &Command) -> Result<Vec<u8>, String> {
    let request = GetContainerRequest {
        id: command.container.clone(),
    };
    let response = ContainersClient::new(channel)
        .get(in_namespace(request))
        .await
        .map_err(|status| status.message().to_string())?;
    let spec = response
        .into_inner()
        .container
        .and_then(|container| container.spec)
        .ok_or("the container has no specification")?;
    let spec: Value = serde_json::from_slice(&spec.value).map_err(|error| error.to_string())?;
    let mut process = spec.get("process").cloned().ok_or("the container has no process")?;
    let fields = process.as_object_mut().ok_or("the container's process is malformed")?;
    fields.insert("args".into(), command.argv.clone().into());
    fields.insert("terminal".into(), command.tty.into());
    fields.remove("consoleSize");
    if command.tty {
        let env = fields.entry("env").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = env.as_array_mut()
            && !list
                .iter()
                .any(|item| item.as_str().is_some_and(|text| text.starts_with("TERM=")))
        {
            list.push("TERM=xterm".into());
        }
    }
    serde_json::to_vec(&process).map_err(|error| error.to_string())
}

/// Steers a running command from another task.
#[derive(Clone)]
pub struct Control {
    client: TasksClient<Channel>,
    container: String,
    id: String,
}

impl Control {
    /// Passes the end of standard input on.
    pub async fn end_input(&mut self) {
        let request = CloseIoRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            stdin: true,
        };
        let _ = self.client.close_io(in_namespace(request)).await;
    }

    /// Changes the terminal's size.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let request = ResizePtyRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            width,
            height,
        };
        let _ = self.client.resize_pty(in_namespace(request)).await;
    }

    /// Kills the command.
    pub async fn kill(&mut self) {
        let request = KillRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
            signal: KILL,
            all: false,
        };
        let _ = self.client.kill(in_namespace(request)).await;
    }

    /// Waits for the command's end; its exit code.
    pub async fn wait(&mut self) -> Result<u32, String> {
        let request = ProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
        };
        let response = self
            .client
            .wait(in_namespace(request))
            .await
            .map_err(|status| status.message().to_string())?;
        Ok(response.into_inner().exit_status)
    }
}

impl Process {
    /// A handle that steers it.
    pub fn control(&self) -> Control {
        Control {
            client: self.client.clone(),
            container: self.container.clone(),
            id: self.id.clone(),
        }
    }

    /// Removes the ended command's record and pipes.
    pub async fn remove(&mut self) {
        let request = ProcessRequest {
            container_id: self.container.clone(),
            exec_id: self.id.clone(),
        };
        let _ = self.client.delete_process(in_namespace(request)).await;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_beginning_of_an_endless_stream_is_kept() {
        let mut kept = Vec::new();
        keep_beginning(Some(tokio::io::repeat(b'x').take(64 << 20)), &mut kept, 10 << 10).await;
        assert_eq!(kept.len(), 10 << 10);
        assert!(kept.capacity() <= 64 << 10, "{}", kept.capacity());
    }
}

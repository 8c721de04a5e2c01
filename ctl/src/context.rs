//! The connection of one invocation: which cluster, which namespace, raw requests, and errors in kubectl's words.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
pub use coxswain_client::discovery::encode;
use coxswain_client::kube::client::Body;
use coxswain_client::kube::config::{
    AuthInfo, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext,
};
use coxswain_client::kube::core::Status;
use coxswain_client::kube::{self, Config};
use coxswain_client::{Client, ClientError};
use futures::AsyncBufRead;
use http::{HeaderMap, Method, Request};
use serde_json::Value;

/// What `coxswain up` writes.
const CLUSTER_KUBECONFIG: &str = "/etc/coxswain/admin.kubeconfig";
/// Asks for the columns that the server makes.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Flags that every command takes.
#[derive(Args, Clone, Default)]
pub struct Global {
    /// Path to the kubeconfig file to use
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The name of the kubeconfig context to use
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The name of the kubeconfig cluster to use
    #[arg(long, global = true)]
    pub cluster: Option<String>,
    /// The name of the kubeconfig user to use
    #[arg(long, global = true)]
    pub user: Option<String>,
    /// The namespace scope of this request
    #[arg(long, short = 'n', global = true)]
    pub namespace: Option<String>,
    /// The address and port of the API server
    #[arg(long, short = 's', global = true)]
    pub server: Option<String>,
    /// Bearer token for authentication
    #[arg(long, global = true)]
    pub token: Option<String>,
    /// Do not check the server's certificate
    #[arg(long, global = true, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub insecure_skip_tls_verify: bool,
    /// File with the certificates that the server's is checked against
    #[arg(long, global = true, value_name = "FILE")]
    pub certificate_authority: Option<String>,
    /// File with a client certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub client_certificate: Option<String>,
    /// File with the key of the client certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub client_key: Option<String>,
    /// The name that the server's certificate must have
    #[arg(long, global = true, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Username to impersonate
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Group to impersonate, may be given several times
    #[arg(long = "as-group", global = true, value_name = "GROUP")]
    pub impersonate_groups: Vec<String>,
    /// How long to wait for a single request, such as 5s or 2m; 0 waits for ever
    #[arg(long, global = true, value_name = "TIME", default_value = "0", value_parser = duration)]
    pub request_timeout: Duration,
    /// 6 shows the requests, 8 also what is sent and answered
    #[arg(long = "v", short = 'v', global = true, value_name = "LEVEL", default_value_t = 0)]
    pub verbosity: u8,
    /// A warning of the server is an error
    #[arg(long, global = true)]
    pub warnings_as_errors: bool,
    /// Accepted for kubectl's sake: nothing is cached
    #[arg(long, global = true, value_name = "DIR", hide = true)]
    pub cache_dir: Option<String>,
}

/// A connected invocation.
pub struct Ctx {
    pub client: Client,
    pub namespace: String,
    /// The namespace was chosen on the command line.
    pub namespace_given: bool,
    pub server: String,
    timeout: Duration,
    verbosity: u8,
    /// What the server warned of; each warning is shown once.
    warnings: RefCell<BTreeSet<String>>,
}

/// Parses `5s`, `1m30s`, `500ms`, or plain seconds.
///
/// # Errors
/// A sentence about what is not a duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(format!("{text:?} is not a duration such as 30s or 5m")),
        };
        let value: f64 = number
            .parse()
            .map_err(|_| format!("{text:?} is not a duration such as 30s or 5m"))?;
        total += value * scale;
        rest = tail;
    }
    Duration::try_from_secs_f64(total).map_err(|e| e.to_string())
}

/// Finds the kubeconfig: the flag, `KUBECONFIG`, the cluster of this machine, the home directory.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn kubeconfig(global: &Global) -> Result<Kubeconfig> {
    let read = |path: &Path| Kubeconfig::read_from(path).map_err(|e| anyhow!("{}: {e}", path.display()));
    if let Some(path) = &global.kubeconfig {
        return read(path);
    }
    if std::env::var_os("KUBECONFIG").is_some_and(|v| !v.is_empty()) {
        return Kubeconfig::read().context("read the files that KUBECONFIG names");
    }
    let cluster = Path::new(CLUSTER_KUBECONFIG);
    if std::fs::File::open(cluster).is_ok() {
        return read(cluster);
    }
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".kube/config"));
    match home {
        Some(path) if path.exists() => read(&path),
        _ if global.server.is_some() => Ok(Kubeconfig::default()),
        _ => bail!(
            "no cluster to talk to: start one with `coxswain up`, or give --kubeconfig FILE ({CLUSTER_KUBECONFIG} cannot be read: is this root?)"
        ),
    }
}

/// The file that changes of the configuration go to; it need not exist yet.
///
/// # Errors
/// When no home directory is known.
pub fn kubeconfig_path(global: &Global) -> Result<PathBuf> {
    if let Some(path) = &global.kubeconfig {
        return Ok(path.clone());
    }
    let named = std::env::var_os("KUBECONFIG").filter(|names| !names.is_empty());
    let named: Vec<PathBuf> = named
        .map(|names| std::env::split_paths(&names).collect())
        .unwrap_or_default();
    if let Some(path) = named.iter().find(|path| path.exists()).or(named.first()) {
        return Ok(path.clone());
    }
    if std::fs::File::open(CLUSTER_KUBECONFIG).is_ok() {
        return Ok(PathBuf::from(CLUSTER_KUBECONFIG));
    }
    let home = std::env::var_os("HOME").context("HOME is not set; give --kubeconfig FILE")?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

/// The kubeconfig with what the flags say instead.
fn effective(global: &Global) -> Result<(Kubeconfig, KubeConfigOptions)> {
    let mut file = kubeconfig(global)?;
    let context = global.context.clone().or_else(|| file.current_context.clone());
    let chosen = file
        .contexts
        .iter()
        .find(|known| Some(&known.name) == context.as_ref())
        .and_then(|known| known.context.clone());
    if let Some(name) = global.context.as_ref().filter(|_| chosen.is_none()) {
        bail!("context \"{name}\" does not exist");
    }
    let chosen = chosen.unwrap_or_default();
    let cluster_name = global.cluster.clone().unwrap_or(chosen.cluster);
    let user_name = global.user.clone().or(chosen.user).unwrap_or_default();
    let mut cluster = file
        .clusters
        .iter()
        .find(|known| known.name == cluster_name)
        .and_then(|known| known.cluster.clone())
        .unwrap_or_default();
    let mut user = file
        .auth_infos
        .iter()
        .find(|known| known.name == user_name)
        .and_then(|known| known.auth_info.clone())
        .unwrap_or_default();
    if global.cluster.is_some() && cluster.server.is_none() {
        bail!("cluster \"{cluster_name}\" does not exist");
    }
    if let Some(name) = global
        .user
        .as_ref()
        .filter(|name| !file.auth_infos.iter().any(|user| user.name == **name))
    {
        bail!("auth info \"{name}\" does not exist");
    }
    if let Some(server) = &global.server {
        let server = if server.contains("://") {
            server.clone()
        } else {
            format!("https://{server}")
        };
        cluster.server = Some(server);
    }
    if cluster.server.is_none() {
        bail!("no server is configured: give --server, or a context of the kubeconfig with --context");
    }
    if let Some(path) = &global.certificate_authority {
        cluster.certificate_authority = Some(path.clone());
        cluster.certificate_authority_data = None;
    }
    if let Some(name) = &global.tls_server_name {
        cluster.tls_server_name = Some(name.clone());
    }
    if global.insecure_skip_tls_verify {
        cluster.insecure_skip_tls_verify = Some(true);
    }
    if let Some(path) = &global.client_certificate {
        user.client_certificate = Some(path.clone());
        user.client_certificate_data = None;
    }
    if let Some(path) = &global.client_key {
        user.client_key = Some(path.clone());
        user.client_key_data = None;
    }
    if let Some(token) = &global.token {
        // A token is used instead of a certificate, not beside it.
        user = AuthInfo {
            token: Some(token.clone().into()),
            ..AuthInfo::default()
        };
    }
    // What is used goes by one name that no file has.
    let name = "ctl:effective".to_owned();
    let context = Context {
        cluster: name.clone(),
        user: Some(name.clone()),
        namespace: chosen.namespace,
        ..Context::default()
    };
    file.clusters = vec![NamedCluster {
        name: name.clone(),
        cluster: Some(cluster),
        ..NamedCluster::default()
    }];
    file.auth_infos = vec![NamedAuthInfo {
        name: name.clone(),
        auth_info: Some(user),
        ..NamedAuthInfo::default()
    }];
    file.contexts = vec![NamedContext {
        name: name.clone(),
        context: Some(context),
        ..NamedContext::default()
    }];
    file.current_context = Some(name);
    Ok((file, KubeConfigOptions::default()))
}

async fn config(global: &Global) -> Result<Config> {
    let (file, options) = effective(global)?;
    let mut config = Config::from_custom_kubeconfig(file, &options)
        .await
        .context("kubeconfig")?;
    if let Some(user) = &global.impersonate {
        config.auth_info.impersonate = Some(user.clone());
        config.auth_info.impersonate_groups = Some(global.impersonate_groups.clone());
    }
    Ok(config)
}

impl Ctx {
    /// Connects as the flags and the kubeconfig say; nothing is sent yet.
    ///
    /// # Errors
    /// When no usable configuration is found.
    pub async fn new(global: &Global) -> Result<Self> {
        let config = config(global).await?;
        let namespace = global
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.to_string();
        Ok(Self {
            client: Client::from_config(config)?,
            namespace,
            namespace_given: global.namespace.is_some(),
            server: server.trim_end_matches('/').to_owned(),
            timeout: global.request_timeout,
            verbosity: global.verbosity,
            warnings: RefCell::default(),
        })
    }

    /// How many different warnings the server has given.
    #[must_use]
    pub fn warnings(&self) -> usize {
        self.warnings.borrow().len()
    }

    /// Shows what the server warns of, once.
    fn take_warnings(&self, headers: &HeaderMap) {
        for header in headers.get_all(http::header::WARNING) {
            let Some(text) = header.to_str().ok().and_then(warning) else {
                continue;
            };
            if self.warnings.borrow_mut().insert(text.clone()) {
                eprintln!("Warning: {text}");
            }
        }
    }

    fn request(method: &Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<Request<Vec<u8>>> {
        let mut request = Request::builder().method(method.clone()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(request.body(body)?)
    }

    async fn limited<T>(&self, work: impl Future<Output = kube::Result<T>>) -> Result<T> {
        let failed = |e: kube::Error| Failed {
            server: self.server.clone(),
            source: e,
        };
        if self.timeout.is_zero() {
            return Ok(work.await.map_err(failed)?);
        }
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => Ok(result.map_err(failed)?),
            Err(_) => bail!("the server did not answer within {:?}", self.timeout),
        }
    }

    /// One request whose answer is text.
    ///
    /// # Errors
    /// The server's answer, or why it could not be reached.
    pub async fn text(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<String> {
        if self.verbosity >= 8 && !body.is_empty() {
            eprintln!("Request Body: {}", String::from_utf8_lossy(&body));
        }
        let request = Self::request(&method, path, headers, body)?;
        let begun = Instant::now();
        let answer = self
            .limited(async {
                let response = self.client.kube().send(request.map(Body::from)).await?;
                let (head, body) = response.into_parts();
                Ok((head, body.collect_bytes().await?))
            })
            .await;
        let (head, bytes) = answer?;
        if self.verbosity >= 6 {
            let spent = begun.elapsed().as_millis();
            eprintln!("{method} {}{path} {} in {spent} milliseconds", self.server, head.status);
        }
        self.take_warnings(&head.headers);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if self.verbosity >= 8 {
            eprintln!("Response Body: {text}");
        }
        if head.status.is_success() {
            return Ok(text);
        }
        // Not every error is a Status: what stands in front of a server answers as it likes.
        let status = serde_json::from_str::<Status>(&text)
            .unwrap_or_else(|_| Status::failure(text.trim(), "").with_code(head.status.as_u16()));
        Err(Failed {
            server: self.server.clone(),
            source: kube::Error::Api(status.boxed()),
        }
        .into())
    }

    /// One request with an optional JSON body, answered in JSON.
    ///
    /// # Errors
    /// The server's answer, or why it could not be reached.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value> {
        let mut all = headers.to_vec();
        if body.is_some() && !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
            all.push(("content-type", "application/json"));
        }
        let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let text = self.text(method, path, &all, bytes).await?;
        serde_json::from_str(&text).context("the server's answer is not JSON")
    }

    /// `GET path` as JSON.
    ///
    /// # Errors
    /// As [`Ctx::call`].
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, &[], None).await
    }

    /// `GET path` as the Table that the server renders.
    ///
    /// # Errors
    /// As [`Ctx::call`].
    pub async fn table(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, &[("accept", TABLE)], None).await
    }

    /// `PATCH path` with a patch of the given media type.
    ///
    /// # Errors
    /// As [`Ctx::call`].
    pub async fn patch(&self, path: &str, media_type: &str, patch: &Value) -> Result<Value> {
        self.call(Method::PATCH, path, &[("content-type", media_type)], Some(patch))
            .await
    }

    /// `GET path` as a stream that stays open: a watch, or a followed log.
    ///
    /// # Errors
    /// As [`Ctx::call`].
    pub async fn stream(&self, path: &str, table: bool) -> Result<impl AsyncBufRead + Unpin + use<>> {
        let headers: &[(&str, &str)] = if table { &[("accept", TABLE)] } else { &[] };
        let request = Self::request(&Method::GET, path, headers, Vec::new())?;
        let stream = self.limited(self.client.kube().request_stream(request)).await?;
        Ok(Box::pin(stream))
    }
}

/// The text of a Warning header: `299 - "text"`.
fn warning(header: &str) -> Option<String> {
    let quoted = header.trim().strip_prefix("299 ")?.split_once(' ')?.1;
    let end = (1..quoted.len()).find(|at| quoted[*at..].starts_with('"') && !quoted[..*at].ends_with('\\'))?;
    Some(quoted.get(1..end)?.replace("\\\"", "\""))
}

/// A failed request, with the server it went to.
#[derive(Debug)]
pub struct Failed {
    pub server: String,
    pub source: kube::Error,
}

impl Failed {
    /// The HTTP status of the server's answer; `None` when there was none.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match &self.source {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            // The client's own reason when an answer is plain text says nothing to a user.
            kube::Error::Api(status) if status.reason.is_empty() || status.reason.contains("parse error") => {
                write!(f, "Error from server: {}", status.message)
            }
            kube::Error::Api(status) => match status.reason.as_str() {
                "Invalid" => write!(f, "The {}", status.message.trim_start_matches("The ")),
                "Unauthorized" => write!(f, "error: You must be logged in to the server ({})", status.reason),
                reason => write!(f, "Error from server ({reason}): {}", status.message),
            },
            other => {
                let host = self.server.trim_start_matches("https://").trim_start_matches("http://");
                write!(
                    f,
                    "The connection to the server {host} was refused or broke off - is the cluster running? ({})",
                    root_cause(other)
                )
            }
        }
    }
}

impl std::error::Error for Failed {}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// The HTTP status behind an error, when the server gave one.
#[must_use]
pub fn status_of(error: &anyhow::Error) -> Option<u16> {
    error
        .chain()
        .find_map(|c| c.downcast_ref::<Failed>())
        .and_then(Failed::code)
}

/// The one line that a failed command prints.
#[must_use]
pub fn error_text(error: &anyhow::Error) -> String {
    if let Some(failed) = error.chain().find_map(|c| c.downcast_ref::<Failed>()) {
        return failed.to_string();
    }
    if let Some(ClientError::Config(text)) = error.chain().find_map(|c| c.downcast_ref()) {
        return format!("error: {text}");
    }
    let text = format!("{error:#}");
    if text.starts_with("error: ") || text.starts_with("Error ") {
        text
    } else {
        format!("error: {text}")
    }
}

/// `path?a=b&c=d` from the pairs that have a value.
#[must_use]
pub fn with_query(path: &str, pairs: &[(&str, Option<&str>)]) -> String {
    let query: Vec<String> = pairs
        .iter()
        .filter_map(|(k, v)| v.map(|v| format!("{k}={}", encode(v))))
        .collect();
    if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", query.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        for (text, want) in [
            ("5", Some(5000)),
            ("1m30s", Some(90_000)),
            ("250ms", Some(250)),
            ("2h", Some(7_200_000)),
            ("x", None),
            ("5q", None),
        ] {
            let got = duration(text).ok().map(|d| d.as_millis());
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn warnings_of_headers() {
        for (header, expected) in [
            ("299 - \"it is old\"", Some("it is old")),
            ("299 - \"unknown field \\\"a\\\"\"", Some("unknown field \"a\"")),
            ("199 - \"other\"", None),
            ("299 -", None),
        ] {
            assert_eq!(warning(header).as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        let path = with_query("/x", &[("labelSelector", Some("a=b,c in (d)")), ("limit", None)]);
        assert_eq!(path, "/x?labelSelector=a%3Db%2Cc%20in%20%28d%29");
    }
}

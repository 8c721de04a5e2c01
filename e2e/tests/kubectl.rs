//! An unmodified kubectl runs every one of its commands against a server without nodes. Those that talk to a container
//! (`logs`, `exec`, `attach`, `cp`, `port-forward`) are in `cluster.rs`.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use coxswain_e2e::Server;

/// What the answer must contain, and the command, in order. `FILES` is the folder beside this file.
const COMMANDS: &[(&str, &str)] = &[
    ("node/nobody created", "create -f FILES/cluster.yaml"),
    ("namespace/shop created", "create namespace shop"),
    ("namespace/gone created", "create ns gone"),
    ("\"coxswain\" modified", "config set-context --current --namespace=shop"),
    ("shop", "config view --minify -o jsonpath={..namespace}"),
    ("coxswain", "config current-context"),
    (
        "configmap/plain created",
        "create configmap plain --from-literal=key=value --from-literal=other=2",
    ),
    (
        "secret/hidden created",
        "create secret generic hidden --from-literal=password=x",
    ),
    (
        "secret/pull created",
        "create secret docker-registry pull --docker-server=h --docker-username=u --docker-password=p",
    ),
    ("serviceaccount/worker created", "create serviceaccount worker"),
    (
        "deployment.apps/web created",
        "create deployment web --image=nginx --replicas=2 --port=80",
    ),
    ("job.batch/once created", "create job once --image=busybox -- true"),
    (
        "role.rbac.authorization.k8s.io/reader created",
        "create role reader --verb=get,list --resource=pods,deployments.apps",
    ),
    (
        "rolebinding.rbac.authorization.k8s.io/readers created",
        "create rolebinding readers --role=reader --serviceaccount=shop:worker",
    ),
    (
        "clusterrole.rbac.authorization.k8s.io/prober created",
        "create clusterrole prober --verb=get --non-resource-url=/healthz",
    ),
    (
        "clusterrolebinding.rbac.authorization.k8s.io/probers created",
        "create clusterrolebinding probers --clusterrole=prober --user=u",
    ),
    (
        "service/inside created",
        "create service clusterip inside --tcp=80:8080",
    ),
    ("service/port created", "create service nodeport port --tcp=80"),
    (
        "service/balanced created",
        "create service loadbalancer balanced --tcp=80",
    ),
    (
        "service/alias created",
        "create service externalname alias --external-name=example.org",
    ),
    ("quota/most created", "create quota most --hard=pods=100"),
    (
        "priorityclass.scheduling.k8s.io/urgent created",
        "create priorityclass urgent --value=10",
    ),
    (
        "ingress.networking.k8s.io/front created",
        "create ingress front --rule=a.example/x*=inside:80,tls=t",
    ),
    ("service/web exposed", "expose deployment web --port=80"),
    (
        "pod/alone created",
        "run alone --image=busybox --restart=Never -- sleep 1",
    ),
    ("image updated", "set image deployment/web nginx=nginx:1.25"),
    ("env updated", "set env deployment/web COLOUR=red"),
    ("COLOUR=red", "set env deployment/web --list"),
    (
        "resource requirements updated",
        "set resources deployment/web --limits=cpu=100m",
    ),
    ("selector updated", "set selector service/inside app=web"),
    ("serviceaccount updated", "set serviceaccount deployment/web worker"),
    ("subjects updated", "set subject rolebinding/readers --user=bob"),
    ("minReadySeconds", "explain deployment.spec"),
    ("matchLabels", "explain deployments --recursive"),
    ("0/2", "get deployment web"),
    ("deployment.apps/web", "get all"),
    ("secret/hidden", "get configmaps,secrets,serviceaccounts -o name"),
    ("value", "get configmap plain -o jsonpath={.data.key}"),
    (
        "value/2",
        "get configmap plain -o go-template={{.data.key}}/{{.data.other}}",
    ),
    (
        "KEY",
        "get configmaps -o custom-columns=NAME:.metadata.name,KEY:.data.key",
    ),
    ("kind: ConfigMap", "get configmap plain -o yaml"),
    (
        "plain",
        "get configmaps --sort-by=.metadata.name --no-headers --field-selector=metadata.name=plain",
    ),
    ("deleted", "delete pod alone --wait=false"),
    ("Waiting for deployment", "rollout status deployment/web --watch=false"),
    ("REVISION", "rollout history deployment/web"),
    ("paused", "rollout pause deployment/web"),
    ("resumed", "rollout resume deployment/web"),
    ("restarted", "rollout restart deployment/web"),
    ("rolled back", "rollout undo deployment/web"),
    ("scaled", "scale deployment/web --replicas=3"),
    ("scaled", "scale deployment/web --current-replicas=3 --replicas=1"),
    (
        "autoscaled",
        "autoscale deployment/web --min=1 --max=4 --cpu-percent=50",
    ),
    ("is running at", "cluster-info"),
    ("RollingUpdateStrategy", "describe deployment web"),
    ("other:", "describe configmap plain"),
    ("Taints:", "describe node nobody"),
    ("labeled", "label configmap plain tier=front"),
    ("labeled", "label configmap plain tier=back --overwrite"),
    ("back", "get configmaps -l tier=back -L tier"),
    ("annotated", "annotate configmap plain note=1"),
    ("patched", "patch configmap plain -p {\"data\":{\"strategic\":\"1\"}}"),
    (
        "patched",
        "patch configmap plain --type=json -p [{\"op\":\"add\",\"path\":\"/data/json\",\"value\":\"1\"}]",
    ),
    (
        "patched",
        "patch configmap plain --type=merge -p {\"data\":{\"strategic\":null,\"merge\":\"2\"}}",
    ),
    ("edited", "edit configmap plain"),
    ("edited", "get configmap plain -o jsonpath={.data.key}"),
    ("yes", "auth can-i create pods"),
    (
        "no",
        "auth can-i create pods --as=system:serviceaccount:shop:worker || true",
    ),
    (
        "selfsubjectreviews.authentication.k8s.io",
        "auth can-i --list --as=system:serviceaccount:shop:worker",
    ),
    (
        "role.rbac.authorization.k8s.io/reconciled reconciled",
        "auth reconcile -f FILES/role.yaml",
    ),
    ("horizontalpodautoscalers", "api-resources"),
    ("apps/v1", "api-versions"),
    ("Server Version", "version"),
    ("deployment.apps/applied created", "apply -f FILES/objects.yaml"),
    ("deployment.apps/applied unchanged", "apply -f FILES/objects.yaml"),
    ("dry run", "apply -f FILES/objects.yaml --dry-run=server"),
    ("dry run", "apply -f FILES/objects.yaml --dry-run=client"),
    ("colour: red", "apply view-last-applied configmap/settings"),
    ("configmap/settings", "apply set-last-applied -f FILES/objects.yaml"),
    ("+  colour: blue", "diff -f FILES/changed.yaml || true"),
    (
        "serverside-applied",
        "apply --server-side --force-conflicts -f FILES/objects.yaml",
    ),
    ("configmap/settings configured", "apply -f FILES/changed.yaml"),
    ("replaced", "replace -f FILES/changed.yaml"),
    ("replaced", "replace --force -f FILES/objects.yaml"),
    ("deleted", "delete -f FILES/changed.yaml"),
    ("name: generated", "kustomize FILES/kustomized"),
    ("configmap/generated created", "apply -k FILES/kustomized"),
    ("configmap/generated unchanged", "apply -k FILES/kustomized"),
    ("nobody cordoned", "cordon nobody"),
    ("nobody uncordoned", "uncordon nobody"),
    ("nobody tainted", "taint nodes nobody dedicated=x:NoSchedule"),
    ("nobody drained", "drain nobody --ignore-daemonsets --force"),
    ("LAST SEEN", "get events"),
    ("asked approved", "certificate approve asked"),
    ("Metrics API not available", "top nodes || true"),
    ("\"kind\": \"PodList\"", "cluster-info dump"),
    (
        "condition met",
        "wait --for=condition=Approved certificatesigningrequest/asked",
    ),
    ("namespace \"gone\" deleted", "delete namespace gone"),
    ("livez check passed", "get --raw /livez?verbose"),
    ("_kubectl", "completion bash"),
];

/// Commands that Debian's old kubectl does not have, or speaks in versions that Kubernetes has dropped.
const SINCE_1_24: &[(&str, &str)] = &[
    (
        "cronjob.batch/often created",
        "create cronjob often --image=busybox --schedule=@hourly -- true",
    ),
    ("job.batch/now created", "create job now --from=cronjob/often"),
    (
        "poddisruptionbudget.policy/steady created",
        "create poddisruptionbudget steady --selector=app=web --min-available=1",
    ),
    ("ey", "create token worker"),
    (
        "condition met",
        "wait --for=jsonpath={.data.key}=edited configmap/plain",
    ),
    ("ScalingReplicaSet", "events"),
    (
        "Creating debugging pod node-debugger-nobody",
        "debug node/nobody --image=busybox --profile=general",
    ),
    ("kubernetes-admin", "auth whoami"),
];

fn kubectl(server: &Server, files: &str, command: &str) -> Result<String> {
    let (command, may_fail) = match command.strip_suffix(" || true") {
        Some(command) => (command, true),
        None => (command, false),
    };
    let output = Command::new("timeout")
        .args(["60", "kubectl"])
        .args(command.replace("FILES", files).split_whitespace())
        .env("KUBECONFIG", server.kubeconfig())
        .env("KUBE_EDITOR", "sed -i s/value/edited/")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() || may_fail, "{}: {text}", output.status);
    Ok(text)
}

/// The client's minor version; `None` where there is no kubectl.
fn minor() -> Result<Option<u32>> {
    let Ok(output) = Command::new("kubectl")
        .args(["version", "--client", "-o", "json"])
        .output()
    else {
        return Ok(None);
    };
    let version: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default();
    Ok(Some(minor.trim_end_matches('+').parse()?))
}

#[test]
fn kubectl_runs_every_command() -> Result<()> {
    let Some(minor) = minor()? else {
        println!("skipped: kubectl is not installed");
        return Ok(());
    };
    let server = Server::bare()?;
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl");
    let newer = if minor >= 24 { SINCE_1_24 } else { &[] };
    let mut failures = Vec::new();
    for (expected, command) in COMMANDS.iter().chain(newer) {
        match kubectl(&server, &files.to_string_lossy(), command) {
            Ok(text) if text.contains(expected) => {}
            Ok(text) => failures.push(format!("kubectl {command}: no {expected:?} in\n{text}")),
            Err(error) => failures.push(format!("kubectl {command}: {error:#}")),
        }
    }
    let (count, list) = (failures.len(), failures.join("\n"));
    ensure!(
        failures.is_empty(),
        "kubectl 1.{minor}: {count} commands failed\n{list}"
    );
    Ok(())
}

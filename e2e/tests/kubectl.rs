//! An unmodified kubectl runs every one of its commands against a server without nodes. Those that talk to a container
//! (`logs`, `exec`, `attach`, `cp`, `port-forward`) are in `cli.rs` and `cluster.rs`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use coxswain_e2e::Server;
use coxswain_e2e::script::{Step, kubectl_minor, play};

const COMMANDS: &[Step] = &[
    ("node/nobody created", "create -f FILES/cluster.yaml"),
    ("namespace/shop created", "create namespace shop"),
    ("namespace/gone created", "create ns gone"),
    ("\"coxswain\" modified", "config set-context --current --namespace=shop"),
    ("shop", "config view --minify -o jsonpath={..namespace}"),
    ("coxswain", "config current-context"),
    ("coxswain", "config get-contexts"),
    ("coxswain", "config get-clusters"),
    ("admin", "config get-users"),
    ("set", "config set preferences.colors true"),
    ("unset", "config unset preferences.colors"),
    ("Switched", "config use-context coxswain"),
    ("The following options can be passed to any command", "options"),
    ("unable to find any kubectl plugins", "! plugin list"),
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
        "secret/paired created",
        "create secret tls paired --cert=FILES/tls.crt --key=FILES/tls.key",
    ),
    ("already exists", "! create secret generic hidden"),
    (
        "must consist of lower case alphanumeric characters",
        "! create configmap Shouted",
    ),
    (
        "namespaces \"nowhere\" not found",
        "! create quota most --hard=pods=100 --namespace=nowhere",
    ),
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
    ("NAME|DESIRED", "get replicasets -o wide --show-labels"),
    (
        "web",
        "get deployments -A --chunk-size=1 --sort-by=.metadata.creationTimestamp",
    ),
    ("web|0/2", "get deployment web -w --request-timeout=1s"),
    (
        "field label not supported: nosuch",
        "! get pods --field-selector=nosuch=x",
    ),
    ("expected: identifier after ','", "! get pods -l a=x,=b"),
    ("the server doesn't have a resource type \"nosuch\"", "! get nosuch"),
    ("pods \"nosuch\" not found", "! get pod nosuch"),
    (
        "cannot list resource \"pods\" in API group \"\" in the namespace \"shop\"",
        "! get pods --as=u",
    ),
    (
        "the server could not find the requested resource",
        "! get --raw /nosuch",
    ),
    (
        "ComponentStatus is deprecated|controller-manager|etcd-0|scheduler|Healthy",
        "get componentstatuses",
    ),
    ("Component not found: nosuch", "! get cs nosuch"),
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
    (
        "\"map[data:map[s:1]]\": cannot convert int64 to string",
        "! patch configmap plain -p {\"data\":{\"s\":1}}",
    ),
    (
        "cannot unmarshal number into Go struct field ConfigMap.data of type string",
        "! patch configmap plain --type=merge -p {\"data\":{\"s\":1}}",
    ),
    ("edited", "edit configmap plain"),
    ("edited", "get configmap plain -o jsonpath={.data.key}"),
    ("yes", "auth can-i create pods"),
    ("no", "! auth can-i create pods --as=system:serviceaccount:shop:worker"),
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
    ("edited", "apply edit-last-applied configmap/settings"),
    (
        "configmap/settings configured",
        "apply set-last-applied -f FILES/objects.yaml",
    ),
    ("+  colour: blue", "! diff -f FILES/changed.yaml"),
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
    ("refused created", "create -f FILES/refused.yaml"),
    ("refused denied", "certificate deny refused"),
    ("Denied", "get csr refused"),
    ("Metrics API not available", "! top nodes"),
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
const SINCE_1_31: &[Step] = &[
    // Debian's old kubectl falls over this one by itself.
    ("set", "config set-credentials other --token=t"),
    ("created", "config set-context other --cluster=coxswain --user=other"),
    ("renamed", "config rename-context other another"),
    ("Unauthorized|You must be logged in", "! get pods --context=another"),
    ("deleted context another", "config delete-context another"),
    ("deleted user other", "config delete-user other"),
    ("replicas", "explain deployment.spec --output=plaintext-openapiv2"),
    (
        "Unable to remove nonexistent key: nosuch",
        "! patch configmap plain --type=json -p [{\"op\":\"remove\",\"path\":\"/data/nosuch\"}]",
    ),
    ("autoscaling/v1", "get deployment web --subresource=scale -o yaml"),
    (
        "scale.autoscaling/web patched",
        "patch deployment web --subresource=scale --type=merge -p {\"spec\":{\"replicas\":2}}",
    ),
    (
        "patched",
        "patch node nobody --subresource=status -p {\"status\":{\"capacity\":{\"example.com/x\":\"3\"}}}",
    ),
    (
        "unknown field \"spec.replica\"|unknown field \"spec.template.spec.containers[0].ports[0].containerport\"",
        "! create -f FILES/misspelt.yaml --validate=strict",
    ),
    (
        "Warning: unknown field \"spec.replica\"|containerPort: Required value",
        "! create -f FILES/misspelt.yaml --validate=warn",
    ),
    (
        "couldn't get version/kind; json parse error: invalid character '-' in numeric literal",
        "! create --raw /api/v1/namespaces/shop/configmaps -f FILES/dashes.yaml",
    ),
    ("serverside-applied", "apply --server-side -f FILES/objects.yaml"),
    (
        "Apply failed with 1 conflict: conflict with \"kubectl\": .data.colour",
        "! apply --server-side --field-manager=other -f FILES/changed.yaml",
    ),
    (
        "configmap/settings serverside-applied (server dry run)",
        "apply --server-side --force-conflicts --dry-run=server --field-manager=other -f FILES/changed.yaml",
    ),
    (
        "configmap/settings",
        "apply --prune --applyset=members -n shop -f FILES/objects.yaml",
    ),
    (
        "configmap/settings pruned",
        "apply --prune --applyset=members -n shop -f FILES/part.yaml",
    ),
    (
        "timed out waiting for the condition",
        "! wait --for=create configmap/nosuch --timeout=1s",
    ),
    ("", "wait --for=delete configmap/nosuch --timeout=1s"),
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

#[test]
fn kubectl_runs_every_command() -> Result<()> {
    let Some(minor) = kubectl_minor()? else {
        println!("skipped: kubectl is not installed");
        return Ok(());
    };
    let server = Server::bare()?;
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl");
    let kubectl = || {
        let mut command = Command::new("timeout");
        command
            .args(["60", "kubectl"])
            .env("KUBECONFIG", server.kubeconfig())
            .env("KUBE_EDITOR", "sed -i -e s/value/edited/ -e s/red/redder/")
            .env("KUBECTL_APPLYSET", "true");
        command
    };
    let newer = if minor >= 31 { SINCE_1_31 } else { &[] };
    play(&kubectl, &files, &[COMMANDS, newer].concat()).with_context(|| format!("kubectl 1.{minor}"))
}

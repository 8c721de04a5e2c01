//! One valid object of each kind that somebody acts on, with most of what has numbers.

use serde_json::{Value, json};

/// A valid object and where it belongs.
pub struct Base {
    pub collection: &'static str,
    pub type_name: &'static str,
    pub object: Value,
}

impl Base {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }
}

fn template(app: &str, restart: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {
            "restartPolicy": restart,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1m"}}}],
        },
    })
}

fn workload(app: &str, spec: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": app},
        "spec": {"selector": {"matchLabels": {"app": app}}, "template": template(app, "Always")},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        object["spec"][field] = value.clone();
    }
    object
}

/// A Job with one pod.
pub fn job(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"template": template(name, "Never")}})
}

macro_rules! bases {
    ($($collection:literal $type_name:literal $object:expr;)*) => {
        /// The kinds that are tried.
        pub fn bases() -> Vec<Base> {
            vec![$(Base { collection: $collection, type_name: $type_name, object: $object }),*]
        }
    };
}

bases! {
    "/apis/batch/v1/namespaces/extremes/jobs" "io.k8s.api.batch.v1.Job" job("job");
    "/apis/batch/v1/namespaces/extremes/jobs" "io.k8s.api.batch.v1.Job" {
        let mut indexed = job("indexed");
        indexed["spec"]["completionMode"] = json!("Indexed");
        indexed["spec"]["completions"] = json!(2);
        indexed["spec"]["backoffLimitPerIndex"] = json!(1);
        indexed
    };
    "/apis/batch/v1/namespaces/extremes/cronjobs" "io.k8s.api.batch.v1.CronJob" json!({
        "metadata": {"name": "cron"},
        "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template("cron", "Never")}}},
    });
    "/apis/apps/v1/namespaces/extremes/deployments" "io.k8s.api.apps.v1.Deployment"
        workload("deployment", json!({"replicas": 1, "strategy": {"rollingUpdate": {"maxSurge": 1}}}));
    "/apis/apps/v1/namespaces/extremes/replicasets" "io.k8s.api.apps.v1.ReplicaSet"
        workload("replicaset", json!({"replicas": 1}));
    "/apis/apps/v1/namespaces/extremes/statefulsets" "io.k8s.api.apps.v1.StatefulSet"
        workload("statefulset", json!({"replicas": 1, "serviceName": "s"}));
    "/apis/apps/v1/namespaces/extremes/statefulsets" "io.k8s.api.apps.v1.StatefulSet"
        workload("parallel", json!({"replicas": 1, "serviceName": "s", "podManagementPolicy": "Parallel"}));
    "/apis/apps/v1/namespaces/extremes/daemonsets" "io.k8s.api.apps.v1.DaemonSet" workload("daemonset", json!({}));
    "/api/v1/namespaces/extremes/replicationcontrollers" "io.k8s.api.core.v1.ReplicationController" json!({
        "metadata": {"name": "controller"},
        "spec": {"replicas": 1, "selector": {"app": "controller"}, "template": template("controller", "Always")},
    });
    "/api/v1/namespaces/extreme-pods/pods" "io.k8s.api.core.v1.Pod" {
        let mut pod = template("pod", "Always");
        pod["metadata"]["name"] = json!("pod");
        pod["spec"]["tolerations"] = json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]);
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80}]);
        pod["spec"]["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80}});
        pod["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "pod"}},
        }]);
        pod["spec"]["affinity"] = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}},
        ]}});
        pod
    };
    "/api/v1/namespaces/extreme-pods/services" "io.k8s.api.core.v1.Service" json!({
        "metadata": {"name": "service"}, "spec": {"selector": {"app": "pod"}, "ports": [{"port": 80}]},
    });
    "/api/v1/namespaces/extreme-pods/endpoints" "io.k8s.api.core.v1.Endpoints" json!({
        "metadata": {"name": "endpoints"},
        "subsets": [{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 80}]}],
    });
    "/apis/discovery.k8s.io/v1/namespaces/extreme-pods/endpointslices" "io.k8s.api.discovery.v1.EndpointSlice" json!({
        "metadata": {"name": "slice", "labels": {"kubernetes.io/service-name": "service"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.1.2.3"]}], "ports": [{"name": "", "port": 80}],
    });
    "/apis/policy/v1/namespaces/extreme-pods/poddisruptionbudgets" "io.k8s.api.policy.v1.PodDisruptionBudget" json!({
        "metadata": {"name": "budget"}, "spec": {"selector": {"matchLabels": {"app": "pod"}}},
    });
    "/apis/autoscaling/v2/namespaces/extremes/horizontalpodautoscalers"
        "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler" json!({
        "metadata": {"name": "scaler"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "deployment"},
            "maxReplicas": 2,
            "metrics": [{"type": "Resource", "resource": {
                "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50},
            }}],
        },
    });
    "/api/v1/namespaces/extreme-pods/resourcequotas" "io.k8s.api.core.v1.ResourceQuota" json!({
        "metadata": {"name": "quota"}, "spec": {"hard": {"count/secrets": "10"}},
    });
    "/api/v1/namespaces/extremes/limitranges" "io.k8s.api.core.v1.LimitRange" json!({
        "metadata": {"name": "limits"}, "spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]},
    });
    "/api/v1/nodes" "io.k8s.api.core.v1.Node" json!({
        "metadata": {"name": "node"}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
    });
    "/api/v1/namespaces" "io.k8s.api.core.v1.Namespace" json!({"metadata": {"name": "extreme"}});
    "/api/v1/namespaces/extremes/persistentvolumeclaims" "io.k8s.api.core.v1.PersistentVolumeClaim" json!({
        "metadata": {"name": "claim"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    "/api/v1/persistentvolumes" "io.k8s.api.core.v1.PersistentVolume" json!({
        "metadata": {"name": "volume"},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/x"}},
    });
    "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases" "io.k8s.api.coordination.v1.Lease" json!({
        "metadata": {"name": "node"}, "spec": {"holderIdentity": "node", "leaseDurationSeconds": 40},
    });
    "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases" "io.k8s.api.coordination.v1.Lease" json!({
        "metadata": {"name": "apiserver-other", "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"}},
        "spec": {"holderIdentity": "other", "leaseDurationSeconds": 40},
    });
    "/api/v1/namespaces/extremes/events" "io.k8s.api.core.v1.Event" json!({
        "metadata": {"name": "event"}, "involvedObject": {"namespace": "extremes"}, "reason": "r", "message": "m",
    });
    "/apis/scheduling.k8s.io/v1/priorityclasses" "io.k8s.api.scheduling.v1.PriorityClass" json!({
        "metadata": {"name": "class"}, "value": 1,
    });
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas" "io.k8s.api.flowcontrol.v1.FlowSchema" json!({
        "metadata": {"name": "schema"},
        "spec": {"matchingPrecedence": 5000, "priorityLevelConfiguration": {"name": "workload-low"}, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "nobody"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}],
        }]},
    });
    "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations"
        "io.k8s.api.flowcontrol.v1.PriorityLevelConfiguration" json!({
        "metadata": {"name": "level"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {
            "type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 5},
        }}},
    });
    "/api/v1/namespaces/extremes/secrets" "io.k8s.api.core.v1.Secret" json!({
        "metadata": {"name": "secret"}, "type": "Opaque",
    });
    "/apis/networking.k8s.io/v1/namespaces/extremes/networkpolicies" "io.k8s.api.networking.v1.NetworkPolicy" json!({
        "metadata": {"name": "policy"}, "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]},
    });
    "/apis/networking.k8s.io/v1/namespaces/extremes/ingresses" "io.k8s.api.networking.v1.Ingress" json!({
        "metadata": {"name": "ingress"},
        "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}},
    });
    "/apis/storage.k8s.io/v1/csidrivers" "io.k8s.api.storage.v1.CSIDriver" json!({
        "metadata": {"name": "driver"}, "spec": {"tokenRequests": [{"audience": "a"}]},
    });
    "/apis/storage.k8s.io/v1/csinodes" "io.k8s.api.storage.v1.CSINode" json!({
        "metadata": {"name": "csi-node"}, "spec": {"drivers": [{"name": "d", "nodeID": "n"}]},
    });
}

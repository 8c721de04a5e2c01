//! Pages as kubectl prints them.

use jiff::Timestamp;
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().expect("a time")
}

#[test]
fn a_pod() {
    let object = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"app": "web", "tier": "x"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": true}]},
        "spec": {"nodeName": "n", "priority": 0, "serviceAccountName": "default",
            "containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "env": [{"name": "A", "value": "1"}, {"name": "S", "valueFrom": {"secretKeyRef": {"name": "db", "key": "pw"}}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]},
        "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}], "hostIP": "192.168.0.1", "qosClass": "Burstable",
            "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "containerID": "containerd://1", "imageID": "sha256:2", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}}]}});
    let events = vec![
        json!({"type": "Normal", "reason": "Started", "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z",
        "count": 1, "source": {"component": "kubelet"}, "message": "Container started"}),
    ];
    let found = page(
        &object,
        &Around {
            events: Some(events),
            ..Around::default()
        },
        now(),
    );
    let expected = "\
Name:             web-1
Namespace:        default
Priority:         0
Service Account:  default
Node:             n/192.168.0.1
Start Time:       Thu, 01 Jan 2026 00:00:00 +0000
Labels:           app=web
                  tier=x
Annotations:      <none>
Status:           Running
IP:               10.0.0.1
IPs:
  IP:           10.0.0.1
Controlled By:  ReplicaSet/web
Containers:
  c:
    Container ID:   containerd://1
    Image:          nginx
    Image ID:       sha256:2
    Port:           80/TCP
    Host Port:      0/TCP
    State:          Running
      Started:      Thu, 01 Jan 2026 00:00:01 +0000
    Ready:          True
    Restart Count:  0
    Limits:
      cpu:      1
    Readiness:  http-get http://:80/ delay=0s timeout=1s period=10s #success=1 #failure=3
    Environment:
      A:  1
      S:  <set to the key 'pw' in secret 'db'>  Optional: false
    Mounts:
      /v from v (ro)
Conditions:
  Type    Status
  Ready   True 
Volumes:
  v:
    Type:        EmptyDir (a temporary directory that shares a pod's lifetime)
    Medium:      
    SizeLimit:   <unset>
QoS Class:       Burstable
Node-Selectors:  <none>
Tolerations:     node.kubernetes.io/not-ready:NoExecute op=Exists for 300s
Events:
  Type    Reason   Age   From     Message
  ----    ------   ----  ----     -------
  Normal  Started  10m   kubelet  Container started
";
    assert_eq!(
        found.lines().map(str::trim_end).collect::<Vec<_>>(),
        expected.lines().map(str::trim_end).collect::<Vec<_>>(),
        "{found}"
    );
}

#[test]
fn a_service() {
    let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "d"},
        "spec": {"type": "ClusterIP", "selector": {"app": "x"}, "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}});
    let slices = vec![json!({"ports": [{"name": "", "port": 8080}], "endpoints": [
        {"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}]})];
    let found = page(
        &object,
        &Around {
            related: slices,
            events: Some(Vec::new()),
            ..Around::default()
        },
        now(),
    );
    for line in [
        "Port:                     <unset>  80/TCP",
        "TargetPort:               8080/TCP",
        "Endpoints:                10.0.0.1:8080",
        "Events:                   <none>",
    ] {
        assert!(found.contains(line), "{line}\n{found}");
    }
}

#[test]
fn a_deployment_names_its_sets() {
    let set = |name: &str, revision: &str| {
        json!({"metadata": {"name": name, "annotations": {"deployment.kubernetes.io/revision": revision}},
        "spec": {"replicas": 2}, "status": {"replicas": 2}})
    };
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2,
            "conditions": [{"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"}]}});
    let found = page(
        &object,
        &Around {
            related: vec![set("d-1", "1"), set("d-2", "2")],
            ..Around::default()
        },
        now(),
    );
    for line in [
        "Replicas:               2 desired | 2 updated | 2 total | 2 available | 0 unavailable",
        "RollingUpdateStrategy:  25% max unavailable, 25% max surge",
        "OldReplicaSets:  d-1 (2/2 replicas created)",
        "NewReplicaSet:   d-2 (2/2 replicas created)",
        "   c:\n    Image:",
    ] {
        assert!(found.contains(line), "{line}\n{found}");
    }
}

#[test]
fn pages_of_kinds() {
    let check = |object: Value, around: Around, expected: &str| assert_eq!(page(&object, &around, now()), expected);
    let meta = json!({"name": "x", "namespace": "n"});
    check(
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": meta,
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}, "status": {"disruptionsAllowed": 1, "currentHealthy": 2}}),
        Around {
            events: Some(Vec::new()),
            ..Around::default()
        },
        "Name:           x\nNamespace:      n\nMin available:  1\nSelector:       app=web\nStatus:\n    Allowed disruptions:  1\n    Current:              2\n    Desired:              0\n    Total:                0\nEvents:                   <none>\n",
    );
    check(
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": meta,
            "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "200m"}}]}}),
        Around::default(),
        "Name:       x\nNamespace:  n\nType        Resource  Min  Max  Default Request  Default Limit  Max Limit/Request Ratio\n----        --------  ---  ---  ---------------  -------------  -----------------------\nContainer   cpu       -    1    -                200m           -\n",
    );
    check(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x", "namespace": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], "policyTypes": ["Ingress"]}}),
        Around::default(),
        "Name:         x\nNamespace:    n\nCreated on:   2026-01-01 00:00:00 +0000 UTC\nLabels:       <none>\nAnnotations:  <none>\nSpec:\n  PodSelector:     <none> (Allowing the specific traffic to all pods in this namespace)\n  Allowing ingress traffic:\n    To Port: <any> (traffic allowed to all ports)\n    From:\n      IPBlock:\n        CIDR: 10.0.0.0/8\n        Except: \n  Not affecting egress traffic\n  Policy Types: Ingress\n",
    );
    let slices = vec![
        json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": ["10.0.0.1"]}]}),
    ];
    let services = vec![json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}]}})];
    check(
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta, "spec": {"rules": [{"host": "a.b", "http": {"paths": [
            {"path": "/", "backend": {"service": {"name": "web", "port": {"number": 80}}}},
            {"path": "/x", "backend": {"service": {"name": "gone", "port": {"name": "p"}}}}]}}]}}),
        Around {
            related: slices,
            more: services,
            events: None,
        },
        "Name:             x\nLabels:           <none>\nNamespace:        n\nAddress:          \nIngress Class:    <none>\nDefault backend:  <default>\nRules:\n  Host        Path  Backends\n  ----        ----  --------\n  a.b         \n              /    web:80 (10.0.0.1:8080)\n              /x   gone:p (<error: services \"gone\" not found>)\nAnnotations:  <none>\n",
    );
    check(
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta,
            "spec": {"volumeName": "pv", "volumeMode": "Filesystem"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
        Around {
            related: vec![
                json!({"metadata": {"name": "p"}, "spec": {"volumes": [{"persistentVolumeClaim": {"claimName": "x"}}]}}),
            ],
            ..Around::default()
        },
        "Name:          x\nNamespace:     n\nStorageClass:  \nStatus:        Bound\nVolume:        pv\nLabels:        <none>\nAnnotations:   <none>\nFinalizers:    []\nCapacity:      1Gi\nAccess Modes:  RWO\nVolumeMode:    Filesystem\nUsed By:       p\n",
    );
}

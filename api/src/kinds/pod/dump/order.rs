//! The fields of the unversioned structs, in the order in which they are declared.

/// Stands for the members of the object's metadata, which print without a name of their own.
pub(super) const METADATA: &str = "ObjectMeta";

/// Members of a pod's spec that its unversioned form keeps in the security context.
pub(super) const HOISTED: &[&str] = &[
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "shareProcessNamespace",
    "hostUsers",
];

/// Names of a core type's fields, shown and on the wire. `None` for types of other packages.
pub(super) fn of(type_name: &str) -> Option<Vec<(&'static str, String)>> {
    let short = type_name.strip_prefix("io.k8s.api.core.v1.")?;
    let (_, fields) = TYPES.iter().find(|(name, _)| *name == short)?;
    Some(
        fields
            .split_ascii_whitespace()
            .map(|entry| match entry.split_once('=') {
                Some((shown, wire)) => (shown, wire.to_owned()),
                None => (entry, wire_name(entry)),
            })
            .collect(),
    )
}

/// `HTTPGet` is `httpGet`: the first word in small letters.
fn wire_name(shown: &str) -> String {
    let capitals = shown.chars().take_while(char::is_ascii_uppercase).count();
    let small = if capitals == shown.len() {
        capitals
    } else {
        capitals.saturating_sub(1).max(1)
    };
    shown
        .char_indices()
        .map(|(i, c)| if i < small { c.to_ascii_lowercase() } else { c })
        .collect()
}

/// Type, and its fields as `Shown` or `Shown=wire` where the rule does not hold.
const TYPES: &[(&str, &str)] = &[
    ("AWSElasticBlockStoreVolumeSource", "VolumeID FSType Partition ReadOnly"),
    ("Affinity", "NodeAffinity PodAffinity PodAntiAffinity"),
    ("AppArmorProfile", "Type LocalhostProfile"),
    (
        "AzureDiskVolumeSource",
        "DiskName DataDiskURI=diskURI CachingMode FSType ReadOnly Kind",
    ),
    ("AzureFileVolumeSource", "SecretName ShareName ReadOnly"),
    (
        "AzureFilePersistentVolumeSource",
        "SecretName ShareName ReadOnly SecretNamespace",
    ),
    (
        "CSIPersistentVolumeSource",
        "Driver VolumeHandle ReadOnly FSType VolumeAttributes ControllerPublishSecretRef NodeStageSecretRef NodePublishSecretRef ControllerExpandSecretRef NodeExpandSecretRef",
    ),
    (
        "CSIVolumeSource",
        "Driver ReadOnly FSType VolumeAttributes NodePublishSecretRef",
    ),
    ("Capabilities", "Add Drop"),
    (
        "CephFSPersistentVolumeSource",
        "Monitors Path User SecretFile SecretRef ReadOnly",
    ),
    ("CephFSVolumeSource", "Monitors Path User SecretFile SecretRef ReadOnly"),
    ("CinderPersistentVolumeSource", "VolumeID FSType ReadOnly SecretRef"),
    ("CinderVolumeSource", "VolumeID FSType ReadOnly SecretRef"),
    (
        "ClusterTrustBundleProjection",
        "Name SignerName LabelSelector Optional Path",
    ),
    ("ConfigMapEnvSource", "Name Optional"),
    ("ConfigMapKeySelector", "Name Key Optional"),
    ("ConfigMapProjection", "Name Items Optional"),
    ("ConfigMapVolumeSource", "Name Items DefaultMode Optional"),
    (
        "Container",
        "Name Image Command Args WorkingDir Ports EnvFrom Env Resources ResizePolicy RestartPolicy RestartPolicyRules VolumeMounts VolumeDevices LivenessProbe ReadinessProbe StartupProbe Lifecycle TerminationMessagePath TerminationMessagePolicy ImagePullPolicy SecurityContext Stdin StdinOnce TTY",
    ),
    ("ContainerPort", "Name HostPort ContainerPort Protocol HostIP"),
    ("ContainerResizePolicy", "ResourceName RestartPolicy"),
    ("ContainerRestartRule", "Action ExitCodes"),
    ("ContainerRestartRuleOnExitCodes", "Operator Values"),
    ("DownwardAPIProjection", "Items"),
    ("DownwardAPIVolumeFile", "Path FieldRef ResourceFieldRef Mode"),
    ("DownwardAPIVolumeSource", "Items DefaultMode"),
    ("EmptyDirVolumeSource", "Medium SizeLimit"),
    ("EnvFromSource", "Prefix ConfigMapRef SecretRef"),
    ("EnvVar", "Name Value ValueFrom"),
    (
        "EnvVarSource",
        "FieldRef ResourceFieldRef ConfigMapKeyRef SecretKeyRef FileKeyRef",
    ),
    (
        "EphemeralContainer",
        "Name Image Command Args WorkingDir Ports EnvFrom Env Resources ResizePolicy RestartPolicy RestartPolicyRules VolumeMounts VolumeDevices LivenessProbe ReadinessProbe StartupProbe Lifecycle TerminationMessagePath TerminationMessagePolicy ImagePullPolicy SecurityContext Stdin StdinOnce TTY TargetContainerName",
    ),
    ("EphemeralVolumeSource", "VolumeClaimTemplate"),
    ("ExecAction", "Command"),
    ("FCVolumeSource", "TargetWWNs Lun FSType ReadOnly WWIDs=wwids"),
    ("FileKeySelector", "VolumeName Path Key Optional"),
    ("FlexPersistentVolumeSource", "Driver FSType SecretRef ReadOnly Options"),
    ("FlexVolumeSource", "Driver FSType SecretRef ReadOnly Options"),
    ("FlockerVolumeSource", "DatasetName DatasetUUID"),
    ("GCEPersistentDiskVolumeSource", "PDName FSType Partition ReadOnly"),
    ("GRPCAction", "Port Service"),
    ("GitRepoVolumeSource", "Repository Revision Directory"),
    (
        "GlusterfsPersistentVolumeSource",
        "EndpointsName=endpoints Path ReadOnly EndpointsNamespace",
    ),
    ("GlusterfsVolumeSource", "EndpointsName=endpoints Path ReadOnly"),
    ("HTTPGetAction", "Path Port Host Scheme HTTPHeaders"),
    ("HTTPHeader", "Name Value"),
    ("HostAlias", "IP Hostnames"),
    ("HostPathVolumeSource", "Path Type"),
    (
        "ISCSIPersistentVolumeSource",
        "TargetPortal IQN Lun ISCSIInterface FSType ReadOnly Portals DiscoveryCHAPAuth=chapAuthDiscovery SessionCHAPAuth=chapAuthSession SecretRef InitiatorName",
    ),
    (
        "ISCSIVolumeSource",
        "TargetPortal IQN Lun ISCSIInterface FSType ReadOnly Portals DiscoveryCHAPAuth=chapAuthDiscovery SessionCHAPAuth=chapAuthSession SecretRef InitiatorName",
    ),
    ("ImageVolumeSource", "Reference PullPolicy"),
    ("KeyToPath", "Key Path Mode"),
    ("Lifecycle", "PostStart PreStop StopSignal"),
    ("LifecycleHandler", "Exec HTTPGet TCPSocket Sleep"),
    ("LocalObjectReference", "Name"),
    ("LocalVolumeSource", "Path FSType"),
    ("NFSVolumeSource", "Server Path ReadOnly"),
    (
        "NodeAffinity",
        "RequiredDuringSchedulingIgnoredDuringExecution PreferredDuringSchedulingIgnoredDuringExecution",
    ),
    ("NodeSelector", "NodeSelectorTerms"),
    ("NodeSelectorRequirement", "Key Operator Values"),
    ("NodeSelectorTerm", "MatchExpressions MatchFields"),
    ("ObjectFieldSelector", "APIVersion FieldPath"),
    (
        "ObjectReference",
        "Kind Namespace Name UID APIVersion ResourceVersion FieldPath",
    ),
    (
        "PersistentVolumeClaimSpec",
        "AccessModes Selector Resources VolumeName StorageClassName VolumeMode DataSource DataSourceRef VolumeAttributesClassName",
    ),
    ("PersistentVolumeClaimTemplate", "ObjectMeta=metadata Spec"),
    ("PersistentVolumeClaimVolumeSource", "ClaimName ReadOnly"),
    // Its sources only: they are a struct of their own.
    (
        "PersistentVolumeSpec",
        "GCEPersistentDisk AWSElasticBlockStore HostPath Glusterfs NFS RBD Quobyte ISCSI FlexVolume Cinder CephFS=cephfs FC Flocker AzureFile VsphereVolume AzureDisk PhotonPersistentDisk PortworxVolume ScaleIO Local StorageOS=storageos CSI",
    ),
    ("PhotonPersistentDiskVolumeSource", "PdID FSType"),
    (
        "PodAffinity",
        "RequiredDuringSchedulingIgnoredDuringExecution PreferredDuringSchedulingIgnoredDuringExecution",
    ),
    (
        "PodAffinityTerm",
        "LabelSelector Namespaces TopologyKey NamespaceSelector MatchLabelKeys MismatchLabelKeys",
    ),
    (
        "PodAntiAffinity",
        "RequiredDuringSchedulingIgnoredDuringExecution PreferredDuringSchedulingIgnoredDuringExecution",
    ),
    (
        "PodCertificateProjection",
        "SignerName KeyType MaxExpirationSeconds CredentialBundlePath KeyPath CertificateChainPath UserAnnotations",
    ),
    ("PodDNSConfig", "Nameservers Searches Options"),
    ("PodDNSConfigOption", "Name Value"),
    ("PodOS", "Name"),
    ("PodReadinessGate", "ConditionType"),
    ("PodResourceClaim", "Name ResourceClaimName ResourceClaimTemplateName"),
    ("PodSchedulingGate", "Name"),
    ("PodSchedulingGroup", "PodGroupName"),
    (
        "PodSecurityContext",
        "HostNetwork HostPID HostIPC ShareProcessNamespace HostUsers SELinuxOptions WindowsOptions RunAsUser RunAsGroup RunAsNonRoot SupplementalGroups SupplementalGroupsPolicy FSGroup FSGroupChangePolicy Sysctls SeccompProfile AppArmorProfile SELinuxChangePolicy",
    ),
    (
        "PodSpec",
        "Volumes InitContainers Containers EphemeralContainers RestartPolicy TerminationGracePeriodSeconds ActiveDeadlineSeconds DNSPolicy NodeSelector ServiceAccountName AutomountServiceAccountToken NodeName SecurityContext ImagePullSecrets Hostname Subdomain SetHostnameAsFQDN Affinity SchedulerName Tolerations HostAliases PriorityClassName Priority PreemptionPolicy DNSConfig ReadinessGates RuntimeClassName Overhead EnableServiceLinks TopologySpreadConstraints OS SchedulingGates ResourceClaims Resources HostnameOverride SchedulingGroup",
    ),
    ("PortworxVolumeSource", "VolumeID FSType ReadOnly"),
    ("PreferredSchedulingTerm", "Weight Preference"),
    (
        "Probe",
        "Exec HTTPGet TCPSocket GRPC InitialDelaySeconds TimeoutSeconds PeriodSeconds SuccessThreshold FailureThreshold TerminationGracePeriodSeconds",
    ),
    ("ProjectedVolumeSource", "Sources DefaultMode"),
    ("QuobyteVolumeSource", "Registry Volume ReadOnly User Group Tenant"),
    (
        "RBDPersistentVolumeSource",
        "CephMonitors=monitors RBDImage=image FSType RBDPool=pool RadosUser=user Keyring SecretRef ReadOnly",
    ),
    (
        "RBDVolumeSource",
        "CephMonitors=monitors RBDImage=image FSType RBDPool=pool RadosUser=user Keyring SecretRef ReadOnly",
    ),
    ("ResourceClaim", "Name Request"),
    ("ResourceFieldSelector", "ContainerName Resource Divisor"),
    ("ResourceRequirements", "Limits Requests Claims"),
    ("SELinuxOptions", "User Role Type Level"),
    (
        "ScaleIOPersistentVolumeSource",
        "Gateway System SecretRef SSLEnabled ProtectionDomain StoragePool StorageMode VolumeName FSType ReadOnly",
    ),
    (
        "ScaleIOVolumeSource",
        "Gateway System SecretRef SSLEnabled ProtectionDomain StoragePool StorageMode VolumeName FSType ReadOnly",
    ),
    ("SeccompProfile", "Type LocalhostProfile"),
    ("SecretEnvSource", "Name Optional"),
    ("SecretKeySelector", "Name Key Optional"),
    ("SecretProjection", "Name Items Optional"),
    ("SecretReference", "Name Namespace"),
    ("SecretVolumeSource", "SecretName Items DefaultMode Optional"),
    (
        "SecurityContext",
        "Capabilities Privileged SELinuxOptions WindowsOptions RunAsUser RunAsGroup RunAsNonRoot ReadOnlyRootFilesystem AllowPrivilegeEscalation ProcMount SeccompProfile AppArmorProfile",
    ),
    ("ServiceAccountTokenProjection", "Audience ExpirationSeconds Path"),
    ("SleepAction", "Seconds"),
    (
        "StorageOSPersistentVolumeSource",
        "VolumeName VolumeNamespace FSType ReadOnly SecretRef",
    ),
    (
        "StorageOSVolumeSource",
        "VolumeName VolumeNamespace FSType ReadOnly SecretRef",
    ),
    ("Sysctl", "Name Value"),
    ("TCPSocketAction", "Port Host"),
    ("Toleration", "Key Operator Value Effect TolerationSeconds"),
    (
        "TopologySpreadConstraint",
        "MaxSkew TopologyKey WhenUnsatisfiable LabelSelector MinDomains NodeAffinityPolicy NodeTaintsPolicy MatchLabelKeys",
    ),
    ("TypedLocalObjectReference", "APIGroup Kind Name"),
    ("TypedObjectReference", "APIGroup Kind Name Namespace"),
    (
        "Volume",
        "Name HostPath EmptyDir GCEPersistentDisk AWSElasticBlockStore GitRepo Secret NFS ISCSI Glusterfs PersistentVolumeClaim RBD Quobyte FlexVolume Cinder CephFS=cephfs Flocker DownwardAPI FC AzureFile ConfigMap VsphereVolume AzureDisk PhotonPersistentDisk Projected PortworxVolume ScaleIO StorageOS=storageos CSI Ephemeral Image",
    ),
    ("VolumeDevice", "Name DevicePath"),
    (
        "VolumeMount",
        "Name ReadOnly RecursiveReadOnly MountPath SubPath MountPropagation SubPathExpr",
    ),
    (
        "VolumeProjection",
        "Secret DownwardAPI ConfigMap ServiceAccountToken ClusterTrustBundle PodCertificate",
    ),
    ("VolumeResourceRequirements", "Limits Requests"),
    (
        "VsphereVirtualDiskVolumeSource",
        "VolumePath FSType StoragePolicyName StoragePolicyID",
    ),
    ("WeightedPodAffinityTerm", "Weight PodAffinityTerm"),
    (
        "WindowsSecurityContextOptions",
        "GMSACredentialSpecName GMSACredentialSpec RunAsUserName HostProcess",
    ),
];

//! What the machine has and is: read once at start. Plain data for the Node object.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use coxswain_api::bounded;

/// Facts about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Cores that are online.
    pub cores: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of the file system that holds pods' data.
    pub disk_bytes: i64,
    /// Bytes of huge pages by size, as `hugepages-2Mi`.
    pub hugepages: BTreeMap<String, i64>,
    /// The machine's id.
    pub machine_id: String,
    /// The firmware's id of the machine.
    pub system_uuid: String,
    /// Changes with every boot.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// The distribution's name for itself.
    pub os_image: String,
    /// Whether the kernel enforces AppArmor profiles.
    pub app_armor: bool,
    /// The kernel's directories about the heat of each processor.
    pub thermal_throttle: Vec<String>,
}

/// Memory that pods may not take.
const MEMORY_RESERVE_BYTES: i64 = 100 << 20;
/// Pods for each core, unless configured.
const PODS_PER_CORE: i64 = 20;

/// Reads the machine's facts; what cannot be read stays empty.
pub fn read(data_dir: &Path) -> Machine {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let disk_bytes = rustix::fs::statvfs(data_dir)
        .ok()
        .and_then(|stat| i64::try_from(stat.f_blocks.saturating_mul(stat.f_frsize)).ok())
        .unwrap_or(0);
    Machine {
        cores: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(i64::MAX)),
        memory_bytes: memory(&line("/proc/meminfo")),
        disk_bytes,
        hugepages: hugepages(),
        machine_id: line("/etc/machine-id"),
        system_uuid: line("/sys/class/dmi/id/product_uuid"),
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        kernel: line("/proc/sys/kernel/osrelease"),
        os_image: os_image(&line("/etc/os-release")),
        app_armor: line("/sys/module/apparmor/parameters/enabled").starts_with('Y'),
        thermal_throttle: thermal_throttle(),
    }
}

fn thermal_throttle() -> Vec<String> {
    let processors = fs::read_dir("/sys/devices/system/cpu").into_iter().flatten();
    let mut found: Vec<String> = processors
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    found.sort();
    found
}

fn memory(text: &str) -> i64 {
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<i64>().ok())
        .map_or(0, |kib| kib.saturating_mul(1024))
}

fn hugepages() -> BTreeMap<String, i64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kib) = name
            .strip_prefix("hugepages-")
            .and_then(|rest| rest.strip_suffix("kB"))
            .and_then(|n| n.parse::<i64>().ok())
        else {
            continue;
        };
        let pages = fs::read_to_string(entry.path().join("nr_hugepages"))
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok());
        let size = if kib >= 1 << 20 {
            format!("{}Gi", kib >> 20)
        } else {
            format!("{}Mi", kib >> 10)
        };
        found.insert(
            format!("hugepages-{size}"),
            pages.unwrap_or(0).saturating_mul(kib).saturating_mul(1024),
        );
    }
    found
}

fn os_image(text: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or("Linux").trim_matches('"').to_string()
}

impl Machine {
    /// The Node object's capacity.
    pub fn capacity(&self, max_pods: Option<u32>) -> BTreeMap<String, String> {
        let pods = max_pods.map_or(self.cores.saturating_mul(PODS_PER_CORE), i64::from);
        let mut map = BTreeMap::from([
            ("cpu".to_string(), self.cores.to_string()),
            ("memory".to_string(), format!("{}Ki", self.memory_bytes / 1024)),
            ("ephemeral-storage".to_string(), format!("{}Ki", self.disk_bytes / 1024)),
            ("pods".to_string(), pods.to_string()),
        ]);
        map.extend(
            self.hugepages
                .iter()
                .map(|(name, bytes)| (name.clone(), bytes.to_string())),
        );
        map
    }

    /// What of it pods may use.
    pub fn allocatable(&self, max_pods: Option<u32>) -> BTreeMap<String, String> {
        let mut map = self.capacity(max_pods);
        map.insert("memory".into(), format!("{}Ki", self.pods_memory_bytes() / 1024));
        map.insert("ephemeral-storage".into(), self.pods_disk_bytes().to_string());
        map
    }

    fn pods_memory_bytes(&self) -> i64 {
        let huge = bounded::sum(self.hugepages.values().copied());
        let kept = MEMORY_RESERVE_BYTES.saturating_add(huge);
        self.memory_bytes.saturating_sub(kept).max(0)
    }

    fn pods_disk_bytes(&self) -> i64 {
        (self.disk_bytes / 10).saturating_mul(9)
    }

    /// Allocatable amounts as numbers: cpu in thousandths, the rest in bytes.
    pub fn amounts(&self) -> BTreeMap<String, i64> {
        let memory_kib = self.pods_memory_bytes() / 1024;
        BTreeMap::from([
            ("cpu".to_string(), self.cores.saturating_mul(1000)),
            ("memory".to_string(), memory_kib.saturating_mul(1024)),
            ("ephemeral-storage".to_string(), self.pods_disk_bytes()),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_become_facts() {
        assert_eq!(memory("MemTotal:       2048 kB\nMemFree: 1 kB"), 2 << 20);
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
        let machine = Machine {
            cores: 2,
            memory_bytes: 1 << 30,
            ..Machine::default()
        };
        assert_eq!(machine.capacity(None)["pods"], "40");
        assert_eq!(machine.capacity(Some(7))["pods"], "7");
        assert_eq!(machine.allocatable(None)["memory"], format!("{}Ki", (924 << 20) / 1024));
    }
}

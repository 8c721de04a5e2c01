//! A disk in memory that behaves as badly as a real one may.
//!
//! It tells what was written from what was made durable. [`MemoryDisk::reboot`] loses power: of
//! every write since its file's last sync each 512-byte sector survives or not, on its own, and of
//! the changes of the directory since its last sync a prefix survives. A [`Fault`] makes a chosen
//! step fail, or cuts the power at it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What goes wrong, and at which step from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The power fails before this many more steps: everything from then on fails until
    /// [`MemoryDisk::reboot`].
    PowerCut(u64),
    /// One step fails with an input/output error; later steps work again, as they do on disks
    /// that lie about what became of the earlier writes.
    Error(u64),
}

/// A directory in memory. Clones see the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Directories after each change since the last sync of the directory.
    unsynced_names: Vec<BTreeMap<String, u64>>,
    files: BTreeMap<u64, Contents>,
    next_id: u64,
    /// Handles of an earlier boot are dead.
    boot: u64,
    steps: u64,
    fault: Option<Fault>,
    dead: bool,
    ignore_sync: bool,
    capacity: Option<usize>,
}

#[derive(Clone, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: std::collections::BTreeSet<usize>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// Arranges for something to go wrong; `None` takes it back.
    pub fn set_fault(&self, fault: Option<Fault>) {
        let mut inner = self.lock();
        let now = inner.steps;
        inner.fault = fault.map(|fault| match fault {
            Fault::PowerCut(after) => Fault::PowerCut(now + after),
            Fault::Error(after) => Fault::Error(now + after),
        });
    }

    /// Makes syncs of the log do nothing, to prove that the tests would notice.
    pub fn set_ignore_sync(&self, ignore: bool) {
        self.lock().ignore_sync = ignore;
    }

    /// Limits the sum of the lengths of all files; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity = bytes;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> usize {
        self.lock().used()
    }

    /// Flips bits of one byte, as a decaying disk does.
    pub fn damage(&self, name: &str, offset: usize) {
        self.alter(name, |bytes| {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 0x55;
            }
        });
    }

    /// Cuts a file off, as somebody does who restores half of it.
    pub fn cut(&self, name: &str, bytes: usize) {
        self.alter(name, |contents| contents.truncate(bytes));
    }

    /// Puts something else in a place of a file, as a disk does that loses a write or gives back an earlier one.
    pub fn replace(&self, name: &str, offset: usize, with: &[u8]) {
        self.alter(name, |bytes| {
            if let Some(place) = bytes.get_mut(offset..offset + with.len()) {
                place.copy_from_slice(with);
            }
        });
    }

    /// Changes what a file holds, now and after a loss of power.
    fn alter(&self, name: &str, change: impl Fn(&mut Vec<u8>)) {
        let mut inner = self.lock();
        let Some(id) = inner.names.get(name).copied() else {
            return;
        };
        if let Some(file) = inner.files.get_mut(&id) {
            change(&mut file.now);
            change(&mut file.durable);
        }
    }

    /// The bytes of a file as they are now.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.lock();
        let id = inner.names.get(name)?;
        inner.files.get(id).map(|file| file.now.clone())
    }

    /// Loses power and comes back; `seed` decides what survives of the writes that no sync covers.
    pub fn reboot(&self, seed: u64) {
        let mut inner = self.lock();
        let mut random = Random(seed);
        let survivors = random.below(inner.unsynced_names.len() as u64 + 1) as usize;
        inner.names = match survivors.checked_sub(1) {
            None => inner.durable_names.clone(),
            Some(last) => inner.unsynced_names[last].clone(),
        };
        inner.durable_names = inner.names.clone();
        inner.unsynced_names.clear();
        let kept: Vec<u64> = inner.names.values().copied().collect();
        inner.files.retain(|id, _| kept.contains(id));
        let mode = random.below(4);
        for file in inner.files.values_mut() {
            lose(file, &mut random, mode);
        }
        inner.fault = None;
        inner.dead = false;
        inner.boot += 1;
    }
}

/// Applies a power loss to a file: of the unsynced sectors none, all, or a random choice survives.
fn lose(file: &mut Contents, random: &mut Random, mode: u64) {
    let mut after = file.durable.clone();
    for &sector in &file.dirty {
        let survives = match mode {
            0 => false,
            1 => true,
            _ => random.below(2) == 1,
        };
        if !survives {
            continue;
        }
        let from = sector * SECTOR;
        let to = (from + SECTOR).min(file.now.len());
        if after.len() < to {
            after.resize(to, 0);
        }
        after[from..to].copy_from_slice(&file.now[from..to]);
    }
    file.now = after.clone();
    file.durable = after;
    file.dirty.clear();
}

impl Inner {
    fn used(&self) -> usize {
        self.names
            .values()
            .filter_map(|id| self.files.get(id))
            .map(|file| file.now.len())
            .sum()
    }

    /// Counts a step and fails it when it is its turn.
    fn step(&mut self) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the power is off"));
        }
        let step = self.steps;
        self.steps += 1;
        match self.fault {
            Some(Fault::PowerCut(at)) if step >= at => {
                self.dead = true;
                Err(io::Error::other("the power is off"))
            }
            Some(Fault::Error(at)) if step >= at => {
                self.fault = None;
                Err(io::Error::other("input/output error"))
            }
            _ => Ok(()),
        }
    }

    fn renamed(&mut self) {
        let names = self.names.clone();
        self.unsynced_names.push(names);
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, name.to_owned());
        self.names.get(name).copied().ok_or_else(missing)
    }
}

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.lock();
        let id = inner.find(name)?;
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            id,
            boot: inner.boot,
        }))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.lock();
        inner.step()?;
        let id = inner.next_id;
        inner.next_id += 1;
        inner.files.insert(id, Contents::default());
        inner.names.insert(name.to_owned(), id);
        inner.renamed();
        Ok(Box::new(MemoryFile {
            disk: self.clone(),
            id,
            boot: inner.boot,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        let id = inner.find(from)?;
        inner.names.remove(from);
        inner.names.insert(to.to_owned(), id);
        inner.renamed();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        inner.find(name)?;
        inner.names.remove(name);
        inner.renamed();
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.step()?;
        inner.durable_names = inner.names.clone();
        inner.unsynced_names.clear();
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("/memory").join(name)
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    id: u64,
    boot: u64,
}

impl MemoryFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inner, u64) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.disk.lock();
        if inner.boot != self.boot {
            return Err(io::Error::other("the machine was restarted"));
        }
        act(&mut inner, self.id)
    }
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|inner, id| {
            let file = inner.files.get(&id).ok_or_else(gone)?;
            Ok(file.now.len() as u64)
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|inner, id| {
            let file = inner.files.get(&id).ok_or_else(gone)?;
            let from = (offset as usize).min(file.now.len());
            let to = (from + buffer.len()).min(file.now.len());
            buffer[..to - from].copy_from_slice(&file.now[from..to]);
            Ok(to - from)
        })
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|inner, id| {
            let cut = inner.step();
            let used = inner.used();
            let capacity = inner.capacity.unwrap_or(usize::MAX);
            let file = inner.files.get_mut(&id).ok_or_else(gone)?;
            let end = offset as usize + data.len();
            let grows = end.saturating_sub(file.now.len());
            if used + grows > capacity {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            if grows > 0 {
                file.now.resize(end, 0);
            }
            // A write that the power cut interrupts may still have reached some sectors.
            file.now[offset as usize..end].copy_from_slice(data);
            if !data.is_empty() {
                let sectors = offset as usize / SECTOR..=(end - 1) / SECTOR;
                file.dirty.extend(sectors);
            }
            cut
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|inner, id| {
            inner.step()?;
            let is_log = |(name, known): (&String, &u64)| *known == id && name.starts_with("log-");
            let ignore = inner.ignore_sync && inner.names.iter().any(is_log);
            let file = inner.files.get_mut(&id).ok_or_else(gone)?;
            if !ignore {
                for sector in std::mem::take(&mut file.dirty) {
                    let from = sector * SECTOR;
                    let to = (from + SECTOR).min(file.now.len());
                    if file.durable.len() < to {
                        file.durable.resize(to, 0);
                    }
                    file.durable[from..to].copy_from_slice(&file.now[from..to]);
                }
            }
            Ok(())
        })
    }
}

/// A small seeded generator; the same seed gives the same losses.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit.max(1)
    }
}

//! The part of the tar format that image archives use.
//!
//! Writes ustar headers (files, directories, symbolic links; owner root, time zero). Reads ustar,
//! GNU long names and pax `path`/`size` records, so that archives of other tools can be read.
//!
//! Does not: restore anything to a file system, keep owners or times, or follow sparse files.

use crate::OciError;
use std::io::Read;

const BLOCK: usize = 512;
/// Longest name that a pax or GNU record may carry, in bytes.
const NAME_BYTES_MAX: u64 = 4096;
/// Largest pax record block, in bytes.
const PAX_BYTES_MAX: u64 = 1 << 20;
/// Largest entry that is taken for one, in bytes: no disk holds more.
const ENTRY_BYTES_MAX: u64 = 1 << 50;
/// Extension headers in front of one entry.
const EXTENSIONS_MAX: usize = 16;

/// Builds a tar in memory.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Adds a file; fails when the name does not fit.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<(), OciError> {
        self.header(path, mode, bytes.len() as u64, b'0', "")?;
        self.out.extend_from_slice(bytes);
        let rest = bytes.len() % BLOCK;
        if rest != 0 {
            self.out.resize(self.out.len() + BLOCK - rest, 0);
        }
        Ok(())
    }

    /// Adds a directory; its path ends with a slash.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<(), OciError> {
        self.header(path, mode, 0, b'5', "")
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<(), OciError> {
        self.header(path, 0o777, 0, b'2', target)
    }

    /// The archive, with its two closing blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.resize(self.out.len() + 2 * BLOCK, 0);
        self.out
    }

    fn header(&mut self, path: &str, mode: u32, size: u64, kind: u8, link: &str) -> Result<(), OciError> {
        let too_long = || OciError::NameTooLong { path: path.to_owned() };
        let (prefix, name) = split_name(path).ok_or_else(too_long)?;
        if link.len() > 100 {
            return Err(OciError::NameTooLong { path: link.to_owned() });
        }
        let mut block = [0u8; BLOCK];
        put(&mut block, 0, name.as_bytes());
        put(&mut block, 100, format!("{:07o}", mode & 0o7777).as_bytes());
        put(&mut block, 108, b"0000000");
        put(&mut block, 116, b"0000000");
        put(&mut block, 124, format!("{size:011o}").as_bytes());
        put(&mut block, 136, b"00000000000");
        put(&mut block, 148, b"        ");
        put(&mut block, 156, &[kind]);
        put(&mut block, 157, link.as_bytes());
        put(&mut block, 257, b"ustar\x0000");
        put(&mut block, 265, b"root");
        put(&mut block, 297, b"root");
        put(&mut block, 345, prefix.as_bytes());
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut block, 148, format!("{sum:06o}\0 ").as_bytes());
        self.out.extend_from_slice(&block);
        Ok(())
    }
}

fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    for (slot, byte) in block.iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
}

/// Splits a path into ustar's prefix (155 bytes) and name (100 bytes).
fn split_name(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100 && !name.is_empty())
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// A device or a named pipe.
    Device,
    /// Whatever else a tar can hold.
    Other,
}

/// The head of one entry; the content follows in the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub size: u64,
    pub mode: u32,
    pub kind: Kind,
    /// Target of a link; empty otherwise.
    pub link: String,
}

/// Reads a tar from front to back, without keeping contents.
pub struct Reader<R> {
    inner: R,
    left: u64,
    padding: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(inner: R) -> Reader<R> {
        Reader {
            inner,
            left: 0,
            padding: 0,
        }
    }

    /// The next entry, or `None` at the end. Skips what was not read of the last one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, OciError> {
        let mut long_name: Option<String> = None;
        let mut long_link: Option<String> = None;
        let mut long_size: Option<u64> = None;
        for _ in 0..EXTENSIONS_MAX {
            self.skip_rest()?;
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            self.begin(number(&block[124..136])?)?;
            match block[156] {
                b'L' => long_name = Some(self.text()?),
                b'K' => long_link = Some(self.text()?),
                b'x' => {
                    for (key, value) in pax_records(&self.raw(PAX_BYTES_MAX)?) {
                        match key.as_str() {
                            "path" => long_name = Some(value),
                            "linkpath" => long_link = Some(value),
                            "size" => long_size = value.parse().ok(),
                            _ => {}
                        }
                    }
                }
                b'g' => {}
                kind => {
                    if let Some(size) = long_size {
                        self.begin(size)?;
                    }
                    return Ok(Some(Entry {
                        path: long_name.unwrap_or_else(|| name_of(&block)),
                        size: self.left,
                        mode: number(&block[100..108]).unwrap_or(0o644) as u32 & 0o7777,
                        kind: kind_of(kind),
                        link: long_link.unwrap_or_else(|| string(&block[157..257])),
                    }));
                }
            }
        }
        Err(OciError::Damaged {
            detail: format!("more than {EXTENSIONS_MAX} extension headers in front of one entry"),
        })
    }

    /// Notes that content of this size follows.
    fn begin(&mut self, size: u64) -> Result<(), OciError> {
        if size > ENTRY_BYTES_MAX {
            let detail = format!("an entry of {size} bytes");
            return Err(OciError::Damaged { detail });
        }
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(())
    }

    /// The whole content of the current entry; fails when it is longer than `bytes_max`.
    pub fn content(&mut self, bytes_max: u64) -> Result<Vec<u8>, OciError> {
        self.raw(bytes_max)
    }

    fn text(&mut self) -> Result<String, OciError> {
        let raw = self.raw(NAME_BYTES_MAX)?;
        Ok(string(&raw))
    }

    fn raw(&mut self, bytes_max: u64) -> Result<Vec<u8>, OciError> {
        if self.left > bytes_max {
            let detail = format!("an entry of {} bytes where {bytes_max} are allowed", self.left);
            return Err(OciError::Damaged { detail });
        }
        let mut out = Vec::new();
        let wanted = self.left;
        self.take(wanted).read_to_end(&mut out)?;
        if out.len() as u64 != wanted {
            return Err(OciError::Damaged {
                detail: "it ends inside an entry".into(),
            });
        }
        Ok(out)
    }

    fn skip_rest(&mut self) -> Result<(), OciError> {
        let skip = self.left + self.padding;
        let skipped = std::io::copy(&mut (&mut self.inner).take(skip), &mut std::io::sink())?;
        self.left = 0;
        self.padding = 0;
        if skipped != skip {
            return Err(OciError::Damaged {
                detail: "it ends inside an entry".into(),
            });
        }
        Ok(())
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, OciError> {
        let mut block = [0u8; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.inner.read(&mut block[got..])? {
                0 if got == 0 => return Ok(None),
                0 => {
                    return Err(OciError::Damaged {
                        detail: "it ends inside a header".into(),
                    });
                }
                n => got += n,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stated = number(&block[148..156])?;
        let sum: u64 = (0..BLOCK)
            .map(|at| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u64::from(block[at])
                }
            })
            .sum();
        if sum != stated {
            return Err(OciError::Damaged {
                detail: "a header's checksum is wrong".into(),
            });
        }
        Ok(Some(block))
    }
}

/// Reads the content of the current entry, as a stream.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let max = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        let got = self.inner.read(&mut buf[..max])?;
        self.left -= got as u64;
        Ok(got)
    }
}

fn kind_of(kind: u8) -> Kind {
    match kind {
        b'0' | 0 | b'7' => Kind::File,
        b'5' => Kind::Directory,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' | b'4' | b'6' => Kind::Device,
        _ => Kind::Other,
    }
}

fn name_of(block: &[u8; BLOCK]) -> String {
    let name = string(&block[0..100]);
    let prefix = string(&block[345..500]);
    // GNU's own format keeps other things where ustar has the prefix.
    if prefix.is_empty() || &block[257..263] != b"ustar\0" {
        name
    } else {
        format!("{prefix}/{name}")
    }
}

fn string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn number(bytes: &[u8]) -> Result<u64, OciError> {
    let damaged = || OciError::Damaged {
        detail: "a number in a header is wrong".into(),
    };
    if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        // Base 256, as GNU writes sizes from 8 GiB on.
        let tail = bytes.get(bytes.len().saturating_sub(8)..).ok_or_else(damaged)?;
        return Ok(tail.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text = string(bytes);
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| damaged())
}

fn pax_records(raw: &[u8]) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = raw;
    while let Some(space) = rest.iter().position(|byte| *byte == b' ') {
        let length = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.parse::<usize>().ok());
        let Some(record) = length.and_then(|length| rest.get(space + 1..length)) else {
            break;
        };
        let text = String::from_utf8_lossy(record);
        if let Some((key, value)) = text.trim_end_matches('\n').split_once('=') {
            out.push((key.to_owned(), value.to_owned()));
        }
        rest = &rest[space + 1 + record.len()..];
    }
    out
}

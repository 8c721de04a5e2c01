//! Just enough of the tar format for copying files: regular files, directories and symbolic links.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// Names in extension records may be this long.
const NAME_MAX: u64 = 64 * 1024;

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Link(String),
    /// Skipped.
    Other,
}

/// One entry's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub kind: Kind,
    pub mode: u32,
    /// Bytes of content that follow.
    pub size: u64,
}

/// Writes a header; the content follows, then [`pad`].
pub fn write_header(out: &mut impl Write, entry: &Entry) -> io::Result<()> {
    let link = match &entry.kind {
        Kind::Link(target) => target.as_str(),
        _ => "",
    };
    if entry.path.len() > 100 {
        write_long(out, b'L', &entry.path)?;
    }
    if link.len() > 100 {
        write_long(out, b'K', link)?;
    }
    let flag = match entry.kind {
        Kind::Directory => b'5',
        Kind::Link(_) => b'2',
        Kind::File | Kind::Other => b'0',
    };
    out.write_all(&header(&entry.path, link, flag, entry.mode, entry.size))
}

fn write_long(out: &mut impl Write, flag: u8, text: &str) -> io::Result<()> {
    let size = text.len() as u64 + 1;
    out.write_all(&header("././@LongLink", "", flag, 0, size))?;
    out.write_all(text.as_bytes())?;
    out.write_all(&[0])?;
    pad(out, size)
}

/// Fills the block after `size` bytes of content.
pub fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let rest = (size % BLOCK as u64) as usize;
    if rest == 0 {
        Ok(())
    } else {
        out.write_all(&[0; BLOCK][rest..])
    }
}

/// Ends the archive.
pub fn finish(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; BLOCK * 2])?;
    out.flush()
}

fn header(path: &str, link: &str, flag: u8, mode: u32, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, length: usize, bytes: &[u8]| {
        let count = bytes.len().min(length);
        block[at..at + count].copy_from_slice(&bytes[..count]);
    };
    put(0, 100, path.as_bytes());
    put(100, 8, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, 8, b"0000000");
    put(116, 8, b"0000000");
    put(124, 12, format!("{size:011o}").as_bytes());
    put(136, 12, b"00000000000");
    put(148, 8, b"        ");
    put(156, 1, &[flag]);
    put(157, 100, link.as_bytes());
    put(257, 8, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// Reads the next header; `None` at the end. The caller reads `size` bytes and calls [`skip_padding`].
pub fn read_header(input: &mut impl Read) -> io::Result<Option<Entry>> {
    let (mut long_path, mut long_link) = (None, None);
    loop {
        let mut block = [0; BLOCK];
        match input.read_exact(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let size = octal(&block[124..136])?;
        let flag = block[156];
        match flag {
            b'L' => long_path = Some(extension(input, size)?),
            b'K' => long_link = Some(extension(input, size)?),
            b'x' | b'g' => {
                let records = extension(input, size)?;
                if flag == b'x' {
                    long_path = pax(&records, "path").or(long_path);
                    long_link = pax(&records, "linkpath").or(long_link);
                }
            }
            _ => {
                let prefix = if block[257..262] == *b"ustar" && block[263] == b'0' {
                    text(&block[345..500])
                } else {
                    String::new()
                };
                let name = text(&block[..100]);
                let short = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}/{name}")
                };
                let path = long_path.unwrap_or(short);
                let link = long_link.unwrap_or_else(|| text(&block[157..257]));
                let kind = match flag {
                    b'0' | 0 if path.ends_with('/') => Kind::Directory,
                    b'0' | 0 | b'7' => Kind::File,
                    b'5' => Kind::Directory,
                    b'2' => Kind::Link(link),
                    _ => Kind::Other,
                };
                let mode = u32::try_from(octal(&block[100..108])?).unwrap_or(0o644);
                return Ok(Some(Entry { path, kind, mode, size }));
            }
        }
    }
}

/// Skips what fills the last block of an entry of this size.
pub fn skip_padding(input: &mut impl Read, size: u64) -> io::Result<()> {
    let rest = size % BLOCK as u64;
    if rest != 0 {
        io::copy(&mut input.take(BLOCK as u64 - rest), &mut io::sink())?;
    }
    Ok(())
}

fn extension(input: &mut impl Read, size: u64) -> io::Result<String> {
    if size > NAME_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an extension record of the archive is too large",
        ));
    }
    let mut bytes = Vec::new();
    input.by_ref().take(size).read_to_end(&mut bytes)?;
    skip_padding(input, size)?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value of a `LENGTH KEY=VALUE` record.
fn pax(records: &str, key: &str) -> Option<String> {
    records.lines().find_map(|line| {
        let (_, rest) = line.split_once(' ')?;
        let (name, value) = rest.split_once('=')?;
        (name == key).then(|| value.to_owned())
    })
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn octal(bytes: &[u8]) -> io::Result<u64> {
    // Large numbers are binary, marked by the top bit.
    if bytes.first().is_some_and(|byte| byte & 0x80 != 0) {
        return Ok(bytes
            .iter()
            .skip(1)
            .fold(0_u64, |number, byte| (number << 8) | u64::from(*byte)));
    }
    let digits = text(bytes);
    let digits = digits.trim();
    if digits.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(digits, 8).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not a tar archive"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let entries = [
            (
                Entry {
                    path: "a/b".into(),
                    kind: Kind::File,
                    mode: 0o755,
                    size: 5,
                },
                &b"hello"[..],
            ),
            (
                Entry {
                    path: "x".repeat(150),
                    kind: Kind::File,
                    mode: 0o600,
                    size: 0,
                },
                b"",
            ),
            (
                Entry {
                    path: "d/".into(),
                    kind: Kind::Directory,
                    mode: 0o700,
                    size: 0,
                },
                b"",
            ),
            (
                Entry {
                    path: "l".into(),
                    kind: Kind::Link("y".repeat(120)),
                    mode: 0o777,
                    size: 0,
                },
                b"",
            ),
        ];
        let mut bytes = Vec::new();
        for (entry, content) in &entries {
            write_header(&mut bytes, entry).expect("writes");
            bytes.extend_from_slice(content);
            pad(&mut bytes, entry.size).expect("writes");
        }
        finish(&mut bytes).expect("writes");
        let mut input = bytes.as_slice();
        for (entry, content) in &entries {
            let found = read_header(&mut input).expect("reads").expect("an entry");
            assert_eq!(found, *entry);
            let mut read = vec![0; content.len()];
            input.read_exact(&mut read).expect("reads");
            assert_eq!(read, *content);
            skip_padding(&mut input, entry.size).expect("reads");
        }
        assert_eq!(read_header(&mut input).expect("reads"), None);
        assert!(read_header(&mut [b'x'; 512].as_slice()).is_err());
    }
}

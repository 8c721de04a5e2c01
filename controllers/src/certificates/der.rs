//! The little of DER that a certificate is written with.

use jiff::Timestamp;

/// One element: tag, length, content.
pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
            out.extend(bytes);
        }
    }
    out.extend_from_slice(content);
    out
}

/// A sequence of elements that are encoded already.
pub(super) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// A bit string of whole bytes.
pub(super) fn bits(content: &[u8]) -> Vec<u8> {
    tlv(0x03, &[&[0], content].concat())
}

/// A point in time: two-digit years until 2049, four-digit ones after.
pub(super) fn time(at: Timestamp) -> Vec<u8> {
    let long = at.strftime("%Y%m%d%H%M%SZ").to_string();
    let is_short = long.as_str() < "2050";
    match long.get(2..).filter(|_| is_short) {
        Some(short) => tlv(0x17, short.as_bytes()),
        None => tlv(0x18, long.as_bytes()),
    }
}

/// An extension.
pub(super) fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[&tlv(0x06, oid), critical, &tlv(0x04, value)])
}

/// A bit string of flags, the first in the highest bit, without trailing zeros.
pub(super) fn flags(set: &[u8]) -> Vec<u8> {
    let mut bytes = [0u8; 2];
    for flag in set {
        if let Some(byte) = bytes.get_mut(usize::from(flag / 8)) {
            *byte |= 0x80 >> (flag % 8);
        }
    }
    let length = if bytes[1] != 0 { 2 } else { 1 };
    let content = &bytes[..length];
    let unused = content.last().map_or(0, |byte| byte.trailing_zeros().min(7));
    tlv(0x03, &[&[u8::try_from(unused).unwrap_or(0)], content].concat())
}

//! Protobuf's wire: numbers of variable length, tags, and texts or messages with their length in front.

/// A field's value as it is on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub fn bytes(self) -> Result<&'a [u8], String> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            Wire::Number(_) => Err("a number stands where a message or text belongs".to_owned()),
        }
    }

    pub fn number(self) -> Result<u64, String> {
        match self {
            Wire::Number(number) => Ok(number),
            Wire::Bytes(_) => Err("a message or text stands where a number belongs".to_owned()),
        }
    }
}

/// The fields of a message, in order.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = next_field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u64, Wire<'a>), String> {
    let tag = read_varint(rest)?;
    let wire = match tag & 7 {
        0 => Wire::Number(read_varint(rest)?),
        1 => Wire::Number(fixed::<8>(rest)?),
        2 => {
            let length = usize::try_from(read_varint(rest)?).map_err(|_| "a length is too large")?;
            Wire::Bytes(split(rest, length)?)
        }
        5 => Wire::Number(fixed::<4>(rest)?),
        other => return Err(format!("wire type {other} is not used by Kubernetes")),
    };
    Ok((tag >> 3, wire))
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest
        .split_at_checked(length)
        .ok_or("it ends in the middle of a field")?;
    *rest = left;
    Ok(taken)
}

fn fixed<const N: usize>(rest: &mut &[u8]) -> Result<u64, String> {
    let bytes = split(rest, N)?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Takes a number from the front.
pub(super) fn read_varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0u64;
    for position in 0..10 {
        let (byte, left) = rest.split_first().ok_or("it ends in the middle of a number")?;
        *rest = left;
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number is too long".to_owned())
}

/// Appends a number.
pub(super) fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// How many bytes [`varint`] appends.
pub(super) fn varint_length(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends a field that is a number.
pub(super) fn number(field: u32, value: u64, out: &mut Vec<u8>) {
    varint(u64::from(field) << 3, out);
    varint(value, out);
}

/// Appends a field that is a text or ready bytes.
pub(super) fn bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    head(field, value.len(), out);
    out.extend_from_slice(value);
}

/// Appends what stands in front of `length` bytes of a field.
pub(super) fn head(field: u32, length: usize, out: &mut Vec<u8>) {
    varint(u64::from(field) << 3 | 2, out);
    varint(length as u64, out);
}

/// Appends a field that is the message `fill` writes.
pub(super) fn nested(field: u32, out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    varint(u64::from(field) << 3 | 2, out);
    // Most messages are short: one byte is kept for the length, and a long message moves on.
    let at = out.len();
    out.push(0);
    fill(out);
    let length = out.len() - at - 1;
    if length < 0x80 {
        if let Some(place) = out.get_mut(at) {
            *place = length as u8;
        }
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    varint(length as u64, &mut prefix);
    out.splice(at..=at, prefix);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lengths() {
        for value in [0, 1, 127, 128, 300, 1 << 35, u64::MAX] {
            let mut out = Vec::new();
            varint(value, &mut out);
            assert_eq!(out.len(), varint_length(value), "{value}");
            assert_eq!(read_varint(&mut out.as_slice()), Ok(value));
        }
        for length in [0, 1, 127, 128, 20_000] {
            let (mut made, mut expected) = (vec![7], vec![7]);
            nested(3, &mut made, |out| out.resize(out.len() + length, b'x'));
            bytes(3, &vec![b'x'; length], &mut expected);
            assert_eq!(made, expected);
        }
    }
}

//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"): lines of `LENGTH KEY=VALUE\n`.

/// Appends one record. `key` has no `=`; `value` may be any bytes.
pub(super) fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Takes one record off the front: key and value. `None` if it is malformed.
pub(super) fn take<'a>(records: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let space = records.iter().take(20).position(|&b| b == b' ')?;
    let (digits, _) = records.split_at(space);
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&b| b == b'=').filter(|&at| at > 0)?;
    *records = rest;
    Some((&record[..equals], &record[equals + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_length_counts_itself() {
        for size in [0, 1, 89, 90, 91, 92, 988, 989, 990, 991, 992, 10_000] {
            let mut records = Vec::new();
            push(&mut records, b"path", &vec![b'x'; size]);
            let text = String::from_utf8_lossy(&records).into_owned();
            assert_eq!(text.split(' ').next(), Some(records.len().to_string().as_str()));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for text in [
            "", "5", "x a=b\n", "7 a=b\n", "6 a=b ", "6 =ab\n", "6 abc\n", "0 a=b\n", "2 a=b\n",
        ] {
            assert_eq!(take(&mut text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn records_round_trip(key in "[A-Za-z.]{1,20}", value: Vec<u8>, rest: Vec<u8>) {
            let mut records = Vec::new();
            push(&mut records, key.as_bytes(), &value);
            records.extend_from_slice(&rest);
            let mut left = records.as_slice();
            prop_assert_eq!(take(&mut left), Some((key.as_bytes(), value.as_slice())));
            prop_assert_eq!(left, rest.as_slice());
        }
    }
}

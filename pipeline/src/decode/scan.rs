//! The fast way through a message that is written as exporters write it: plain objects and lists, strings without escapes, numbers
//! without exponents. Whatever else JSON may hold makes the scan give up, and the message is read by `serde_json` instead
//! ([`super::json`]); a test holds both equal wherever the scan does not give up. It halves the cost of decoding.

use std::borrow::Cow;

use super::json::{Key, Node, Place, Scalar, What};

/// Reads a message into `nodes`, which are empty; false when it gave up.
pub(super) fn read<'a>(text: &'a str, nodes: &mut Vec<Node<'a>>) -> bool {
    let mut scan = Scan { text, bytes: text.as_bytes(), at: 0 };
    scan.message(nodes).is_some()
}

struct Scan<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

/// Numbers up to here, divided by a power of ten up to 10^22, are the floats that their decimal text means: both are exact.
const EXACT_MAX: u64 = 1 << 53;
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// `None` is to give up.
impl<'a> Scan<'a> {
    fn message(&mut self, nodes: &mut Vec<Node<'a>>) -> Option<()> {
        match self.peek()? {
            b'{' => self.object(nodes, Place::Only)?,
            b'[' => self.list(nodes, What::Message)?,
            _ => return None,
        }
        self.blanks();
        (self.at == self.bytes.len()).then_some(())
    }

    /// A list of objects.
    fn list(&mut self, nodes: &mut Vec<Node<'a>>, what: What) -> Option<()> {
        self.take(b'[')?;
        if self.peek()? == b']' {
            self.at += 1;
            return Some(());
        }
        let mut index = 0;
        loop {
            self.object(nodes, what.place(index)?)?;
            index += 1;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    fn object(&mut self, nodes: &mut Vec<Node<'a>>, place: Place) -> Option<()> {
        self.take(b'{')?;
        let number = nodes.len();
        nodes.push(Node::at(place));
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = Key::of(self.string()?);
            self.take(b':')?;
            if let Some(what) = key.list(place, number as u32) {
                self.list(nodes, what)?;
                nodes[number].has_list(what, true);
            } else {
                let value = self.scalar()?;
                nodes[number].has(key, value);
            }
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    fn scalar(&mut self) -> Option<Scalar<'a>> {
        match self.peek()? {
            b'"' => self.string().map(|text| Scalar::Text(Cow::Borrowed(text))),
            b'0'..=b'9' => self.number(),
            b't' => self.word("true", Scalar::Bool(true)),
            b'f' => self.word("false", Scalar::Bool(false)),
            b'n' => self.word("null", Scalar::Null),
            _ => None,
        }
    }

    /// A number without sign and exponent.
    fn number(&mut self) -> Option<Scalar<'a>> {
        let start = self.at;
        let whole = self.digits(0)?;
        if self.at - start > 1 && self.bytes[start] == b'0' {
            return None;
        }
        match self.bytes.get(self.at) {
            Some(b'.') => {
                self.at += 1;
                let point = self.at;
                let mantissa = self.digits(whole)?;
                let power = POWERS.get(self.at - point)?;
                let exact = mantissa <= EXACT_MAX && !matches!(self.bytes.get(self.at), Some(b'e' | b'E'));
                exact.then_some(Scalar::Float(mantissa as f64 / power))
            }
            Some(b'e' | b'E') => None,
            _ => i64::try_from(whole).ok().map(Scalar::Integer),
        }
    }

    /// Digits, at least one, appended to a number.
    fn digits(&mut self, mut number: u64) -> Option<u64> {
        let start = self.at;
        while let Some(digit) = self.bytes.get(self.at).map(|b| b.wrapping_sub(b'0')).filter(|d| *d < 10) {
            number = number.checked_mul(10)?.checked_add(u64::from(digit))?;
            self.at += 1;
        }
        (self.at > start).then_some(number)
    }

    fn word(&mut self, word: &str, value: Scalar<'a>) -> Option<Scalar<'a>> {
        let end = self.at + word.len();
        (self.bytes.get(self.at..end)? == word.as_bytes()).then(|| {
            self.at = end;
            value
        })
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let start = self.at;
        loop {
            // Eight bytes at a time: is there one that ends the string, escapes, or must not be there?
            while let Some(chunk) = self.bytes.get(self.at..self.at + 8) {
                let special = special_bytes(u64::from_le_bytes(chunk.try_into().ok()?));
                if special != 0 {
                    self.at += special.trailing_zeros() as usize / 8;
                    break;
                }
                self.at += 8;
            }
            match *self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' | 0..0x20 => return None,
                _ => self.at += 1,
            }
        }
        let text = self.text.get(start..self.at)?;
        self.at += 1;
        Some(text)
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// The next byte that is not blank.
    fn peek(&mut self) -> Option<u8> {
        self.blanks();
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }
}

/// The high bit of each byte that is a quote, a backslash or a control character; above the lowest such byte it may be wrong.
fn special_bytes(chunk: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = ONES << 7;
    let is = |byte: u8| (chunk ^ (ONES * u64::from(byte))).wrapping_sub(ONES);
    let control = chunk.wrapping_sub(ONES * 0x20);
    // A byte above 0x7f (of a longer character) is none of these.
    (is(b'"') | is(b'\\') | control) & !chunk & HIGHS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_bytes_are_found_wherever_they_are() {
        for byte in 0..=255_u8 {
            for place in 0..8 {
                let mut chunk = *b"abc\xc3\xa9xyz";
                chunk[place] = byte;
                let found = special_bytes(u64::from_le_bytes(chunk));
                let expected = byte < 0x20 || byte == b'"' || byte == b'\\';
                assert_eq!(found != 0, expected, "{byte} at {place}");
                assert!(!expected || found.trailing_zeros() as usize / 8 == place, "{byte} at {place}");
            }
        }
    }
}

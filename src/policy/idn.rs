//! International names in the form in which they are looked up: a label outside ASCII as `xn--` and Punycode (RFC 3492).
//!
//! A program may give such a name as it is (getaddrinfo with AI_IDN) or in this form, and so may a rule; both are compared
//! in this one. Letters are made small first; nothing else is mapped. Nothing is allocated.

/// The longest label, bytes of its ASCII form (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// Hands out the bytes of the ASCII form of a name, in lower case. False where it has none: a label is too long.
pub(crate) fn each_ascii_byte(name: &str, mut give: impl FnMut(u8)) -> bool {
    // What stands for a dot in East Asian input (RFC 3490 section 3.1).
    name.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']).enumerate().all(|(index, label)| {
        if index > 0 {
            give(b'.');
        }
        if label.is_ascii() {
            label.bytes().for_each(|byte| give(byte.to_ascii_lowercase()));
            return true;
        }
        b"xn--".iter().for_each(|byte| give(*byte));
        encode(label, &mut give).is_some()
    })
}

const BASE: u32 = 36;
const LEAST: u32 = 1;
const MOST: u32 = 26;
const FIRST_BIAS: u32 = 72;
const FIRST_CODE: u32 = 128;

/// RFC 3492 section 6.3.
fn encode(label: &str, give: &mut impl FnMut(u8)) -> Option<()> {
    let codes = || label.chars().flat_map(char::to_lowercase).map(u32::from);
    let total = u32::try_from(codes().take(LONGEST_LABEL + 1).count()).ok()?;
    if total as usize > LONGEST_LABEL {
        return None;
    }
    let mut basic = 0;
    for byte in codes().filter_map(|code| u8::try_from(code).ok()).filter(u8::is_ascii) {
        give(byte);
        basic += 1;
    }
    if basic > 0 {
        give(b'-');
    }
    let (mut code, mut delta, mut bias, mut handled) = (FIRST_CODE, 0_u32, FIRST_BIAS, basic);
    while handled < total {
        let next = codes().filter(|one| *one >= code).min()?;
        delta = (next - code).checked_mul(handled + 1).and_then(|more| delta.checked_add(more))?;
        code = next;
        for one in codes() {
            if one < code {
                delta = delta.checked_add(1)?;
            }
            if one == code {
                give_number(delta, bias, give);
                bias = adapted(delta, handled + 1, handled == basic);
                (delta, handled) = (0, handled + 1);
            }
        }
        (delta, code) = (delta.checked_add(1)?, code + 1);
    }
    Some(())
}

/// A number in digits whose weight depends on the bias.
fn give_number(number: u32, bias: u32, give: &mut impl FnMut(u8)) {
    let digit = |value: u32| if value < 26 { b'a' + value as u8 } else { b'0' + (value - 26) as u8 };
    let (mut rest, mut k) = (number, BASE);
    loop {
        let threshold = k.saturating_sub(bias).clamp(LEAST, MOST);
        if rest < threshold {
            return give(digit(rest));
        }
        give(digit(threshold + (rest - threshold) % (BASE - threshold)));
        rest = (rest - threshold) / (BASE - threshold);
        k += BASE;
    }
}

/// RFC 3492 section 6.1.
fn adapted(delta: u32, points: u32, is_first: bool) -> u32 {
    const SKEW: u32 = 38;
    const DAMP: u32 = 700;
    let mut delta = if is_first { delta / DAMP } else { delta / 2 };
    delta += delta / points;
    let mut k = 0;
    while delta > (BASE - LEAST) * MOST / 2 {
        delta /= BASE - LEAST;
        k += BASE;
    }
    k + (BASE - LEAST + 1) * delta / (delta + SKEW)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascii(name: &str) -> Option<String> {
        let mut text = String::new();
        each_ascii_byte(name, |byte| text.push(char::from(byte))).then_some(text)
    }

    /// As Python's `punycode` codec has them; the one in Arabic is example A of RFC 3492 section 7.1.
    #[test]
    fn known_names() {
        for (name, expected) in [
            ("müller.example", "xn--mller-kva.example"),
            ("MÜLLER.Example", "xn--mller-kva.example"),
            ("straße.de", "xn--strae-oqa.de"),
            ("日本語。jp", "xn--wgv71a119e.jp"),
            ("пример.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"),
            ("ليهمابتكلموشعربي؟", "xn--egbpdaj6bu4bxfgehfvwxn"),
            ("ü", "xn--tda"),
            ("plain.example", "plain.example"),
        ] {
            assert_eq!(ascii(name).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(ascii(&"ü".repeat(64)), None);
        // The largest code points do not overflow.
        assert!(ascii(&"\u{10ffff}".repeat(63)).is_some());
    }
}

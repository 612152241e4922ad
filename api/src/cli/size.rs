//! Sizes as people write them, and sizes and times as people read them.

/// Bytes that `text` names: a number, alone or with one of `K M G T`, each 1024 times the last.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let unit_at = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(unit_at);
    let unit = unit.trim().to_ascii_uppercase();
    let shift = match unit.trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => {
            return Err(format!("\"{text}\" is no size; write it like 4096, 64K, 100M or 2G"));
        }
    };
    number
        .parse::<u64>()
        .map_err(|_| format!("\"{text}\" is no size; write it like 4096, 64K, 100M or 2G"))?
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("\"{text}\" is more than 64 bits can hold"))
}

/// `bytes` in the largest unit that keeps it above 1, with three digits.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{} {unit}", three_digits(value))
}

/// A time given in microseconds, in the unit that suits it.
pub fn micros(us: f64) -> String {
    let (value, unit) = if us < 1e3 {
        (us, "us")
    } else if us < 1e6 {
        (us / 1e3, "ms")
    } else {
        (us / 1e6, "s")
    };
    format!("{} {unit}", three_digits(value))
}

/// A whole number bare, another with three digits.
fn three_digits(value: f64) -> String {
    let decimals = match value {
        v if v.fract() == 0.0 || v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 64 << 10),
            ("100M", 100 << 20),
            ("2GiB", 2 << 30),
            ("3 MB", 3 << 20),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "M", "-1", "1.5G", "10X", "99999999999999999999", "17179869184G"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(4096), "4 KiB");
        assert_eq!(bytes(256 << 20), "256 MiB");
        assert_eq!(bytes(1_500_000), "1.43 MiB");
        assert_eq!(micros(12.0), "12 us");
        assert_eq!(micros(1234.0), "1.23 ms");
        assert_eq!(micros(45_678_900.0), "45.7 s");
    }
}

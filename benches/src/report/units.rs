//! Figures for people.

/// A time given in microseconds, in the unit that suits it.
pub fn time(us: f64) -> String {
    match us {
        us if us.is_nan() => "-".to_owned(),
        0.0 => "0".to_owned(),
        us if us < 10.0 => format!("{us:.2} us"),
        us if us < 100.0 => format!("{us:.1} us"),
        us if us < 1000.0 => format!("{us:.0} us"),
        us if us < 10_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 100_000.0 => format!("{:.1} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Bytes in the unit that suits them.
pub fn bytes(bytes: f64) -> String {
    let (size, sign) = (bytes.abs(), if bytes < 0.0 { "-" } else { "" });
    match size {
        size if size < 1024.0 => format!("{sign}{size:.0} B"),
        size if size < 1024.0 * 1024.0 => format!("{sign}{} KiB", short(size / 1024.0)),
        size if size < 1024.0 * 1024.0 * 1024.0 => {
            format!("{sign}{} MiB", short(size / 1024.0 / 1024.0))
        }
        size => format!("{sign}{} GiB", short(size / 1024.0 / 1024.0 / 1024.0)),
    }
}

/// A part of one, in per cent.
pub fn percent(fraction: f64) -> String {
    format!("{} %", short(fraction * 100.0))
}

/// How many times.
pub fn times(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2}x") } else { format!("{ratio:.0}x") }
}

/// A number with at most two decimals, none that say nothing.
pub fn short(value: f64) -> String {
    let decimals = if value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 100.0) };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_suit_their_values() {
        assert_eq!(
            [1.234, 56.78, 910.4, 1234.0, 2.5e6].map(time).join(", "),
            "1.23 us, 56.8 us, 910 us, 1.23 ms, 2.50 s"
        );
        assert_eq!([f64::NAN, 0.0].map(time).join(", "), "-, 0");
        assert_eq!(
            [12.0, 4096.0, 1536.0, 268_435_456.0].map(bytes).join(", "),
            "12 B, 4 KiB, 1.5 KiB, 256 MiB"
        );
        assert_eq!(bytes(-8192.0), "-8 KiB");
        assert_eq!([0.0, 0.01, 0.075, 1.0].map(percent).join(", "), "0 %, 1 %, 7.5 %, 100 %");
        assert_eq!([1.5, 321.4].map(times).join(", "), "1.50x, 321x");
    }
}

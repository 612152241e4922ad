//! How to see what a claim says with nothing of tine: scripts to be pasted into a shell. PID
//! stands for a process of one's own.

/// The script for claim `number`.
const fn script(number: u32) -> &'static str {
    match number {
        1 => include_str!("by_hand/01.sh"),
        2 => include_str!("by_hand/02.sh"),
        3 => include_str!("by_hand/03.sh"),
        4 => include_str!("by_hand/04.sh"),
        5 => include_str!("by_hand/05.sh"),
        6 => include_str!("by_hand/06.sh"),
        7 => include_str!("by_hand/07.sh"),
        8 => include_str!("by_hand/08.sh"),
        9 => include_str!("by_hand/09.sh"),
        10 => include_str!("by_hand/10.sh"),
        11 => include_str!("by_hand/11.sh"),
        _ => "",
    }
}

/// Its lines, and then those `with_tine`.
pub fn lines(number: u32, with_tine: &[&str]) -> Vec<String> {
    let mut lines: Vec<&str> = script(number).lines().collect();
    if !with_tine.is_empty() {
        lines.push("# with tine");
        lines.extend(with_tine);
    }
    lines.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn every_claim_has_a_script_that_a_shell_takes() {
        for number in 1..=11 {
            let script = script(number);
            assert!(script.starts_with("# "), "{number}");
            let checked = Command::new("sh").args(["-n", "-c", script]).output().unwrap();
            let said = String::from_utf8_lossy(&checked.stderr);
            assert!(checked.status.success() && said.is_empty(), "{number}: {said}");
        }
        assert_eq!(lines(12, &["tine bench"]), ["# with tine", "tine bench"]);
    }
}

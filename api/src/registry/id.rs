//! Ids: what they look like, and new ones.

use crate::problem::Problem;

/// Length of an id.
const ID_BYTES: usize = 20;
const ID_LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A new id: 20 characters of `[a-z0-9]`, the first a letter, so that it is a DNS label.
pub(crate) fn new_id() -> Result<String, Problem> {
    let mut id = String::with_capacity(ID_BYTES);
    while id.len() < ID_BYTES {
        let mut random = [0u8; 32];
        getrandom::fill(&mut random)
            .map_err(|error| Problem::internal(format!("no random numbers for an id: {error}")))?;
        for byte in random {
            // 252 is the largest multiple of 36 in a byte: no letter is likelier than another.
            let letters = if id.is_empty() { 26 } else { 36 };
            if byte < 252 - 252 % letters && id.len() < ID_BYTES {
                id.push(char::from(ID_LETTERS[usize::from(byte % letters)]));
            }
        }
    }
    Ok(id)
}

/// Whether `text` has the form of an id.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_BYTES && text.bytes().all(|byte| ID_LETTERS.contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dns_labels_and_differ() {
        let ids: std::collections::BTreeSet<String> = (0..500).map(|_| new_id().unwrap()).collect();
        assert_eq!(ids.len(), 500);
        assert!(ids.iter().all(|id| is_id(id) && id.as_bytes()[0].is_ascii_lowercase()));
    }
}

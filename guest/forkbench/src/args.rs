//! The command line: the name of a probe, and pairs of `--option VALUE`.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::Failure;

/// Options that have not been asked for yet, by their names without the dashes.
#[derive(Clone, Debug, Default)]
pub struct Args(BTreeMap<String, String>);

impl Args {
    /// Pairs of `--option VALUE`.
    ///
    /// # Errors
    ///
    /// When it is no such list, or one is given twice.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, Failure> {
        let mut words = words.into_iter();
        let mut options = BTreeMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| {
                Failure::Usage(format!("{word:?} is no option: they are --name VALUE"))
            })?;
            let value = words
                .next()
                .ok_or_else(|| Failure::Usage(format!("the option {word} has no value")))?;
            if options.insert(name.to_owned(), value).is_some() {
                return Err(Failure::Usage(format!("the option {word} is given twice")));
            }
        }
        Ok(Self(options))
    }

    /// The option `name`, or `default`.
    ///
    /// # Errors
    ///
    /// When its value is none of its kind.
    pub fn take<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, Failure> {
        self.0.remove(name).map_or(Ok(default), |text| text.parse().map_err(|_| wrong(name, &text)))
    }

    /// The option `name`: things with names or numbers, with commas between; or `default`.
    ///
    /// # Errors
    ///
    /// When one of them is none of its kind.
    pub fn list<T: DeserializeOwned>(
        &mut self,
        name: &str,
        default: Vec<T>,
    ) -> Result<Vec<T>, Failure> {
        let Some(text) = self.0.remove(name) else { return Ok(default) };
        text.split(',').map(|word| named(word).ok_or_else(|| wrong(name, word))).collect()
    }

    /// The option `name`, one thing with a name; or `default`.
    ///
    /// # Errors
    ///
    /// When there is no such thing.
    pub fn one<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T, Failure> {
        let Some(text) = self.0.remove(name) else { return Ok(default) };
        named(&text).ok_or_else(|| wrong(name, &text))
    }

    /// All options have been asked for.
    ///
    /// # Errors
    ///
    /// When there are others.
    pub fn finish(self) -> Result<(), Failure> {
        match self.0.keys().next() {
            Some(name) => Err(Failure::Usage(format!("this probe has no option --{name}"))),
            None => Ok(()),
        }
    }
}

/// What has the name `word` in rows, or the number `word`.
fn named<T: DeserializeOwned>(word: &str) -> Option<T> {
    serde_json::from_value(Value::from(word)).or_else(|_| serde_json::from_str(word)).ok()
}

fn wrong(name: &str, text: &str) -> Failure {
    Failure::Usage(format!("--{name} can't be {text:?}"))
}

/// A size: a number, with K, M or G for the powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (number, shift) = match text.as_bytes().last() {
            Some(b'K') => (&text[..text.len() - 1], 10),
            Some(b'M') => (&text[..text.len() - 1], 20),
            Some(b'G') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let number: u64 = number.parse().map_err(drop)?;
        number.checked_mul(1 << shift).map(Self).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Backing, Way};

    fn args(text: &str) -> Result<Args, Failure> {
        Args::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_have_values_of_their_kind() {
        let mut given =
            args("--size 3M --ways fork,posix_spawn --backing 4k --fractions 0,0.5").unwrap();
        assert_eq!(given.take("size", Size(0)).unwrap(), Size(3 << 20));
        assert_eq!(given.list::<Way>("ways", vec![]).unwrap(), [Way::Fork, Way::PosixSpawn]);
        assert_eq!(given.one("backing", Backing::Thp).unwrap(), Backing::Small);
        assert_eq!(given.list("fractions", vec![1.0]).unwrap(), [0.0, 0.5]);
        assert_eq!(given.take("rounds", 5).unwrap(), 5);
        given.finish().unwrap();
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["fork", "--size", "--size 1 --size 2"] {
            assert!(args(text).is_err(), "{text}");
        }
        assert!(args("--ways spoon").unwrap().list::<Way>("ways", vec![]).is_err());
        assert!(args("--size 3X").unwrap().take("size", Size(0)).is_err());
        assert!(args("--size 3").unwrap().finish().is_err());
        assert!("99999999999999G".parse::<Size>().is_err());
    }
}

//! Recipes: what goes into a root file system.

use std::path::PathBuf;

use serde::Deserialize;

use crate::ImageError;

/// The recipes that come with tine, by name.
const RECIPES: [(&str, &str); 3] = [
    ("base", include_str!("../recipes/base.toml")),
    ("debian", include_str!("../recipes/debian.toml")),
    ("redis", include_str!("../recipes/redis.toml")),
];

/// What goes into a root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Its name, which the image gets.
    pub name: String,
    /// Its text: an image is made anew when that changes.
    pub text: String,
    pub(crate) contents: Contents,
}

/// The text of a recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contents {
    /// Debian packages that are unpacked, without their scripts, over a small skeleton.
    #[serde(default)]
    pub(crate) packages: Vec<String>,
    /// A whole Debian instead.
    pub(crate) debootstrap: Option<Debootstrap>,
}

/// A Debian, installed by mmdebstrap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Debootstrap {
    /// Which release.
    pub(crate) suite: String,
    /// Packages beside the essential ones.
    pub(crate) packages: Vec<String>,
}

impl Recipe {
    /// The recipe `name` of those that come with tine.
    pub fn named(name: &str) -> Result<Self, ImageError> {
        let Some((_, text)) = RECIPES.iter().find(|(known, _)| *known == name) else {
            let known = Self::names().join(", ");
            return Err(ImageError::NoRecipe { name: name.to_owned(), known });
        };
        Self::parse(name, text)
    }

    /// The names of those that come with tine.
    pub fn names() -> [&'static str; 3] {
        RECIPES.map(|(name, _)| name)
    }

    fn parse(name: &str, text: &str) -> Result<Self, ImageError> {
        let contents = toml::from_str(text).map_err(|error| ImageError::Text {
            path: PathBuf::from(format!("{name}.toml")),
            reason: error.to_string(),
        })?;
        Ok(Self { name: name.to_owned(), text: text.to_owned(), contents })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_can_be_read() {
        for name in Recipe::names() {
            let recipe = Recipe::named(name).unwrap();
            let Contents { packages, debootstrap } = recipe.contents;
            assert!(packages.is_empty() == debootstrap.is_some(), "{name}: one or the other");
        }
        assert!(Recipe::named("windows").is_err());
        assert!(Recipe::parse("odd", "packages = 3").is_err());
        assert!(Recipe::parse("odd", "fish = []").is_err());
    }
}

//! Numbers with names, in an order that means something: an object in JSON.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};

/// Numbers by their names, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named(pub Vec<(String, f64)>);

impl Named {
    /// The number `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|number| number.0 == name).map(|number| number.1)
    }

    /// All of them together.
    pub fn sum(&self) -> f64 {
        self.0.iter().map(|number| number.1).sum()
    }
}

impl<N: Into<String>> FromIterator<(N, f64)> for Named {
    fn from_iter<I: IntoIterator<Item = (N, f64)>>(numbers: I) -> Self {
        Self(numbers.into_iter().map(|(name, number)| (name.into(), number)).collect())
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, number)| (name, number)))
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(InOrder)
    }
}

struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Named;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of numbers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
        let mut numbers = Vec::new();
        while let Some(entry) = map.next_entry()? {
            numbers.push(entry);
        }
        Ok(Named(numbers))
    }
}

impl JsonSchema for Named {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Named".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Numbers by their names, in an order that means something.",
            "type": "object",
            "additionalProperties": { "type": "number" }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept() {
        let named: Named = [("shell", 2.0), ("map", 1.5), ("a", 0.0)].into_iter().collect();
        let json = serde_json::to_string(&named).unwrap();
        assert_eq!(json, r#"{"shell":2.0,"map":1.5,"a":0.0}"#);
        assert_eq!(serde_json::from_str::<Named>(&json).unwrap(), named);
        assert_eq!(named.get("map"), Some(1.5));
        assert_eq!(named.get("b"), None);
        assert_eq!(named.sum(), 3.5);
    }
}

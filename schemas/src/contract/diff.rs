//! Two documents, field by field.

use std::collections::BTreeSet;

use serde_json::Value;

use super::schema::{json_schema, resolve};
use super::{Contract, is_decimal};

/// A field that differs. Values are as they were written; `None` where the field is absent and its default holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field's path; suppliers are told apart by name, such as `suppliers[dc-1].share_percent`, since their order means nothing.
    pub field: String,
    pub before: Option<String>,
    pub after: Option<String>,
    /// What the field is for, from the schema.
    pub meaning: String,
}

/// The fields in which `after` differs from `before`, in the order of their names. `2.50` and `2.5` do not differ.
pub fn changes(before: &Contract, after: &Contract) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(Some(&to_value(before)), Some(&to_value(after)), json_schema(), "", "", &mut changes);
    changes
}

/// Every field that a document has, as what differs from nothing.
pub fn fields(document: &Contract) -> Vec<Change> {
    let mut fields = Vec::new();
    compare(None, Some(&to_value(document)), json_schema(), "", "", &mut fields);
    fields
}

/// Documents are strings, numbers, lists and maps with string keys: nothing that JSON cannot hold.
fn to_value(document: &Contract) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// Recursion is bounded by the depth of a contract.
fn compare(
    before: Option<&Value>,
    after: Option<&Value>,
    schema: &'static Value,
    path: &str,
    meaning: &str,
    changes: &mut Vec<Change>,
) {
    let described = schema.get("description").and_then(Value::as_str).unwrap_or(meaning);
    let schema = resolve(schema);
    let either = |is: fn(&Value) -> bool| [before, after].into_iter().flatten().any(is);
    if either(Value::is_object) {
        for key in keys(before).chain(keys(after)).collect::<BTreeSet<_>>() {
            let known = schema.get("properties").and_then(|fields| fields.get(key));
            let Some(field) = known.or_else(|| schema.get("additionalProperties")) else { continue };
            let path = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            let child = |value: Option<&'_ Value>| value.and_then(|value| value.get(key)).cloned();
            compare(child(before).as_ref(), child(after).as_ref(), field, &path, described, changes);
        }
        return;
    }
    if either(Value::is_array) {
        let item = schema.get("items").unwrap_or(schema);
        for name in names(before).into_iter().chain(names(after)).collect::<BTreeSet<_>>() {
            let path = format!("{path}[{}]", name.shown());
            compare(name.find(before), name.find(after), item, &path, described, changes);
        }
        return;
    }
    let (before, after) = (before.map(shown), after.map(shown));
    if before.as_deref().map(canonical) != after.as_deref().map(canonical) {
        changes.push(Change { field: path.to_owned(), before, after, meaning: described.to_owned() });
    }
}

/// What an element of a list is known by: its number, or the supplier that it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Number(usize),
    Supplier(String),
}

impl Name {
    fn shown(&self) -> String {
        match self {
            Name::Number(number) => number.to_string(),
            Name::Supplier(name) => name.clone(),
        }
    }

    fn find<'a>(&self, list: Option<&'a Value>) -> Option<&'a Value> {
        let list = list?.as_array()?;
        match self {
            Name::Number(number) => list.get(*number),
            Name::Supplier(name) => list.iter().find(|item| supplier(item) == Some(name)),
        }
    }
}

fn names(list: Option<&Value>) -> Vec<Name> {
    let items = list.and_then(Value::as_array).into_iter().flatten().enumerate();
    items.map(|(i, item)| supplier(item).map_or(Name::Number(i), |name| Name::Supplier(name.to_owned()))).collect()
}

fn supplier(item: &Value) -> Option<&str> {
    item.get("supplier").and_then(Value::as_str)
}

fn keys(value: Option<&Value>) -> impl Iterator<Item = &str> {
    value.and_then(Value::as_object).into_iter().flatten().map(|(key, _)| key.as_str())
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A decimal without needless zeros.
fn canonical(text: &str) -> &str {
    if is_decimal(text) && text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(charge: Value, suppliers: Value) -> Contract {
        serde_json::from_value(serde_json::json!({
            "contract": "c", "effective": "2026-03-01T00:00:00Z", "renter": "r", "currency": "USD",
            "charges": {"gpu": charge}, "suppliers": suppliers,
        }))
        .unwrap()
    }

    #[test]
    fn what_differs_is_named_with_its_meaning() {
        let before = contract(
            serde_json::json!({"basis": "allocated", "price": "2.50", "free": "10.0"}),
            serde_json::json!([{"supplier": "a", "share_percent": "80"}, {"supplier": "b", "share_percent": "70"}]),
        );
        let after = contract(
            serde_json::json!({"basis": "allocated", "volume": [{"price": "2.20"}], "free": "10"}),
            serde_json::json!([{"supplier": "b", "share_percent": "75"}, {"supplier": "a", "share_percent": "80"}]),
        );
        assert_eq!(changes(&before, &before), []);
        let changes = changes(&before, &after);
        let short: Vec<(&str, Option<&str>, Option<&str>)> =
            changes.iter().map(|c| (c.field.as_str(), c.before.as_deref(), c.after.as_deref())).collect();
        assert_eq!(
            short,
            [
                ("charges.gpu.price", Some("2.50"), None),
                ("charges.gpu.volume[0].price", None, Some("2.20")),
                ("suppliers[b].share_percent", Some("70"), Some("75")),
            ]
        );
        assert!(changes[0].meaning.starts_with("Per unit"), "{}", changes[0].meaning);
        assert_eq!(changes[2].meaning, "Percent of the renter's amount, 0 to 100.");
        assert_eq!(fields(&before).len(), 11);
    }
}

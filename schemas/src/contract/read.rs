//! A file to contract documents: the YAML is walked by the very JSON Schema that editors use, and every mistake is collected with
//! its line, column and field, not only the first.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::schema::{json_schema, resolve};
use super::tree::{self, Entry, FILE_BYTES_MAX, Node, Tree};
use super::{Contract, DECIMAL_PATTERN, Located, Mistake, Place, is_decimal, shorten};
use crate::suggest::nearest;

/// One document of a file: one version of a contract.
#[derive(Debug, Clone)]
pub struct Document {
    /// Where it has mistakes of shape, stand-ins take the place of what could not be read, so that its other mistakes can be
    /// found too. Whole only where [`Document::is_whole`].
    pub contract: Contract,
    /// Where the document begins.
    pub begins: Place,
    places: BTreeMap<String, Place>,
    broken: Vec<Broken>,
}

/// A field that could not be read.
#[derive(Debug, Clone)]
struct Broken {
    path: String,
    /// The object around it where it was required: nothing that is said about the rest of that object can be trusted.
    around: Option<String>,
}

/// What a file holds, and all that is wrong with its shape.
#[derive(Debug, Clone)]
pub struct Reading {
    pub documents: Vec<Document>,
    pub mistakes: Vec<Located>,
}

/// More mistakes than this are not looked for.
pub const MISTAKES_MAX: usize = 200;

/// Reads YAML or JSON. Never fails: what could not be read is among the mistakes.
pub fn read(bytes: &[u8]) -> Reading {
    let mut mistakes = Vec::new();
    let mut documents = Vec::new();
    match text(bytes) {
        Err(mistake) => mistakes.push(mistake),
        Ok(text) => {
            for node in tree::parse(text, &mut mistakes) {
                if !matches!(node.value, Tree::Null) && mistakes.len() < MISTAKES_MAX {
                    documents.extend(document(&node, &mut mistakes));
                }
            }
            if documents.is_empty() && mistakes.is_empty() {
                let mistake = mistake("document", "the file is empty", "a contract", "");
                mistakes.push(Located { place: Place::START, mistake });
            }
        }
    }
    Reading { documents, mistakes }
}

impl Document {
    /// Whether all of it could be read.
    pub fn is_whole(&self) -> bool {
        self.broken.is_empty()
    }

    /// Where a field stands; where it is absent, what it would stand in.
    pub fn place(&self, field: &str) -> Place {
        let mut path = field;
        loop {
            if let Some(place) = self.places.get(path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.begins,
            }
        }
    }

    /// The mistake with its place; `None` where it only follows from a mistake of shape, which has been reported.
    pub fn locate(&self, mistake: Mistake) -> Option<Located> {
        let follows = self.broken.iter().any(|broken| {
            is_within(&broken.path, &mistake.field)
                || is_within(&mistake.field, &broken.path)
                || broken.around.as_ref().is_some_and(|around| is_within(&mistake.field, around))
        });
        (!follows).then(|| Located { place: self.place(&mistake.field), mistake })
    }
}

/// Whether `path` is `outer` or lies in it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn text(bytes: &[u8]) -> Result<&str, Located> {
    if bytes.len() > FILE_BYTES_MAX {
        let what = format!("the file has {} bytes", bytes.len());
        let mistake = mistake("document", &what, &format!("at most {FILE_BYTES_MAX}"), "");
        return Err(Located { place: Place::START, mistake });
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let last_line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let column = 1 + String::from_utf8_lossy(last_line).chars().count();
        let mistake = mistake("document", "is not text in UTF-8", "UTF-8", "save the file as UTF-8");
        Located { place: Place { line, column }, mistake }
    })
}

fn document(node: &Node, mistakes: &mut Vec<Located>) -> Option<Document> {
    let mut walker = Walker { mistakes, places: BTreeMap::new(), broken: Vec::new() };
    let value = walker.value(node, json_schema(), "", node.place);
    let value = value.unwrap_or_else(|| stand_in(json_schema()));
    let (places, broken) = (walker.places, walker.broken);
    match serde_json::from_value(value) {
        Ok(contract) => Some(Document { contract, begins: node.place, places, broken }),
        // The schema is generated from the type, so what it lets through fits; should it not, that is a mistake and no panic.
        Err(error) => {
            let mistake = mistake("document", &format!("does not fit: {error}"), "what the schema says", "");
            mistakes.push(Located { place: node.place, mistake });
            None
        }
    }
}

struct Walker<'m> {
    mistakes: &'m mut Vec<Located>,
    places: BTreeMap<String, Place>,
    broken: Vec<Broken>,
}

impl Walker<'_> {
    /// The value as the schema has it; `None` where a mistake was noted. `place` is where a mistake in it is shown.
    fn value(&mut self, node: &Node, schema: &'static Value, path: &str, place: Place) -> Option<Value> {
        let schema = resolve(schema);
        self.places.insert(path.to_owned(), place);
        if let Tree::Refused = node.value {
            self.broken.push(Broken { path: path.to_owned(), around: None });
            return None;
        }
        if let Tree::Null = node.value {
            let hint = "leave the field out, or quote the word if it is a name";
            return self.say(path, place, "has no value", &expected(schema), hint);
        }
        if let Some(words) = words(schema) {
            return self.word(node, schema, &words, path, place);
        }
        match (type_of(schema), &node.value) {
            (Type::Object, Tree::Map(entries)) => Some(Value::Object(self.object(entries, schema, path, place))),
            (Type::List, Tree::List(items)) => {
                let item_schema = schema.get("items").unwrap_or(schema);
                let read = items.iter().enumerate().map(|(i, item)| {
                    // An element that cannot be read keeps its place, so that the others keep their numbers.
                    let value = self.value(item, item_schema, &format!("{path}[{i}]"), item.place);
                    value.unwrap_or_else(|| stand_in(item_schema))
                });
                Some(read.collect())
            }
            (Type::Text, Tree::Scalar { text, .. }) => Some(Value::String(text.clone())),
            (Type::Decimal, Tree::Scalar { text, .. }) => {
                if is_decimal(text) {
                    return Some(Value::String(text.clone()));
                }
                let what = format!("{:?} is not a plain decimal number", shorten(text));
                self.say(path, place, &what, &expected(schema), decimal_hint(text))
            }
            (Type::Integer, Tree::Scalar { text, is_plain }) => {
                let bound = |name| schema.get(name).and_then(Value::as_i64);
                let (least, most) = (bound("minimum").unwrap_or(i64::MIN), integer_max(schema));
                let number = text.parse::<i64>().ok().filter(|n| *is_plain && (least..=most).contains(n));
                if number.is_some() {
                    return number.map(Value::from);
                }
                let what = format!("{:?} is not such a number", shorten(text));
                self.say(path, place, &what, &expected(schema), if *is_plain { "" } else { "without quotes" })
            }
            (Type::Truth, Tree::Scalar { text, is_plain }) => match (text.as_str(), is_plain) {
                ("true", true) => Some(Value::Bool(true)),
                ("false", true) => Some(Value::Bool(false)),
                _ => self.say(path, place, &format!("{:?} is neither", shorten(text)), &expected(schema), ""),
            },
            (_, other) => {
                let what = match other {
                    Tree::Map(_) => "is a map of fields",
                    Tree::List(_) => "is a list",
                    _ => "is a single value",
                };
                self.say(path, place, what, &expected(schema), "")
            }
        }
    }

    fn word(&mut self, node: &Node, schema: &Value, words: &[&str], path: &str, place: Place) -> Option<Value> {
        match &node.value {
            Tree::Scalar { text, .. } if words.contains(&text.as_str()) => Some(Value::String(text.clone())),
            Tree::Scalar { text, .. } => {
                let hint = did_you_mean(text, words.iter().copied());
                self.say(path, place, &format!("{:?} is not known here", shorten(text)), &expected(schema), &hint)
            }
            _ => self.say(path, place, "is not a single word", &expected(schema), ""),
        }
    }

    /// Known fields and names to values. Unknown, repeated and missing ones are noted; required ones always have a value.
    fn object(&mut self, entries: &[Entry], schema: &'static Value, path: &str, place: Place) -> Map<String, Value> {
        let fields = schema.get("properties").and_then(Value::as_object);
        let names = schema.get("additionalProperties").filter(|names| names.is_object());
        let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
        let mut meant: Vec<&str> = Vec::new();
        let mut object = Map::new();
        for entry in entries {
            let entry_path = join(path, &entry.key);
            if let Some(first) = seen.insert(&entry.key, entry.place) {
                let what = format!("stands here a second time; the first is in line {}", first.line);
                self.say(&entry_path, entry.place, &what, "each field once", "");
                continue;
            }
            let Some(entry_schema) = fields.and_then(|fields| fields.get(&entry.key)).or(names) else {
                let known = fields.into_iter().flatten().map(|(name, _)| name.as_str());
                meant.extend(nearest(&entry.key, known.clone()));
                self.unknown(&entry.key, &entry_path, entry.place, known);
                continue;
            };
            // What holds other fields is shown at its name, a single value where it stands.
            let shown_at = match entry.value.value {
                Tree::Scalar { .. } => entry.value.place,
                _ => entry.place,
            };
            if let Some(value) = self.value(&entry.value, entry_schema, &entry_path, shown_at) {
                object.insert(entry.key.clone(), value);
            } else if names.is_some() {
                object.insert(entry.key.clone(), stand_in(entry_schema));
            }
        }
        for name in required(schema).filter(|name| !object.contains_key(*name)).collect::<Vec<_>>() {
            let Some(field_schema) = fields.and_then(|fields| fields.get(name)) else { continue };
            let field_path = join(path, name);
            if !seen.contains_key(name) && !meant.contains(&name) {
                let hint = field_schema.get("description").and_then(Value::as_str).unwrap_or_default();
                self.say(&field_path, place, "is missing", &expected(resolve(field_schema)), hint);
            }
            let around = (!path.is_empty()).then(|| path.to_owned());
            self.broken.push(Broken { path: field_path, around });
            object.insert(name.to_owned(), stand_in(field_schema));
        }
        object
    }

    fn unknown<'a>(&mut self, key: &str, path: &str, place: Place, known: impl Iterator<Item = &'a str> + Clone) {
        let hint = match (key, nearest(key, known.clone())) {
            (_, Some(near)) => format!("did you mean {near}?"),
            ("currency", None) => "a contract has one currency, in the field of that name at the top".to_owned(),
            ("<<", None) => "write out what is repeated: nothing is merged here".to_owned(),
            _ => String::new(),
        };
        let list: Vec<String> = known.map(|field| format!("`{field}`")).collect();
        let expected = format!("one of {}", list.join(", "));
        self.say(path, place, &format!("there is no field {:?} here", shorten(key)), &expected, &hint);
    }

    fn say(&mut self, field: &str, place: Place, what: &str, expected: &str, hint: &str) -> Option<Value> {
        self.broken.push(Broken { path: field.to_owned(), around: None });
        if self.mistakes.len() >= MISTAKES_MAX {
            return None;
        }
        let field = if field.is_empty() { "document" } else { field };
        self.mistakes.push(Located { place, mistake: mistake(field, what, expected, hint) });
        None
    }
}

/// What a schema asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Object,
    List,
    Text,
    Decimal,
    Integer,
    Truth,
}

fn type_of(schema: &Value) -> Type {
    if schema.get("pattern").is_some_and(|pattern| pattern == DECIMAL_PATTERN) {
        return Type::Decimal;
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => Type::Object,
        Some("array") => Type::List,
        Some("integer") => Type::Integer,
        Some("boolean") => Type::Truth,
        _ => Type::Text,
    }
}

/// The words of an enumeration: a list, or one schema for each word that has a description.
fn words(schema: &Value) -> Option<Vec<&str>> {
    let mut words = Vec::new();
    let choices = schema.get("oneOf").and_then(Value::as_array);
    for schema in choices.into_iter().flatten().chain([schema]) {
        words.extend(schema.get("const").and_then(Value::as_str));
        words.extend(schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str));
    }
    (!words.is_empty()).then_some(words)
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn integer_max(schema: &Value) -> i64 {
    let of_format = match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => i64::from(u32::MAX),
        _ => i64::MAX,
    };
    schema.get("maximum").and_then(Value::as_i64).unwrap_or(of_format)
}

/// What was expected, in words.
fn expected(schema: &Value) -> String {
    if let Some(words) = words(schema) {
        let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
        return format!("one of {}", words.join(", "));
    }
    match type_of(schema) {
        Type::Object => {
            let fields = schema.get("properties").and_then(Value::as_object);
            let fields: Vec<String> = fields.into_iter().flatten().map(|(name, _)| format!("`{name}`")).collect();
            match fields.as_slice() {
                [] => "a map of names".to_owned(),
                _ => format!("a map of fields: {}", fields.join(", ")),
            }
        }
        Type::List => "a list".to_owned(),
        Type::Text => "text".to_owned(),
        Type::Decimal => "a plain decimal number such as 2.50".to_owned(),
        Type::Integer => {
            let least = schema.get("minimum").and_then(Value::as_i64).unwrap_or(i64::MIN);
            format!("a whole number from {least} to {}", integer_max(schema))
        }
        Type::Truth => "true or false".to_owned(),
    }
}

/// Something that fits where nothing fitting was written; never seen by anyone, since its document is refused.
fn stand_in(schema: &'static Value) -> Value {
    let schema = resolve(schema);
    if let Some(word) = words(schema).and_then(|words| words.first().copied()) {
        return Value::from(word);
    }
    match type_of(schema) {
        Type::Object => {
            let field =
                |name: &str| schema.get("properties")?.get(name).map(|field| (name.to_owned(), stand_in(field)));
            Value::Object(required(schema).filter_map(field).collect())
        }
        Type::List => Value::Array(Vec::new()),
        Type::Text => Value::from("?"),
        Type::Decimal => Value::from("1"),
        Type::Integer => Value::from(1),
        Type::Truth => Value::Bool(false),
    }
}

fn decimal_hint(text: &str) -> &'static str {
    if text.chars().any(|c| c.is_alphabetic() && !matches!(c, 'e' | 'E' | 'x')) || text.contains(['$', '€', '£', '¥'])
    {
        "a number alone: the one currency of a contract stands in `currency`, units follow from the basis"
    } else if text.contains(['e', 'E']) {
        "write all digits, without an exponent"
    } else if text.contains([',', '_', '\'', ' ']) {
        "digits and a point, without separators of thousands"
    } else if text.contains('%') {
        "a number alone: the field's name says percent"
    } else {
        ""
    }
}

fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|word| format!("did you mean {word}?")).unwrap_or_default()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn mistake(field: &str, what: &str, expected: &str, hint: &str) -> Mistake {
    Mistake { field: field.into(), what: what.into(), expected: expected.into(), hint: hint.into() }
}

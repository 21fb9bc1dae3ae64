//! YAML (and so JSON, which is YAML) to a tree in which everything has its place. Scalars stay text: `2.50` is no float here and
//! `NO` no truth value; what a scalar is, the schema says.
//!
//! Everything is bounded, and nothing is expanded: anchors and aliases, by which a small file becomes a huge tree, are refused.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::{Located, Mistake, Place, shorten};

/// Largest file, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Most values and keys in a file.
pub const NODES_MAX: usize = 50_000;
/// Deepest nesting; a contract has seven levels.
const DEPTH_MAX: usize = 16;
/// Longest key: longer than any field, and than any name that is allowed.
const KEY_BYTES_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Tree,
}

#[derive(Debug)]
pub(super) enum Tree {
    /// Nothing, `~` or `null`.
    Null,
    /// `is_plain`: without quotes.
    Scalar {
        text: String,
        is_plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Something that was refused and reported.
    Refused,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// The documents of a file. What comes after a mistake in the YAML itself cannot be read.
pub(super) fn parse(text: &str, mistakes: &mut Vec<Located>) -> Vec<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder { parser: Parser::new_from_str(text), nodes: 0, mistakes };
    let mut documents = Vec::new();
    while let Some(document) = builder.document() {
        documents.push(document);
    }
    documents
}

struct Builder<'input, 'm> {
    parser: Parser<'input, StrInput<'input>>,
    nodes: usize,
    mistakes: &'m mut Vec<Located>,
}

/// The file cannot be read any further; why has been reported.
struct Stop;

impl<'input> Builder<'input, '_> {
    fn document(&mut self) -> Option<Node> {
        loop {
            match self.event().ok()? {
                (Event::StreamEnd, _) => return None,
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => (),
                (event, span) => return self.node(event, span, 0).ok(),
            }
        }
    }

    fn event(&mut self) -> Result<(Event<'input>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                self.syntax(&error);
                Err(Stop)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// Recursion is bounded by [`DEPTH_MAX`].
    fn node(&mut self, event: Event<'input>, span: Span, depth: usize) -> Result<Node, Stop> {
        let place = place(span.start);
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            self.say(place, "the file has too many values", format!("at most {NODES_MAX}"), "");
            return Err(Stop);
        }
        if depth > DEPTH_MAX {
            self.say(place, "is nested too deeply", format!("at most {DEPTH_MAX} levels"), "");
            return Err(Stop);
        }
        let anchor_and_tag = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            _ => (0, false),
        };
        if anchor_and_tag.0 != 0 {
            self.say(
                place,
                "is an anchor (&)",
                "a value",
                "write out what is repeated: a contract reads without looking back",
            );
        }
        if anchor_and_tag.1 {
            self.say(place, "is a tag (!)", "a plain value", "what a value is, its field says");
        }
        let value = match event {
            Event::Alias(_) => {
                self.say(
                    place,
                    "is an alias (*)",
                    "a value",
                    "write out what is repeated, or quote a text that begins with *",
                );
                Tree::Refused
            }
            Event::Scalar(text, style, ..) => scalar(text.into_owned(), style == ScalarStyle::Plain),
            Event::SequenceStart(..) => Tree::List(self.list(depth)?),
            Event::MappingStart(..) => Tree::Map(self.map(depth)?),
            // The parser pairs beginnings and ends; if it ever did not, the file would end here.
            _ => return Err(Stop),
        };
        Ok(Node { place, value })
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stop> {
        let mut list = Vec::new();
        loop {
            match self.event()? {
                (Event::SequenceEnd, _) => return Ok(list),
                (event, span) => list.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Stop> {
        let mut map: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.event()?;
            if event == Event::MappingEnd {
                return Ok(map);
            }
            let key = self.node(event, span, depth + 1)?;
            let (event, span) = self.event()?;
            let value = self.node(event, span, depth + 1)?;
            match key.value {
                Tree::Scalar { text, .. } if text.len() <= KEY_BYTES_MAX => {
                    map.push(Entry { key: text, place: key.place, value });
                }
                Tree::Scalar { text, .. } => {
                    let what = format!("{:?} is too long for a field or a name", shorten(&text));
                    self.say(key.place, what, format!("at most {KEY_BYTES_MAX} bytes"), "");
                }
                Tree::Refused => (),
                Tree::Null | Tree::List(_) | Tree::Map(_) => {
                    self.say(key.place, "is no name of a field", "a plain word and a colon", "");
                }
            }
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        let hint = if error.info().contains('\t') || error.info().contains("tab") {
            "indent with spaces; YAML allows no tabs there"
        } else {
            "what follows could not be read; mend this first"
        };
        self.say(place(*error.marker()), format!("is not YAML: {}", error.info()), "a YAML document", hint);
    }

    fn say(&mut self, place: Place, what: impl Into<String>, expected: impl Into<String>, hint: &str) {
        let mistake =
            Mistake { field: "document".into(), what: what.into(), expected: expected.into(), hint: hint.into() };
        self.mistakes.push(Located { place, mistake });
    }
}

fn scalar(text: String, is_plain: bool) -> Tree {
    if is_plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        Tree::Null
    } else {
        Tree::Scalar { text, is_plain }
    }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

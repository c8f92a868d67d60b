//! YAML text to trees of values that know their line, as kubectl would read it (YAML 1.1 booleans, merge keys, anchors) but
//! with every mistake of a file, not just the first, and with a bound on what aliases may expand to.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// More than any sane file holds; a file made to exhaust memory by aliases of aliases passes it at once.
const MAX_NODES: usize = 1_000_000;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line in the file, from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing, or `null`.
    Null,
    /// `true`, `yes`, `on` and their opposites, without quotes.
    Bool(bool),
    /// A whole number without quotes.
    Int(i64),
    /// Another number without quotes.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Line of the key, from 1.
    pub line: usize,
    /// The value.
    pub node: Node,
}

/// One document of a file.
#[derive(Debug)]
pub struct Document {
    /// Number within the file, from 1.
    pub number: usize,
    /// What it holds; [`Value::Null`] when empty.
    pub root: Node,
}

/// One mistake in the text of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextError {
    /// Number of the document, from 1.
    pub document: usize,
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong and what would be right. Holds nothing of the text, which may be a Secret's.
    pub message: String,
}

impl Node {
    /// The value of a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of what stands at `path` (`spec.storage.volumes[1].name`), or of the innermost part of it that exists.
    pub fn line_of(&self, path: &str) -> usize {
        let mut node = self;
        let mut line = self.line;
        for step in path.split(['.', '[']) {
            let next = match step.strip_suffix(']').map(str::parse::<usize>) {
                Some(Ok(index)) => match &node.value {
                    Value::List(items) => items.get(index).map(|item| (item, item.line)),
                    _ => None,
                },
                _ => match &node.value {
                    Value::Map(entries) => {
                        entries.iter().find(|entry| entry.key == step).map(|entry| (&entry.node, entry.line))
                    }
                    _ => None,
                },
            };
            let Some((inner, at)) = next else { break };
            (node, line) = (inner, at);
        }
        line
    }

    /// Forgets all values and keeps where they stood, for what must not be kept in readable form.
    pub fn forget_values(&mut self) {
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(Node::forget_values),
            Value::Map(entries) => entries.iter_mut().for_each(|entry| entry.node.forget_values()),
            value => *value = Value::Null,
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| 1 + entry.node.size()).sum(),
            _ => 0,
        }
    }
}

/// Reads all documents of a file, and all its mistakes.
pub fn read(text: &str) -> (Vec<Document>, Vec<TextError>) {
    let mut reader = Reader {
        text,
        parser: Parser::new_from_str_with_options(text, granit_parser::options! { emit_comments: false }),
        anchors: HashMap::new(),
        nodes: 0,
        number: 0,
        documents: Vec::new(),
        errors: Vec::new(),
    };
    reader.run();
    (reader.documents, reader.errors)
}

struct Reader<'t> {
    text: &'t str,
    parser: Parser<'t, granit_parser::StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    number: usize,
    documents: Vec<Document>,
    errors: Vec<TextError>,
}

/// The text can't be read on, from here to the end of the document.
struct Broken;

impl<'t> Reader<'t> {
    fn run(&mut self) {
        loop {
            match self.document() {
                Ok(true) => {}
                Ok(false) => return,
                Err(Broken) => match self.parser.proceed_next_document() {
                    Ok(true) if self.nodes <= MAX_NODES => {}
                    _ => return,
                },
            }
        }
    }

    /// Whether there was another document.
    fn document(&mut self) -> Result<bool, Broken> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(false),
                Event::DocumentStart(..) => {
                    self.number += 1;
                    self.anchors.clear();
                }
                Event::StreamStart | Event::DocumentEnd => {}
                event => {
                    let root = self.node(event, span)?;
                    self.documents.push(Document { number: self.number, root });
                    return Ok(true);
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Broken> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let line = error.marker().line();
                let indent = self.text.lines().nth(line.saturating_sub(1)).map(|text| {
                    let content = text.trim_start_matches([' ', '\t']);
                    text.get(..text.len() - content.len()).unwrap_or_default().contains('\t')
                });
                let message = if indent == Some(true) {
                    "is indented with a tab; YAML allows only spaces for indentation".to_owned()
                } else {
                    format!("is not valid YAML: {}", error.info())
                };
                self.fail(line, message);
                Err(Broken)
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn fail(&mut self, line: usize, message: String) {
        self.errors.push(TextError { document: self.number.max(1), line, message });
    }

    fn count(&mut self, nodes: usize, line: usize) -> Result<(), Broken> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        self.fail(
            line,
            format!("holds more than {MAX_NODES} values once its aliases are expanded; write it with fewer"),
        );
        Err(Broken)
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, Broken> {
        let line = span.start.line();
        if let Some(tag) = event.tag()
            && !["str", "int", "float", "bool", "null", "seq", "map"]
                .iter()
                .any(|name| tag.is_yaml_core_schema_tag(name))
        {
            let message = format!("has the tag {}, which means nothing here; remove it", tag.original());
            self.fail(line, message);
        }
        let anchor = event.anchor_id();
        let value = match event {
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    self.fail(line, "is an alias of what it stands in; write it out".to_owned());
                    return Err(Broken);
                };
                let size = node.size();
                self.count(size, line)?;
                return Ok(self
                    .anchors
                    .get(&id)
                    .map_or(Node { line, value: Value::Null }, |node| Node { line, value: node.value.clone() }));
            }
            Event::Scalar(text, style, _, ref tag) => {
                let is_text = tag.as_ref().is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
                if style == ScalarStyle::Plain && !is_text { plain(&text) } else { Value::Text(text.into_owned()) }
            }
            Event::SequenceStart(..) => self.list()?,
            Event::MappingStart(..) => self.map()?,
            _ => Value::Null,
        };
        self.count(1, line)?;
        let node = Node { line, value };
        if let Some(id) = anchor.filter(|id| *id != 0) {
            self.anchors.insert(id, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Value, Broken> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Value, Broken> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                break;
            }
            let line = span.start.line();
            let key = match &event {
                Event::Scalar(text, ..) => Some(text.to_string()),
                _ => None,
            };
            let plain_key = matches!(&event, Event::Scalar(_, ScalarStyle::Plain, ..));
            self.node(event, span)?;
            let (event, span) = self.next()?;
            let node = self.node(event, span)?;
            match key {
                None => self.fail(line, "has a key that is not text".to_owned()),
                Some(key) if key == "<<" && plain_key => merged.push(node),
                Some(key) => {
                    if seen.insert(key.clone()) {
                        entries.push(Entry { key, line, node });
                    } else {
                        self.fail(line, format!("has the key {key:?} for the second time; keep one of them"));
                    }
                }
            }
        }
        for node in merged {
            let line = node.line;
            let sources = match node.value {
                Value::List(items) => items,
                value => vec![Node { line, value }],
            };
            for source in sources {
                match source.value {
                    Value::Map(inherited) => {
                        entries.extend(inherited.into_iter().filter(|entry| seen.insert(entry.key.clone())));
                    }
                    _ => self.fail(line, "merges (<<) something that is not a mapping".to_owned()),
                }
            }
        }
        Ok(Value::Map(entries))
    }
}

/// What a scalar without quotes is, by YAML 1.1 as kubectl reads it.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return Value::Int(number);
    }
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    if text.chars().all(numeric)
        && text.contains(|c: char| c.is_ascii_digit())
        && let Ok(number) = text.parse::<f64>()
    {
        return Value::Float(number);
    }
    Value::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<(usize, String)> {
        read(text).1.into_iter().map(|error| (error.line, error.message)).collect()
    }

    fn only(text: &str) -> Node {
        let (mut documents, errors) = read(text);
        assert_eq!(errors, []);
        assert_eq!(documents.len(), 1);
        documents.remove(0).root
    }

    #[test]
    fn values_and_their_lines() {
        let root = only("a: 1\nb:\n- x\n- \"2\"\nc: {d: yes, e: 1.5, f: ~}\n");
        assert_eq!(root.get("a").unwrap().value, Value::Int(1));
        assert_eq!(root.line_of("b[1]"), 4);
        assert_eq!(root.line_of("c.d"), 5);
        assert_eq!(root.line_of("b[7].x"), 2);
        assert_eq!(root.get("c").unwrap().get("d").unwrap().value, Value::Bool(true));
        assert_eq!(root.get("c").unwrap().get("e").unwrap().value, Value::Float(1.5));
        assert_eq!(root.get("c").unwrap().get("f").unwrap().value, Value::Null);
        assert_eq!(root.get("b").unwrap().value, {
            let text = |line, text: &str| Node { line, value: Value::Text(text.into()) };
            Value::List(vec![text(3, "x"), text(4, "2")])
        });
    }

    #[test]
    fn documents_are_counted_and_may_be_empty() {
        let (documents, errors) = read("# nothing\n---\na: 1\n---\n---\nb: 2\n...\n");
        assert_eq!(errors, []);
        let numbers: Vec<_> = documents.iter().map(|d| (d.number, d.root.value == Value::Null)).collect();
        assert_eq!(numbers, [(1, false), (2, true), (3, false)]);
        assert_eq!(read("").0.len(), 0);
        assert_eq!(read("---\n").0.len(), 1);
    }

    #[test]
    fn anchors_aliases_and_merge_keys() {
        let root = only("base: &base {a: 1, b: 2}\nfirst: *base\nsecond:\n  <<: *base\n  b: 3\n");
        assert_eq!(root.get("first").unwrap().get("a").unwrap().value, Value::Int(1));
        let second = root.get("second").unwrap();
        assert_eq!(second.get("a").unwrap().value, Value::Int(1));
        assert_eq!(second.get("b").unwrap().value, Value::Int(3));
    }

    #[test]
    fn aliases_cannot_exhaust_memory() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let refs = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{refs}]\n"));
        }
        let errors = errors(&text);
        assert_eq!(errors.len(), 1);
        assert!(errors[0].1.contains("once its aliases are expanded"), "{errors:?}");
    }

    #[test]
    fn mistakes_name_their_line_and_later_documents_are_read() {
        let text = "a: 1\na: 2\n---\nb:\n\tc: 1\n---\nd: *nowhere\n---\ne: !thing 1\n---\n[f\n---\ng: 1\n";
        let (documents, errors) = read(text);
        let found: Vec<_> = errors.iter().map(|e| (e.document, e.line)).collect();
        assert_eq!(found, [(1, 2), (2, 5), (3, 7), (4, 9), (5, 11)], "{errors:?}");
        assert!(errors[0].message.contains("\"a\" for the second time"));
        assert!(errors[1].message.contains("tab"), "{errors:?}");
        assert_eq!(documents.last().unwrap().root.get("g").unwrap().value, Value::Int(1));
    }

    #[test]
    fn an_alias_of_itself_is_refused() {
        assert_eq!(errors("a: &a [*a]\n").len(), 1);
    }
}

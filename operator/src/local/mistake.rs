//! What is wrong with a manifest, in words that lead to the place.

use std::fmt;
use std::path::PathBuf;

/// One mistake: where it is, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file.
    pub file: PathBuf,
    /// The line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// The document in the file, from 1; 0 for the file itself.
    pub document: usize,
    /// Kind, namespace and name of the object, as far as they could be read.
    pub object: Option<String>,
    /// The field, from the object's root; empty for the object itself.
    pub path: String,
    /// What stands there, without credentials; empty where it would not help.
    pub value: String,
    /// What would be right.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": ")?;
        match (&self.object, self.document) {
            (Some(object), document) => write!(f, "document {document} ({object}): ")?,
            (None, 0) => {}
            (None, document) => write!(f, "document {document}: ")?,
        }
        for part in [&self.path, &self.value] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message)
    }
}

//! Text with placeholders: `{data}/x` is a file in the data directory of whichever node it is started on.

use std::fmt;

/// What may stand in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Placeholder {
    /// The database's data directory: the replicated volume.
    Data,
    /// The node's folder.
    Dir,
    /// A folder for sockets, process ids and the files of `[database.files]`: the database's own, emptied before each
    /// start, not replicated.
    Run,
    /// A folder for logs: the database's own, not replicated.
    Log,
    /// Where the database must listen.
    Address,
    /// Its port there; in `uri`: the endpoint's.
    Port,
    /// The clients' user: `app`.
    User,
    /// Its password.
    Password,
    /// Only in `uri`: one node's address.
    Host,
    /// Only in `uri`: every node's address with the endpoint's port, with commas between.
    Hosts,
}

impl Placeholder {
    const ALL: [Self; 10] = [
        Self::Data,
        Self::Dir,
        Self::Run,
        Self::Log,
        Self::Address,
        Self::Port,
        Self::User,
        Self::Password,
        Self::Host,
        Self::Hosts,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Dir => "dir",
            Self::Run => "run",
            Self::Log => "log",
            Self::Address => "address",
            Self::Port => "port",
            Self::User => "user",
            Self::Password => "password",
            Self::Host => "host",
            Self::Hosts => "hosts",
        }
    }
}

/// Where a text stands, which decides what it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A program or an argument: everybody on the machine can read it with `ps`.
    Argument,
    /// Environment, files, what is sent: only the database's user can read it.
    Private,
    /// A client's URI.
    Uri,
}

impl Use {
    fn allows(self, p: Placeholder) -> bool {
        use Placeholder::{Host, Hosts, Password, Port, User};
        match self {
            Self::Argument => !matches!(p, Password | Host | Hosts),
            Self::Private => !matches!(p, Host | Hosts),
            Self::Uri => matches!(p, Host | Hosts | Port | User | Password),
        }
    }
}

/// A text with placeholders, checked.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Template {
    parts: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Hole(Placeholder),
}

impl Template {
    /// Reads a text. `{{` and `}}` stand for single braces.
    ///
    /// # Errors
    /// [`TemplateError`]: what is wrong and what is allowed.
    pub(super) fn parse(text: &str, at: Use) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\0' => return Err(TemplateError::Zero),
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    plain.push(c);
                }
                '}' => return Err(TemplateError::Lone('}')),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) if c.is_ascii_alphanumeric() || c == '_' => name.push(c),
                            _ => return Err(TemplateError::Lone('{')),
                        }
                    }
                    let hole = hole(name, at)?;
                    if !plain.is_empty() {
                        parts.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Piece::Hole(hole));
                }
                c => plain.push(c),
            }
        }
        if !plain.is_empty() {
            parts.push(Piece::Text(plain));
        }
        Ok(Self { parts })
    }

    /// Does it hold this placeholder?
    pub(super) fn has(&self, what: Placeholder) -> bool {
        self.parts.contains(&Piece::Hole(what))
    }

    /// The text with every placeholder replaced.
    pub(super) fn fill(&self, value: impl Fn(Placeholder) -> String) -> String {
        self.parts
            .iter()
            .map(|p| match p {
                Piece::Text(t) => t.clone(),
                Piece::Hole(h) => value(*h),
            })
            .collect()
    }

    /// How it begins, when that is no placeholder.
    pub(super) fn begins(&self) -> &str {
        match self.parts.first() {
            Some(Piece::Text(t)) => t,
            _ => "",
        }
    }
}

fn hole(name: String, at: Use) -> Result<Placeholder, TemplateError> {
    match Placeholder::ALL.into_iter().find(|p| p.name() == name) {
        Some(p) if at.allows(p) => Ok(p),
        Some(Placeholder::Password) => Err(TemplateError::Shown),
        _ => Err(TemplateError::Unknown { name, at }),
    }
}

/// As it is written.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Piece::Text(t) => f.write_str(&t.replace('{', "{{").replace('}', "}}"))?,
                Piece::Hole(h) => write!(f, "{{{}}}", h.name())?,
            }
        }
        Ok(())
    }
}

/// A text is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    /// A placeholder that there is not, or not here.
    #[error("{{{name}}} is no placeholder here; use {}, or double the braces", names(*.at))]
    Unknown {
        /// What stands in the braces.
        name: String,
        /// Where.
        at: Use,
    },
    /// A secret where everybody can see it.
    #[error(
        "{{password}} would be shown to every user of the machine by ps; put it into [database.env] or a file of \
         [database.files]"
    )]
    Shown,
    /// A brace alone.
    #[error("has a '{0}' of its own; use a placeholder such as {{data}}, or double the brace")]
    Lone(char),
    /// A zero byte.
    #[error("must not contain a zero byte")]
    Zero,
}

fn names(at: Use) -> String {
    let all = Placeholder::ALL.into_iter().filter(|p| at.allows(*p));
    all.map(|p| format!("{{{}}}", p.name())).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, at: Use) -> String {
        Template::parse(text, at).unwrap().fill(|p| format!("<{}>", p.name()))
    }

    fn refused(text: &str, at: Use) -> String {
        Template::parse(text, at).unwrap_err().to_string()
    }

    #[test]
    fn placeholders_are_replaced_and_doubled_braces_are_single_ones() {
        assert_eq!(filled("{data}/x:{port}", Use::Argument), "<data>/x:<port>");
        assert_eq!(filled("a{{b}}c{{{run}}}", Use::Argument), "a{b}c{<run>}");
        assert_eq!(filled("{password}", Use::Private), "<password>");
        assert_eq!(filled("", Use::Argument), "");
        assert_eq!(Template::parse("a{{b}}{run}", Use::Argument).unwrap().to_string(), "a{{b}}{run}");
    }

    #[test]
    fn what_is_no_placeholder_is_named() {
        assert!(refused("{date}", Use::Argument).contains("{date}"));
        assert!(refused("{date}", Use::Argument).contains("{data}"));
        assert!(refused("{hosts}", Use::Private).contains("{hosts} is no placeholder here"));
        assert!(refused("{data}", Use::Uri).contains("{host}"));
        assert!(refused("x{password}", Use::Argument).contains("ps"));
        for lone in ["{", "a}", "{a b}", "{data", "{}}"] {
            assert!(Template::parse(lone, Use::Private).is_err(), "{lone}");
        }
        assert_eq!(refused("a\0", Use::Private), "must not contain a zero byte");
    }
}

//! Options of the form `key=value,key=value`, as docker reads them: one line of CSV.

use mica_builder::dockerfile::suggestion;

use crate::diagnostic::{hint, usage_error};

/// The fields of one such option.
#[derive(Debug)]
pub struct Fields {
    /// The option with its value, for messages.
    shown: String,
    fields: Vec<(String, Option<String>)>,
    /// The keys that were asked for.
    known: Vec<&'static str>,
}

impl Fields {
    /// Splits the value of `option`.
    ///
    /// # Errors
    /// A quotation mark without its counterpart.
    pub fn parse(option: &'static str, text: &str) -> anyhow::Result<Self> {
        let shown = format!("{option} {text}");
        let Some(cells) = cells(text) else {
            return Err(usage_error(format!(
                "{shown}: a quotation mark has no counterpart"
            )));
        };
        let fields = cells
            .into_iter()
            .filter(|cell| !cell.trim().is_empty())
            .map(|cell| match cell.split_once('=') {
                // An annotation's name is part of its key.
                Some((key, value)) if key.starts_with("annotation") => {
                    (key.to_owned(), Some(value.to_owned()))
                }
                Some((key, value)) => (key.trim().to_lowercase(), Some(value.to_owned())),
                None => (cell.trim().to_owned(), None),
            })
            .collect();
        Ok(Self {
            shown,
            fields,
            known: Vec::new(),
        })
    }

    /// The value of a key; of several the last.
    pub fn text(&mut self, key: &'static str) -> anyhow::Result<Option<String>> {
        self.known.push(key);
        let mut found = None;
        for (_, value) in self.fields.extract_if(.., |(name, _)| name == key) {
            found = Some(value.ok_or_else(|| usage_error(format!("{}: {key} has no value", self.shown)))?);
        }
        Ok(found)
    }

    /// A value that is true or false; a key without a value is true.
    pub fn boolean(&mut self, key: &'static str) -> anyhow::Result<Option<bool>> {
        self.known.push(key);
        let mut found = None;
        for (_, value) in self.fields.extract_if(.., |(name, _)| name == key) {
            found = Some(match value.as_deref().map(str::to_lowercase).as_deref() {
                None | Some("true" | "1" | "t") => true,
                Some("false" | "0" | "f") => false,
                Some(_) => {
                    return Err(usage_error(format!("{}: {key} is true or false", self.shown)));
                }
            });
        }
        Ok(found)
    }

    /// One of several words.
    pub fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> anyhow::Result<Option<T>> {
        let Some(given) = self.text(key)? else {
            return Ok(None);
        };
        let found = choices.iter().find(|(word, _)| *word == given);
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.unknown(&format!("{key}={given}"), &given, &words)
        })
    }

    /// Takes out the fields whose key begins so: the rest of the key, and the value.
    pub fn beginning_with(&mut self, prefix: &str) -> Vec<(String, String)> {
        let taken = self.fields.extract_if(.., |(key, _)| key.starts_with(prefix));
        taken
            .map(|(key, value)| (key[prefix.len()..].to_owned(), value.unwrap_or_default()))
            .collect()
    }

    /// Says that something makes no sense.
    pub fn wrong(&self, what: impl std::fmt::Display) -> anyhow::Error {
        usage_error(format!("{}: {what}", self.shown))
    }

    /// Sees that nothing is left.
    ///
    /// # Errors
    /// A key that nobody asked for.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.fields.first() {
            Some((key, _)) => Err(self.unknown(key, key, &self.known)),
            None => Ok(()),
        }
    }

    fn unknown(&self, what: &str, word: &str, words: &[&'static str]) -> anyhow::Error {
        let error = usage_error(format!("{}: {what} is not understood", self.shown));
        match suggestion(word, words.iter().copied()) {
            Some(near) => hint(error, format!("did you mean {near}?")),
            None => hint(error, format!("it may be {}", words.join(", "))),
        }
    }
}

/// The cells of a line of CSV (RFC 4180); `None` if a quotation mark has no counterpart.
fn cells(line: &str) -> Option<Vec<String>> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        let cell = cells.last_mut()?;
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                cell.push('"');
                characters.next();
            }
            '"' if quoted || cell.is_empty() => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cell.push(c),
        }
    }
    (!quoted).then_some(cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields {
        Fields::parse("--x", text).unwrap()
    }

    #[test]
    fn commas_can_be_quoted() {
        let mut found = fields(r#"a=1,"name=x,y", b ,"c=say ""hi""""#);
        assert_eq!(found.text("name").unwrap().as_deref(), Some("x,y"));
        assert_eq!(found.text("c").unwrap().as_deref(), Some(r#"say "hi""#));
        assert_eq!(found.text("a").unwrap().as_deref(), Some("1"));
        assert_eq!(found.boolean("b").unwrap(), Some(true));
        found.finish().unwrap();
        assert!(Fields::parse("--x", "a=1,\"b=2").is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let told = |error: anyhow::Error| {
            let error = crate::diagnostic::describe(&error, false);
            error.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let mut found = fields("tyep=oci");
        assert_eq!(found.choice("type", &[("oci", 1)]).unwrap(), None);
        let error = told(found.finish().unwrap_err());
        assert_eq!(error[0], "mica: error: --x tyep=oci: tyep is not understood");
        assert_eq!(error[1], "  hint: did you mean type?");
        let error = told(fields("type=odi").choice("type", &[("oci", 1)]).unwrap_err());
        assert_eq!(error[0], "mica: error: --x type=odi: type=odi is not understood");
        assert_eq!(error[1], "  hint: did you mean oci?");
        assert!(fields("tar=maybe").boolean("tar").is_err());
        assert!(fields("dest").text("dest").is_err());
    }
}

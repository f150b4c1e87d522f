//! The variables of a stage.

use std::collections::HashMap;

use crate::dockerfile::Environment;

/// Values by name, in the order of the names' first definition.
#[derive(Clone, Debug)]
pub(super) struct Named<V> {
    entries: Vec<(String, V)>,
    positions: HashMap<String, usize>,
}

impl<V> Default for Named<V> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            positions: HashMap::new(),
        }
    }
}

impl<V> Named<V> {
    /// Sets a value; a name that is there keeps its place.
    pub(super) fn set(&mut self, name: &str, value: V) {
        if let Some(&at) = self.positions.get(name) {
            self.entries[at].1 = value;
            return;
        }
        self.positions.insert(name.to_owned(), self.entries.len());
        self.entries.push((name.to_owned(), value));
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        let at = self.positions.get(name)?;
        self.entries.get(*at).map(|(_, value)| value)
    }

    pub(super) fn entries(&self) -> &[(String, V)] {
        &self.entries
    }
}

/// What the words of a stage are expanded with, and what its RUNs get as their environment: the values of ENV and of
/// ARG, of which the later counts. A stage that stands on another one goes on with that one's.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    variables: Named<String>,
    /// What ARG declared; without a value where none is known.
    arguments: Named<Option<String>>,
    /// Whether a base image is unknown: what is unset here may be set there.
    pub(super) open: bool,
}

impl Environment for Scope {
    fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }
}

impl Scope {
    /// The scope at the start of a stage on top of `base`, or of an image. `env` is its configuration's: it goes
    /// before what the base's own arguments say.
    pub(super) fn begin(base: Option<&Self>, env: &[(String, String)]) -> Self {
        let mut scope = base.cloned().unwrap_or_default();
        for (name, value) in env {
            scope.set(name, value.clone());
        }
        scope
    }

    /// ENV.
    pub(super) fn set(&mut self, name: &str, value: String) {
        self.variables.set(name, value);
    }

    /// ARG, without a value if none is known.
    pub(super) fn declare(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = &value {
            self.set(name, value.clone());
        }
        self.arguments.set(name, value);
    }

    /// Whether an ARG of this stage, or of one below it, has this name.
    pub(super) fn is_declared(&self, name: &str) -> bool {
        self.arguments.get(name).is_some()
    }

    /// The environment of a command.
    pub(super) fn variables(&self) -> &[(String, String)] {
        self.variables.entries()
    }

    /// The arguments in force, with their values, as the history of RUN shows them.
    pub(super) fn arguments(&self) -> Vec<(&str, &str)> {
        let value = |(name, value)| -> (&str, &str) {
            let (name, value): (&String, &Option<String>) = (name, value);
            (name, self.get(name).or(value.as_deref()).unwrap_or_default())
        };
        self.arguments
            .entries()
            .iter()
            .map(|(n, v)| value((n, v)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_definition_counts() {
        let mut scope = Scope::begin(None, &[("A".to_owned(), "env".to_owned())]);
        scope.declare("A", Some("arg".to_owned()));
        scope.declare("B", None);
        assert_eq!(scope.get("A"), Some("arg"));
        assert_eq!(scope.arguments(), [("A", "arg"), ("B", "")]);
        scope.set("A", "again".to_owned());
        assert_eq!(scope.arguments(), [("A", "again"), ("B", "")]);
        let child = Scope::begin(Some(&scope), &[("B".to_owned(), "b".to_owned())]);
        assert_eq!(child.arguments(), [("A", "again"), ("B", "b")]);
        assert!(child.is_declared("B") && !child.is_declared("C"));
    }
}

//! Templates of `--format`, as Docker has them: the part of Go's `text/template` that is used to pick fields out of
//! images (<https://pkg.go.dev/text/template>, <https://docs.docker.com/engine/cli/formatting/>).
//!
//! There are fields (`.Config.Env`), variables, pipes, `range`, `if`, `with`, `-` for trimming, comments and the functions of
//! [`functions`]. Values are those of JSON.

mod functions;
mod parser;

use std::fmt::Write as _;

use anyhow::bail;
use serde_json::Value;

use parser::{Command, Node, Operand, Pipeline, Root};

/// A template that was read, and is ready to be applied to objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Node>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, and at which character.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        parser::parse(text).map(Self)
    }

    /// Writes `object` as the template has it.
    ///
    /// # Errors
    /// If `object` has no field of a name that the template asks of it, or a function cannot take what it is given.
    pub fn render(&self, object: &Value) -> anyhow::Result<String> {
        let mut out = String::new();
        let mut scope = Scope {
            root: object,
            dot: object.clone(),
            variables: Vec::new(),
        };
        scope.write(&self.0, &mut out)?;
        Ok(out)
    }
}

/// What names stand for at one place of a template.
struct Scope<'a> {
    root: &'a Value,
    dot: Value,
    variables: Vec<(String, Value)>,
}

impl Scope<'_> {
    fn write(&mut self, nodes: &[Node], out: &mut String) -> anyhow::Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipeline) => out.push_str(&functions::show(&self.value(pipeline)?)),
                Node::Set(name, pipeline) => {
                    let value = self.value(pipeline)?;
                    self.variables.push((name.clone(), value));
                }
                Node::If(pipeline, yes, no) => {
                    let branch = if functions::truth(&self.value(pipeline)?) {
                        yes
                    } else {
                        no
                    };
                    self.inside(None, Vec::new(), branch, out)?;
                }
                Node::With(pipeline, yes, no) => {
                    let value = self.value(pipeline)?;
                    match functions::truth(&value) {
                        true => self.inside(Some(value), Vec::new(), yes, out)?,
                        false => self.inside(None, Vec::new(), no, out)?,
                    }
                }
                Node::Range(names, pipeline, body, none) => self.range(names, pipeline, body, none, out)?,
            }
        }
        Ok(())
    }

    /// Writes a block, in which there may be another dot and further variables.
    fn inside(
        &mut self,
        dot: Option<Value>,
        variables: Vec<(String, Value)>,
        body: &[Node],
        out: &mut String,
    ) -> anyhow::Result<()> {
        let known = self.variables.len();
        self.variables.extend(variables);
        let outer = dot.map(|dot| std::mem::replace(&mut self.dot, dot));
        let result = self.write(body, out);
        if let Some(outer) = outer {
            self.dot = outer;
        }
        self.variables.truncate(known);
        result
    }

    fn range(
        &mut self,
        names: &[String],
        pipeline: &Pipeline,
        body: &[Node],
        none: &[Node],
        out: &mut String,
    ) -> anyhow::Result<()> {
        let elements: Vec<(Value, Value)> = match self.value(pipeline)? {
            Value::Array(list) => list.into_iter().enumerate().map(|(n, v)| (n.into(), v)).collect(),
            Value::Object(map) => map.into_iter().map(|(k, v)| (k.into(), v)).collect(),
            Value::Null => Vec::new(),
            other => bail!("range can't iterate over {}", functions::show(&other)),
        };
        if elements.is_empty() {
            return self.inside(None, Vec::new(), none, out);
        }
        for (key, value) in elements {
            let variables = match names {
                [] => Vec::new(),
                [one] => vec![(one.clone(), value.clone())],
                [first, second, ..] => vec![(first.clone(), key), (second.clone(), value.clone())],
            };
            self.inside(Some(value), variables, body, out)?;
        }
        Ok(())
    }

    fn value(&self, pipeline: &Pipeline) -> anyhow::Result<Value> {
        let mut last = None;
        for command in &pipeline.0 {
            last = Some(self.call(command, last)?);
        }
        Ok(last.unwrap_or(Value::Null))
    }

    /// A command's value; what came down the pipe is its last argument.
    fn call(&self, command: &Command, piped: Option<Value>) -> anyhow::Result<Value> {
        match command {
            Command::Value(operand) if piped.is_none() => self.operand(operand),
            Command::Value(_) => bail!("a value takes nothing from a pipe"),
            Command::Function(function, arguments) => {
                let arguments = arguments.iter().map(|argument| self.operand(argument));
                let mut arguments = arguments.collect::<anyhow::Result<Vec<_>>>()?;
                arguments.extend(piped);
                functions::call(function, &arguments)
            }
        }
    }

    fn operand(&self, operand: &Operand) -> anyhow::Result<Value> {
        let (root, path) = match operand {
            Operand::Literal(value) => return Ok(value.clone()),
            Operand::Path(root, path) => (root, path),
        };
        let value = match root {
            Root::Dot => self.dot.clone(),
            Root::Variable(name) if name.is_empty() => self.root.clone(),
            Root::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, value)) => value.clone(),
                None => bail!("undefined variable ${name}"),
            },
            Root::Pipeline(pipeline) => self.value(pipeline)?,
        };
        let is_object = value == *self.root;
        field(value, path, is_object)
    }
}

/// Follows a path of fields. The object that is described must have the field; a map that it contains need not.
fn field(mut value: Value, path: &[String], is_object: bool) -> anyhow::Result<Value> {
    for (depth, name) in path.iter().enumerate() {
        let found = match &mut value {
            Value::Object(map) => map.get_mut(name).map(Value::take),
            Value::Null => None,
            other => bail!("can't evaluate field {name} in {}", functions::show(other)),
        };
        value = match (found, &value) {
            (Some(found), _) => found,
            (None, Value::Object(map)) if depth == 0 && is_object => {
                let mut hint = String::new();
                for (n, known) in map.keys().enumerate() {
                    let _ = write!(hint, "{}.{known}", if n > 0 { ", " } else { "" });
                }
                bail!("there is no field .{name}; there are {hint}");
            }
            (None, _) => Value::Null,
        };
    }
    Ok(value)
}

#[cfg(test)]
mod tests;

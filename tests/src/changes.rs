//! Many steps in one build, each in a stage of its own, and which of them are executed again after a change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::Scene;
use crate::command::Outcome;

/// A step: its name, and a shell script that works on the sources in `/src`.
pub type Step = (&'static str, &'static str);

/// A change of the sources: what it is, a shell script that makes it in the directory of the context, and the names of
/// the steps that must be executed again; all others must not.
pub struct Change {
    /// What it is, for messages.
    pub name: &'static str,
    /// Makes it.
    pub script: &'static str,
    /// Arguments of the build.
    pub args: &'static [&'static str],
    /// The steps that read what it changes.
    pub misses: &'static [&'static str],
}

/// The steps on the sources that a script has made in `ctx`.
pub struct Traced<'s> {
    scene: &'s Scene,
    steps: &'s [Step],
    before: BTreeMap<&'static str, String>,
}

impl<'s> Traced<'s> {
    /// Builds all steps for the first time. `sources` are the instructions that put the sources into the image `tools`;
    /// the directory `owned` of the context is that of the stage `owned`, and belongs to the build argument `OWNER`.
    pub fn begin(scene: &'s Scene, sources: &str, steps: &'s [Step]) -> Self {
        // In a stage of its own, since an argument is an input of each RUN that can see it.
        let mut dockerfile =
            "FROM scratch AS owned\nARG OWNER=0\nCOPY --chown=$OWNER owned /owned\n".to_owned();
        dockerfile += &format!("FROM tools AS sources\n{sources}\n");
        for (name, script) in steps {
            // Heredocs, so that a script needs no further quotes.
            dockerfile +=
                &format!("FROM sources AS {name}\nRUN <<end\nset -e\n{script}\ndate +%s%N > /ran\nend\n");
        }
        dockerfile += "FROM scratch\n";
        for (name, _) in steps {
            dockerfile += &format!("COPY --from={name} /ran /{name}\n");
        }
        scene.write("ctx/Dockerfile", dockerfile);
        scene.shell("cp -a ctx first").ok();
        let mut traced = Self {
            scene,
            steps,
            before: BTreeMap::new(),
        };
        traced.build(&[]);
        traced.before = traced.ran();
        traced
    }

    /// Changes the sources as they were at the beginning, and checks what is executed, and that `mica why` names what
    /// was changed.
    ///
    /// # Panics
    /// If that is not what the change says.
    pub fn check(&self, change: &Change) -> Outcome {
        self.scene.shell("rm -rf ctx; cp -a first ctx").ok();
        // What `mica why` compares with.
        self.build(&[]);
        let sources = self.sources();
        self.scene.shell(&format!("cd ctx; {}", change.script)).ok();
        let outcome = self.build(change.args);
        let after = self.ran();
        let is_wrong = |name: &&str| (self.before[name] != after[name]) != change.misses.contains(name);
        let names = self.steps.iter().map(|(name, _)| *name);
        let wrong: Vec<_> = names.filter(is_wrong).collect();
        let known = |name: &&&str| self.before.contains_key(**name);
        assert_eq!(change.misses.iter().filter(known).count(), change.misses.len());
        assert!(
            wrong.is_empty(),
            "{}: {wrong:?} should have been executed if and only if in {:?}: {}",
            change.name,
            change.misses,
            outcome.describe()
        );
        let now = self.sources();
        let is_other = |path: &&String| {
            let is_owned = path.starts_with("/owned/") && !change.args.is_empty();
            is_owned || sources.get(*path) != now.get(*path)
        };
        let changed = sources
            .keys()
            .chain(now.keys())
            .filter(is_other)
            .cloned()
            .collect();
        self.is_explained(change, &changed);
        outcome
    }

    /// Each step that was executed has reasons, each of them something that was changed.
    fn is_explained(&self, change: &Change, changed: &BTreeSet<String>) {
        let explained = self.scene.mica(["why", "--format", "json"]).ok().json();
        let stage = |title: &str| Some(title.strip_prefix('[')?.split(' ').next()?.to_owned());
        for step in explained["steps"].as_array().expect("there are steps") {
            let title = step["title"].as_str().expect("a title");
            let is_missed = |name: &&str| stage(title).as_deref() == Some(*name);
            if !title.contains("] RUN") || !change.misses.iter().any(is_missed) {
                continue;
            }
            let reasons = step["reasons"].as_array().expect("there are reasons");
            let is_right = |reason: &Value| {
                let path = reason["path"].as_str().unwrap_or_default();
                let names = reason["names"].as_array().into_iter().flatten();
                let mut names = names.filter_map(|name| Some(format!("{path}/{}", name.as_str()?)));
                // What a RUN of the sources has made of them has a name of its own.
                let is_made = reason["by"]["title"]
                    .as_str()
                    .is_some_and(|by| by.starts_with("[sources ") && by.contains("] RUN"));
                is_made || changed.contains(path) || names.any(|path| changed.contains(&path))
            };
            assert!(
                !reasons.is_empty() && reasons.iter().all(is_right),
                "{}: changed are {changed:?}, and {title} ran because of {reasons:#?}",
                change.name
            );
        }
    }

    /// What the context has of sources, by their paths in the image: type, mode and content.
    fn sources(&self) -> BTreeMap<String, String> {
        let script = "cd ctx; find src owned -printf '/%p %y %m %l ' \\( -type f -printf '%n ' -exec md5sum {} \\; -o -printf '\\n' \\)";
        let listed = self.scene.shell(script).ok().stdout();
        let split =
            |line: &str| Some(line.split_once(' ')?).map(|(path, rest)| (path.to_owned(), rest.to_owned()));
        listed.lines().filter_map(split).collect()
    }

    /// Builds what was checked last once more; each step that the cache has is executed and compared.
    pub fn verify(&self) {
        self.build(&["--verify-cache=100%"]);
    }

    fn build(&self, args: &[&str]) -> Outcome {
        let out = ["-o", "type=local,dest=out"];
        self.scene.rebuild(args.iter().copied().chain(out)).ok()
    }

    /// When each step was executed.
    fn ran(&self) -> BTreeMap<&'static str, String> {
        let read = |(name, _): &Step| (*name, self.scene.read(&format!("out/{name}")));
        let ran = self.steps.iter().map(read).collect();
        fs::remove_dir_all(self.scene.path("out")).expect("the export is ours");
        ran
    }
}

/// Makes the image `tools` of programs of this machine; `None` where one is missing.
pub fn tools(scene: &Scene) -> Option<()> {
    const PROGRAMS: &str = "sh make /usr/bin/python3 tar ldconfig find ls cat cp mv ln rm mkdir rmdir stat touch sed sort \
                            head tail wc env chmod date grep dd cmp expr basename dirname tr cut sha256sum";
    let programs: Vec<_> = PROGRAMS.split_whitespace().collect();
    crate::machine::programs(&programs)?;
    let library = "$(/usr/bin/python3 -c 'import os; print(os.path.dirname(os.__file__))')";
    let import = format!("mica import --host {PROGRAMS} --include {library} -t tools");
    scene.shell(&import).ok();
    Some(())
}

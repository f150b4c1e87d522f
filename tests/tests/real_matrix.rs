//! The cache by trace on projects of many kinds, with the tools that they are really built by: for each class of inputs a
//! change that must be noticed by some and must not be by the others. What `mica why` says of each is checked as well.
//!
//! The tools are Debian's, in images that `tests/real/tools` describes; these are made once, and kept in `target/`. Those
//! of the short set are in every run, all by `scripts/test --long`. What the projects install lies in them.

use std::fs;
use std::path::Path;

use mica_tests::changes::{Change, Step, Traced};
use mica_tests::{Scene, base, machine};

const INSTRUCTIONS: &str = "COPY src /src\nCOPY --from=owned /owned /owned";

const SHORT: [Step; 6] = [
    (
        "pip",
        "cd /src/pip; PIP_CONFIG_FILE=pip.conf pip install --no-index --find-links wheels --target /site -r requirements.txt",
    ),
    ("make", "make -C /src/make"),
    (
        "apt",
        "apt-get -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= install -y /src/apt/left.deb",
    ),
    ("mono_a", "make -C /src/mono/packages/a"),
    ("mono_b", "make -C /src/mono/packages/b"),
    ("owned", "cp -p /owned/package.json /copy"),
];

const LONG: [Step; 10] = [
    ("autotools", "cd /src/autotools; autoreconf -i; ./configure; make"),
    ("npm", "cd /src/npm; npm ci --offline --no-audit --no-fund"),
    (
        "cargo",
        "cd /src/cargo; CARGO_CACHE_RUSTC_INFO=0 cargo build --offline --frozen --target-dir /target",
    ),
    ("cargo_fetch", "cd /src/cargo; cargo fetch --offline --locked"),
    (
        "go_modules",
        "cd /src/go; GOPROXY=off GOCACHE=/gocache go list -m all",
    ),
    ("go", "cd /src/go; export GOPROXY=off GOCACHE=/gocache; go vet ."),
    (
        "bundler",
        "cd /src/bundler; BUNDLE_FROZEN=true bundle install --local",
    ),
    (
        "composer",
        "cd /src/composer; COMPOSER_ALLOW_SUPERUSER=1 COMPOSER_VENDOR_DIR=/vendor composer install --no-interaction",
    ),
    ("java", "javac -d /classes $(find /src/java/src -name '*.java')"),
    ("site", "cd /src/site; hugo -d /public"),
];

const CHANGES: [Change; 8] = [
    Change {
        name: "what no tool looks at",
        script: "cd src; for f in pip/app.py pip/wheels/right-1.0-py3-none-any.whl make/README make/include/y.h \
                 autotools/NOTES apt/README apt/right.deb npm/index.js cargo/NOTES go/docs/text bundler/lib/app.rb \
                 composer/src/app.php java/resources/text site/notes/text; do echo changed > $f; done",
        args: &[],
        misses: &[],
    },
    Change {
        name: "contents of what says what is installed or built",
        script: "cd src; for f in pip/requirements.txt make/Makefile autotools/Makefile.am cargo/Cargo.lock \
                 bundler/Gemfile site/config.toml; do echo '# another' >> $f; done; echo >> npm/package-lock.json; \
                 echo '// another' >> go/go.mod; echo >> composer/composer.json; echo '// another' >> java/src/app/One.java; \
                 echo '/* another */' >> mono/common/common.h; cp apt/other/left.deb apt/left.deb",
        args: &[],
        misses: &[
            "pip",
            "make",
            "autotools",
            "apt",
            "npm",
            "cargo",
            "cargo_fetch",
            "go_modules",
            "go",
            "bundler",
            "composer",
            "java",
            "mono_a",
            "mono_b",
            "site",
        ],
    },
    Change {
        name: "contents of sources",
        script: "cd src; echo >> pip/wheels/left-1.0-py3-none-any.whl; for f in make/two.c autotools/main.c \
                 npm/deps/left/index.js cargo/src/other.rs go/dep/dep.go mono/packages/b/main.c java/src/app/Main.java; \
                 do echo '// another' >> $f; done; echo '<?php $two = 2;' > composer/packages/left/left.php; \
                 echo '# Two' >> site/content/one.md",
        args: &[],
        misses: &[
            "pip",
            "make",
            "autotools",
            "npm",
            "cargo",
            "go",
            "composer",
            "java",
            "mono_b",
            "site",
        ],
    },
    Change {
        name: "modes",
        script: "cd src; chmod 600 pip/requirements.txt make/main.c autotools/configure.ac npm/package.json cargo/Cargo.toml \
                 go/main.go bundler/Gemfile.lock composer/packages/left/composer.json java/src/app/Main.java \
                 mono/packages/a/main.c site/static/style.css; chmod 644 apt/left.deb; \
                 chmod 777 pip/app.py make/include/y.h npm/index.js cargo/NOTES composer/src/app.php mono/packages apt/README",
        args: &[],
        misses: &[
            "pip",
            "make",
            "autotools",
            "npm",
            "cargo",
            "cargo_fetch",
            "go",
            "bundler",
            "composer",
            "java",
            "mono_a",
            "mono_b",
            "site",
        ],
    },
    Change {
        name: "an owner",
        script: "true",
        args: &["--build-arg=OWNER=7"],
        misses: &["owned"],
    },
    Change {
        name: "new files in directories that are listed, and in others",
        script: "cd src; touch pip/wheels/new-1.0-py3-none-any.whl make/new.c autotools/new.c npm/deps/left/new.js \
                 bundler/gems/left/lib/new.rb composer/packages/left/new.php mono/packages/a/new.c site/content/two.md; \
                 echo 'fn main() {}' > cargo/src/bin/new.rs; echo 'package main' > go/new.go; \
                 echo 'package app; class New {}' > java/src/app/New.java; \
                 touch pip/new.py make/include/new.h apt/new.deb npm/new.js cargo/src/new.rs go/docs/new bundler/lib/new.rb \
                 composer/src/new.php java/resources/new mono/new",
        args: &[],
        misses: &[
            "pip",
            "make",
            "autotools",
            "npm",
            "cargo",
            "cargo_fetch",
            "go",
            "bundler",
            "composer",
            "java",
            "mono_a",
            "site",
        ],
    },
    Change {
        name: "files where there was none",
        script: "cd src; touch pip/pip.conf make/local.mk autotools/acinclude.m4 npm/.npmrc; mkdir cargo/.cargo bundler/.bundle \
                 site/data; touch cargo/.cargo/config.toml bundler/.bundle/config site/data/x.toml; \
                 printf 'go 1.19\n\nuse .\n' > go/go.work; echo '{}' > composer/auth.json; \
                 touch pip/setup.cfg apt/notes java/settings mono/notes",
        args: &[],
        misses: &[
            "pip",
            "make",
            "autotools",
            "npm",
            "cargo",
            "cargo_fetch",
            "go_modules",
            "go",
            "bundler",
            "composer",
            "site",
        ],
    },
    Change {
        name: "files that are gone",
        script: "cd src; rm pip/app.py apt/right.deb npm/index.js composer/src/app.php bundler/lib/app.rb java/resources/text \
                 pip/wheels/right-1.0-py3-none-any.whl make/README autotools/NOTES site/static/style.css",
        args: &[],
        misses: &["pip", "make", "autotools", "site"],
    },
];

#[test]
fn projects_are_built_again_by_their_tools_if_and_only_if_their_inputs_have_changed() {
    check("short", &SHORT);
}

#[test]
fn projects_of_larger_tools_are_built_again_if_and_only_if_their_inputs_have_changed() {
    if machine::is_long() {
        check("long", &LONG);
    }
}

/// Makes all changes of the projects that `steps` build, on the tools of that name.
fn check(tools: &str, steps: &[Step]) {
    let Some(scene) = Scene::as_root() else { return };
    let Some(archive) = base::tools(tools) else { return };
    if machine::programs(&["python3", "dpkg-deb"]).is_none() {
        return;
    }
    scene.mica(["load", "-i"]).arg(&archive).ok();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("real/tools/sources.sh");
    scene
        .shell(&fs::read_to_string(script).expect("it is there"))
        .ok();
    let traced = Traced::begin(&scene, INSTRUCTIONS, steps);
    for change in &CHANGES {
        let is_here = |name: &&str| steps.iter().any(|(step, _)| step == name);
        let misses: Vec<_> = change.misses.iter().copied().filter(is_here).collect();
        traced.check(&Change {
            misses: misses.leak(),
            ..*change
        });
    }
    traced.verify();
}

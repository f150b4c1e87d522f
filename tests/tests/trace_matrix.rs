//! The cache by trace on projects of many kinds: what each tool looks at when it installs or builds, in small, and for
//! each class of inputs a change that must be noticed by some and must not be by the others.
//!
//! The tools themselves are stood in for by scripts that look at the same files in the same way, so that no network and
//! no toolchain is needed; make and Python are real.

use mica_tests::Scene;
use mica_tests::changes::{Change, Step, Traced, tools};

const SOURCES: &str = r#"
mkdir -p ctx/src ctx/owned && cd ctx/src
mkdir -p pip/wheels npm/deps/left cargo/src/bin cargo/vendor/dep go make apt/preferences.d apt/archives bundler/lib composer
mkdir -p java/src/main autotools mono/packages/a mono/packages/b site/content site/theme
echo flask > pip/requirements.txt; echo wheel > pip/wheels/flask.whl; echo wheel > pip/wheels/other.whl; echo code > pip/app.py
echo '{"npm": 1}' | tee npm/package.json npm/package-lock.json > /dev/null; echo code > npm/index.js; echo left > npm/deps/left/index.js
echo '[package]' | tee cargo/Cargo.toml cargo/Cargo.lock cargo/vendor/dep/Cargo.toml > /dev/null
echo code | tee cargo/src/main.rs cargo/src/bin/tool.rs > /dev/null
echo 'module x' > go/go.mod; echo sums > go/go.sum; echo code > go/main.go
printf 'SRCS := $(wildcard *.c)\nall: $(SRCS:.c=.o)\n%%.o: %%.c\n\tcp $< $@\n' > make/Makefile; echo one > make/a.c; echo one > make/b.c; echo x > make/README
echo deb > apt/sources.list; echo pin > apt/preferences.d/pin; (cd apt && echo file > one && tar cf archives/one.deb one && rm one); echo x > apt/README
echo gem | tee bundler/Gemfile bundler/Gemfile.lock bundler/x.gemspec > /dev/null; echo code > bundler/lib/app.rb
echo '{"php": 1}' | tee composer/composer.json composer/composer.lock > /dev/null; echo code > composer/index.php
echo '<project/>' > java/pom.xml; echo class | tee java/src/main/A.java java/src/main/B.java > /dev/null; echo x > java/README
printf '#!/bin/sh\n[ -f config.cache ] && . ./config.cache\nsed s/@X@/1/ config.h.in > config.h\n' > autotools/configure; chmod 755 autotools/configure
echo '#define X @X@' > autotools/config.h.in; printf 'all: main.o\nmain.o: main.c config.h\n\tcat main.c config.h > main.o\n' > autotools/Makefile; echo code > autotools/main.c; echo x > autotools/NEWS
echo lock > mono/lock; echo code | tee mono/packages/a/main mono/packages/b/main > /dev/null
echo '# One' > site/content/one.md; echo '<html>' > site/theme/page.html; echo x > site/README
echo '{"owned": 1}' > ../owned/package.json
"#;

const INSTRUCTIONS: &str = "COPY src /src\nCOPY --from=owned /owned /owned";

const STEPS: [Step; 14] = [
    (
        "pip",
        "cd /src/pip; [ ! -e pip.conf ]; python3 -c \"
import os
for name in open('requirements.txt').read().split():
    found = [w for w in os.listdir('wheels') if w.startswith(name)]
    open('/site', 'a').write(open('wheels/' + found[0]).read())\"",
    ),
    (
        "npm",
        "cd /src/npm; for f in .npmrc npm-shrinkwrap.json binding.gyp; do [ ! -e $f ] || echo $f >> /config; done; \
         cat package.json package-lock.json > /lock; cp -r deps/left /left",
    ),
    (
        "cargo",
        "cd /src/cargo; [ ! -e .cargo/config.toml ] || cat .cargo/config.toml > /config; cat Cargo.toml Cargo.lock > /lock; \
         ls src/bin > /bins; cat vendor/*/Cargo.toml > /fetched",
    ),
    (
        "go",
        "cd /src/go; for f in go.work ../go.work vendor; do [ ! -e $f ] || echo $f >> /work; done; cat go.mod go.sum > /modules",
    ),
    ("make", "make -C /src/make"),
    (
        "apt",
        "cd /src/apt; cat sources.list preferences.d/* > /config; tar xf archives/one.deb -C /",
    ),
    (
        "bundler",
        "cd /src/bundler; find . -maxdepth 1 -name '*.gemspec' | sort > /specs; cat Gemfile Gemfile.lock > /lock",
    ),
    (
        "composer",
        "cd /src/composer; [ ! -e auth.json ] || cat auth.json > /auth; cat composer.json composer.lock > /lock",
    ),
    (
        "java",
        "cd /src/java; [ ! -e settings.xml ] || cp settings.xml /; cat pom.xml > /pom; \
         find src/main -name '*.java' | sort | while read f; do sha256sum $f; done > /classes",
    ),
    ("autotools", "cd /src/autotools; ./configure; make"),
    ("mono_a", "cd /src/mono; cat lock packages/a/* > /a"),
    ("mono_b", "cd /src/mono; cat lock packages/b/* > /b"),
    (
        "site",
        "cd /src/site; for page in content/*.md; do cat theme/page.html $page > /$(basename $page).html; done",
    ),
    ("owned", "cp -p /owned/package.json /copy"),
];

const CHANGES: [Change; 8] = [
    Change {
        name: "code that the tools do not look at",
        script: "cd src; for f in pip/app.py npm/index.js cargo/src/main.rs go/main.go make/README apt/README \
                 bundler/lib/app.rb composer/index.php java/README autotools/NEWS site/README; do echo changed > $f; done",
        args: &[],
        misses: &[],
    },
    Change {
        name: "contents of lock files",
        script: "cd src; echo FLASK | tr A-Z a-z > pip/requirements.txt; echo WHEEL > pip/wheels/flask.whl; \
                 echo '{\"npm\": 2}' > npm/package-lock.json; echo '[PACKAGE]' > cargo/Cargo.lock; echo SUMS > go/go.sum; \
                 echo pIn > apt/preferences.d/pin; echo lOck > mono/lock",
        args: &[],
        misses: &["pip", "npm", "cargo", "go", "apt", "mono_a", "mono_b"],
    },
    Change {
        name: "contents of sources",
        script: "cd src; echo two > make/b.c; echo gEm > bundler/Gemfile; echo '{\"php\": 2}' > composer/composer.lock; \
                 echo CLASS > java/src/main/B.java; echo CODE > autotools/main.c; echo CODE > mono/packages/b/main; \
                 echo '# Two' > site/content/one.md; echo WHEEL > pip/wheels/other.whl; echo GEM > bundler/x.gemspec",
        args: &[],
        misses: &[
            "make",
            "bundler",
            "composer",
            "java",
            "autotools",
            "mono_b",
            "site",
        ],
    },
    Change {
        name: "modes",
        script: "cd src; chmod 600 npm/package.json cargo/Cargo.toml make/a.c site/theme/page.html; chmod 700 go/go.mod; \
                 chmod 777 pip/app.py npm/index.js java/README",
        args: &[],
        misses: &["npm", "cargo", "make", "site", "go"],
    },
    Change {
        name: "an owner",
        script: "true",
        args: &["--build-arg=OWNER=7"],
        misses: &["owned"],
    },
    Change {
        name: "new files in directories that are listed, and in others",
        script: "cd src; touch pip/wheels/new.whl cargo/src/bin/new.rs make/c.c apt/preferences.d/new bundler/y.gemspec \
                 java/src/main/C.java mono/packages/a/new site/content/two.md; \
                 touch npm/new.js go/new.go composer/new.php autotools/new.c cargo/src/new.rs site/new",
        args: &[],
        misses: &[
            "pip",
            "cargo",
            "make",
            "apt",
            "bundler",
            "java",
            "autotools",
            "mono_a",
            "site",
        ],
    },
    Change {
        name: "files where there was none",
        script: "cd src; touch npm/.npmrc go/go.work composer/auth.json java/settings.xml autotools/config.cache; \
                 mkdir cargo/.cargo; touch cargo/.cargo/config.toml; touch pip/setup.cfg make/notes.txt mono/notes",
        args: &[],
        misses: &["npm", "go", "composer", "java", "autotools", "cargo", "make"],
    },
    Change {
        name: "files that are gone",
        script: "cd src; rm npm/index.js pip/app.py go/main.go composer/index.php bundler/lib/app.rb mono/packages/b/main; \
                 echo x > mono/packages/b/other; rm make/b.c",
        args: &[],
        misses: &["mono_b", "make"],
    },
];

#[test]
fn projects_of_many_kinds_are_built_again_if_and_only_if_their_inputs_have_changed() {
    let Some(scene) = Scene::with_base() else { return };
    if tools(&scene).is_none() {
        return;
    }
    scene.shell(SOURCES).ok();
    let traced = Traced::begin(&scene, INSTRUCTIONS, &STEPS);
    for change in &CHANGES {
        traced.check(change);
    }
    traced.verify();
}

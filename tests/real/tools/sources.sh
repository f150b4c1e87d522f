# The sources of the projects in tests/tests/real_matrix.rs, made in `ctx` of the working directory.
set -e
mkdir -p ctx/src ctx/owned && cd ctx/src
mkdir -p pip/wheels make/include npm/deps/left cargo/src/bin cargo/dep/src go/dep apt/left/DEBIAN apt/left/usr/share bundler/gems/left/lib bundler/lib \
    composer/packages/left composer/src java/src/app java/resources autotools mono/common mono/packages/a mono/packages/b site/content site/layouts/_default site/static
# pip
echo 'left==1.0' > pip/requirements.txt; echo 'print(1)' > pip/app.py
wheel() { python3 - "$1" "$2" << 'end'
import sys, zipfile
name, text = sys.argv[1:]
with zipfile.ZipFile(f"pip/wheels/{name}-1.0-py3-none-any.whl", "w") as wheel:
    info = f"{name}-1.0.dist-info"
    files = {f"{name}.py": text, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
             f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
             f"{info}/RECORD": f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"}
    for path, content in files.items():
        wheel.writestr(zipfile.ZipInfo(path, (2025, 1, 1, 0, 0, 0)), content)
end
}
wheel left 'one = 1'; wheel right 'one = 1'
# make, C
printf 'SRCS := $(wildcard *.c)\n-include local.mk\napp: $(SRCS:.c=.o)\n\tgcc -o $@ $^\n%%.o: %%.c\n\tgcc -Iinclude -c -o $@ $<\n' > make/Makefile
echo '#define X 1' > make/include/x.h; echo '#define Y 1' > make/include/y.h
printf '#include <x.h>\nint two(void) { return X; }\n' > make/two.c; printf 'int two(void);\nint main(void) { return two(); }\n' > make/main.c; echo x > make/README
# autotools
printf 'AC_INIT([app], [1.0])\nAM_INIT_AUTOMAKE([foreign])\nAC_PROG_CC\nAC_CONFIG_HEADERS([config.h])\nAC_CHECK_HEADERS([unistd.h])\nAC_CONFIG_FILES([Makefile])\nAC_OUTPUT\n' > autotools/configure.ac
printf 'bin_PROGRAMS = app\napp_SOURCES = main.c\n' > autotools/Makefile.am; printf '#include "config.h"\nint main(void) { return 0; }\n' > autotools/main.c; echo x > autotools/NOTES
# apt
mkdir apt/other
deb() { # TEXT FILE
    printf 'Package: left\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: left\n' > apt/left/DEBIAN/control
    echo "$1" > apt/left/usr/share/left
    dpkg-deb --root-owner-group -b apt/left "$2" > /dev/null
}
deb one apt/left.deb; deb two apt/other/left.deb; cp apt/left.deb apt/right.deb; rm -r apt/left; echo x > apt/README
# npm
echo '{"name": "app", "version": "1.0.0", "dependencies": {"left": "file:deps/left"}}' > npm/package.json; echo 'code' > npm/index.js
echo '{"name": "left", "version": "1.0.0"}' > npm/deps/left/package.json; echo 'left' > npm/deps/left/index.js
echo '{"name": "app", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": {"": {"name": "app", "version": "1.0.0", "dependencies": {"left": "file:deps/left"}}, "deps/left": {"version": "1.0.0"}, "node_modules/left": {"resolved": "deps/left", "link": true}}}' > npm/package-lock.json
# cargo
printf '[package]\nname = "app"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\nleft = { path = "dep" }\n' > cargo/Cargo.toml
printf 'version = 3\n\n[[package]]\nname = "app"\nversion = "1.0.0"\ndependencies = [\n "left",\n]\n\n[[package]]\nname = "left"\nversion = "1.0.0"\n' > cargo/Cargo.lock
printf '[package]\nname = "left"\nversion = "1.0.0"\nedition = "2021"\n' > cargo/dep/Cargo.toml; echo 'pub fn one() -> i32 { 1 }' > cargo/dep/src/lib.rs
printf 'mod other;\nfn main() { println!("{}", left::one() + other::two()); }\n' > cargo/src/main.rs; echo 'pub fn two() -> i32 { 2 }' > cargo/src/other.rs; echo x > cargo/NOTES
# go
printf 'module example.org/app\n\ngo 1.19\n\nrequire example.org/dep v0.0.0\n\nreplace example.org/dep => ./dep\n' > go/go.mod
printf 'package main\n\nimport "example.org/dep"\n\nfunc main() { println(dep.One) }\n' > go/main.go; printf 'module example.org/dep\n\ngo 1.19\n' > go/dep/go.mod; printf 'package dep\n\nconst One = 1\n' > go/dep/dep.go; mkdir go/docs; echo x > go/docs/text
# bundler
printf 'gem "left", path: "gems/left"\n' > bundler/Gemfile
printf 'PATH\n  remote: gems/left\n  specs:\n    left (1.0)\n\nGEM\n  specs:\n\nPLATFORMS\n  ruby\n\nDEPENDENCIES\n  left!\n' > bundler/Gemfile.lock
printf 'Gem::Specification.new do |s|\n  s.name = "left"\n  s.version = "1.0"\n  s.summary = "left"\n  s.authors = ["nobody"]\n  s.files = ["lib/left.rb"]\nend\n' > bundler/gems/left/left.gemspec
echo 'LEFT = 1' > bundler/gems/left/lib/left.rb; echo 'code' > bundler/lib/app.rb
# composer
echo '{"name": "org/app", "repositories": [{"type": "path", "url": "packages/left", "options": {"symlink": false}}, {"packagist.org": false}], "require": {"org/left": "1.0.0"}}' > composer/composer.json
echo '{"name": "org/left", "version": "1.0.0"}' > composer/packages/left/composer.json; echo '<?php $one = 1;' > composer/packages/left/left.php; echo '<?php' > composer/src/app.php
# java
printf 'package app;\nclass One { static int one() { return 1; } }\n' > java/src/app/One.java; printf 'package app;\npublic class Main { public static void main(String[] a) { System.out.println(One.one()); } }\n' > java/src/app/Main.java; echo x > java/resources/text
# a monorepo
echo '#define COMMON 1' > mono/common/common.h
for p in a b; do printf '#include "../../common/common.h"\nint main(void) { return COMMON; }\n' > mono/packages/$p/main.c; printf 'app: $(wildcard *.c) ../../common/common.h\n\tgcc -o $@ $(wildcard *.c)\n' > mono/packages/$p/Makefile; done
# a static site
printf 'baseURL = "https://example.org/"\ntitle = "Site"\n' > site/config.toml; printf -- '---\ntitle: One\n---\n# One\n' > site/content/one.md
echo '<html>{{ .Content }}</html>' | tee site/layouts/_default/single.html > site/layouts/_default/list.html; echo x > site/static/style.css; mkdir site/notes; echo x > site/notes/text
echo '{"name": "owned", "version": "1.0.0"}' > ../owned/package.json

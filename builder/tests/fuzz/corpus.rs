//! What inputs are made of: the examples of the repository, BuildKit's test data where it lies beside, and some that
//! show every part of the language.

use std::fs;
use std::path::{Path, PathBuf};

const DOCKERFILES: [&str; 4] = [
    "# syntax=docker/dockerfile:1\n# check=skip=JSONArgsRecommended\nARG BASE=debian VERSION=1\nFROM \
     --platform=$BUILDPLATFORM ${BASE}:${VERSION:-1} AS build\n# VERSION is it\nARG VERSION TARGETARCH\nENV \
     PATH=$PATH:/x A='b c' \\\n  # comment\n  D=\"e $A\"\nENV old form\nWORKDIR /src/$A\nCOPY --chown=1:2 --chmod=u=rwX \
     --exclude=*.o a* b/ ./\nRUN --mount=type=cache,target=/c,id=$A,sharing=locked --network=none make \\\n\n  \
     all\nFROM scratch\nCOPY --from=build --link /src /\nCMD [\"/a\", \"b\"]\n",
    "FROM busybox AS a\nRUN <<EOF sh\necho $X\nEOF\nRUN <<-'A' cat > /a; <<B cat > /b\n\ta\n\tA\nb\nB\nCOPY <<one \
     <<\"two\" /d/\n1 $X\none\n2\ntwo\nONBUILD COPY --from=a <<E /e\nx\nE\nHEALTHCHECK --interval=1m30s --retries=2 \
     CMD curl -f x\nEXPOSE 80-82/tcp $P 53/udp\nVOLUME [\"/a\", \"/b c\"]\nSTOPSIGNAL SIGRTMIN+3\nSHELL [\"/bin/sh\", \
     \"-ec\"]\nUSER $U:2\nLABEL \"a b\"=c d.e=\"f\\\n g\"\nMAINTAINER x y\n",
    "# escape=`\nFROM x\nRUN dir C:\\ `\n  /w\nENV P=C:\\d` e\nADD --checksum=sha256:0123 https://x/y.tar \
     git://z#main:d /\nADD --unpack=true t.tgz /t/\nARG S=${A:?needed} ${B/x/y} T=${C//[/]} U=${D##*/} V=${E%.*}\n",
    "FROM a AS b\nCOPY --from=c x y\nFROM b AS c\nRUN --mount=from=b,target=/b --mount=type=secret,id=s,env=S \
     --mount=type=tmpfs,target=/t,size=64m --mount=type=bind,source=.,target=.,rw true\n",
];

const WORDS: [&str; 16] = [
    "plain",
    "$A${A}$EMPTY-$NONE",
    "${A:-x}${EMPTY:-$PATH}${NONE:-${NONE-deep}}",
    "${A:+x}${EMPTY+y}${NONE:?must be given}",
    "${PATH#*/}${PATH##*:}${PATH%:*}${PATH%%:*}",
    "${PATH/bin/x}${PATH//\\//-}${STARS/\\*/}",
    "'single $A' \"double $A \\\" \\$A\" \\$A \\\\",
    "\"${QUOTES}\"'\"'$BLANKS",
    "$ÜÑ$1$@${#}${?}",
    "<<EOF << - <<-'x y'",
    "8080-8090/udp 127.0.0.1:80:80",
    "linux/arm64/v8",
    "u=rwX,go=rX",
    "1h30m5.5s",
    "SIGRTMIN+3",
    "$SELF${SELF:-$SELF}",
];

pub fn dockerfiles() -> Vec<Vec<u8>> {
    let mut corpus: Vec<_> = DOCKERFILES.iter().map(|text| text.as_bytes().to_vec()).collect();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    collect(&workspace.join("examples"), &mut corpus);
    collect(&shared().join("buildkit-parser-data"), &mut corpus);
    collect(&shared().join("conformance/cases"), &mut corpus);
    corpus
}

pub fn words() -> Vec<Vec<u8>> {
    let mut corpus: Vec<_> = WORDS.iter().map(|text| text.as_bytes().to_vec()).collect();
    for name in ["envVarTest", "wordsTest"] {
        let text = fs::read_to_string(shared().join("buildkit-parser-data").join(name)).unwrap_or_default();
        let words = text.lines().flat_map(|line| line.split('|'));
        corpus.extend(
            words
                .map(|word| word.trim().as_bytes().to_vec())
                .filter(|word| !word.is_empty()),
        );
    }
    corpus
}

/// Where test data lies that is no part of the repository.
fn shared() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    std::env::var_os("MICA_SHARED").map_or_else(beside, PathBuf::from)
}

/// Every Dockerfile below `directory`.
fn collect(directory: &Path, corpus: &mut Vec<Vec<u8>>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => collect(&path, corpus),
            false if entry.file_name().to_string_lossy().starts_with("Dockerfile") => {
                corpus.extend(fs::read(&path).ok().filter(|text| text.len() < 64 << 10));
            }
            false => {}
        }
    }
}

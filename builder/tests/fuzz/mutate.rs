//! Inputs made of others.

/// Words that mean something in a Dockerfile.
const WORDS: [&str; 96] = [
    "FROM ",
    "RUN ",
    "CMD ",
    "LABEL ",
    "MAINTAINER ",
    "EXPOSE ",
    "ENV ",
    "ADD ",
    "COPY ",
    "ENTRYPOINT ",
    "VOLUME ",
    "USER ",
    "WORKDIR ",
    "ARG ",
    "ONBUILD ",
    "STOPSIGNAL ",
    "HEALTHCHECK ",
    "SHELL ",
    "from ",
    "FROM scratch AS a\n",
    "FROM a AS b\n",
    " AS c",
    "--platform=",
    "--from=",
    "--from=a ",
    "--from=0 ",
    "--chown=1:2 ",
    "--chmod=u=rwX,go=rX ",
    "--link ",
    "--parents ",
    "--exclude=*.o ",
    "--checksum=sha256:00 ",
    "--keep-git-dir ",
    "--unpack=false ",
    "--mount=type=bind,from=a,target=/x ",
    "--mount=type=cache,id=c,target=/c,sharing=locked ",
    "--mount=type=secret,id=s,env=S ",
    "--mount=type=tmpfs,target=/t,size=1g ",
    "--mount=type=ssh ",
    "--network=none ",
    "--security=insecure ",
    "--interval=1m ",
    "--retries=3 ",
    "--",
    "NONE",
    "# syntax=docker/dockerfile:1\n",
    "# escape=`\n",
    "# check=skip=all;error=true\n",
    "#",
    "\\\n",
    "`\n",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\u{feff}",
    "\u{a0}",
    "=",
    "a=b ",
    "\"",
    "'",
    "\\",
    "`",
    "[",
    "]",
    "[\"a\", \"b\"]",
    "{",
    "}",
    ",",
    ";",
    ":",
    "/",
    "..",
    "/./",
    "*",
    "**",
    "?",
    "!",
    "<<EOF\n",
    "<<-'EOF'\n",
    "\nEOF\n",
    "3<<E cat\n",
    "$",
    "$x",
    "${x}",
    "${x:-",
    "${x#",
    "${x%%*}",
    "${x//a/b}",
    "${x:?}",
    "$TARGETPLATFORM",
    "80-90/udp",
    "日本",
    "\u{0}",
    "e\u{301}",
    "\u{fffd}",
];

/// A source of inputs, the same for the same seed.
pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// A number below `end`, which is not 0 (xorshift64*).
    fn below(&mut self, end: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let high = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or(0) % end
    }

    fn pick<'a>(&mut self, from: &'a [Vec<u8>]) -> &'a [u8] {
        let at = self.below(from.len());
        &from[at]
    }

    /// A Dockerfile, mutated; not always text.
    pub fn dockerfile(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut text = match self.below(4) {
            0 => b"FROM scratch\n".to_vec(),
            _ => self.pick(corpus).to_vec(),
        };
        for _ in 0..=self.below(8) {
            self.mutate(&mut text, corpus, &WORDS);
        }
        text.truncate(64 << 10);
        text
    }

    /// One of the corpus, mutated with these words.
    pub fn document(&mut self, corpus: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
        let mut text = self.pick(corpus).to_vec();
        for _ in 0..self.below(6) {
            self.mutate(&mut text, corpus, words);
        }
        text.truncate(64 << 10);
        text
    }

    /// A word, mutated.
    pub fn word(&mut self, corpus: &[Vec<u8>]) -> String {
        let mut text = self.pick(corpus).to_vec();
        for _ in 0..=self.below(8) {
            self.mutate(&mut text, corpus, &WORDS);
        }
        text.truncate(8 << 10);
        String::from_utf8_lossy(&text).into_owned()
    }

    fn mutate(&mut self, text: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
        let at = self.below(text.len() + 1);
        let end = (at + self.below(40)).min(text.len());
        match self.below(10) {
            0 => drop(text.drain(at..end)),
            1 => {
                let part = text[at..end].to_vec();
                let to = self.below(text.len() + 1);
                text.splice(to..to, part);
            }
            2 => {
                let other = self.pick(corpus);
                let from = self.below(other.len() + 1);
                let length = self.below(200);
                let to = (from + length).min(other.len());
                text.splice(at..at, other[from..to].to_vec());
            }
            3 if at < text.len() => text[at] ^= 1 << self.below(8),
            // The same over and over: what is nested, or grows.
            4 => {
                let word = words[self.below(words.len())].repeat(1 + self.below(300));
                text.splice(at..at, word.into_bytes());
            }
            5 => text.truncate(at),
            _ => {
                let word = words[self.below(words.len())];
                text.splice(at..at, word.bytes());
            }
        }
    }
}

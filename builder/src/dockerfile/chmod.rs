//! The value of `--chmod`: octal, or symbolic as in chmod(1).

use serde::Serialize;

use super::values::ValueError;

/// A change of permission bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Chmod {
    /// Exactly these bits, at most 0o7777.
    Mode(u32),
    /// Clauses that follow each other, as `u=rwX,go-w`.
    Symbolic(Vec<Clause>),
}

/// One operation of a symbolic mode on the bits of some classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// The classes, as the permission bits they have: 0o700 user, 0o070 group, 0o007 others.
    who: u32,
    operator: Operator,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum What {
    /// `r`, `w` and `x` as bits of others, `s`, `t`, and `X`.
    Bits {
        rwx: u32,
        set_id: bool,
        sticky: bool,
        search: bool,
    },
    /// The bits that a class has: how far left of the others' they are.
    Copy { shift: u32 },
}

const USER: u32 = 0o700;
const GROUP: u32 = 0o070;
const OTHERS: u32 = 0o007;

impl Chmod {
    /// Reads `0755` or `u=rwX,go=rX`.
    ///
    /// # Errors
    /// If it is neither, or over 07777.
    pub fn parse(word: &str) -> Result<Self, ValueError> {
        let invalid = || {
            ValueError::new(format!(
                "invalid chmod parameter: '{word}'. it should be octal string and between 0 and \
                 07777, or symbolic as u=rwX,go=rX"
            ))
        };
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(word, 8).map_err(|_| invalid())?;
            return if mode <= 0o7777 {
                Ok(Self::Mode(mode))
            } else {
                Err(invalid())
            };
        }
        let mut clauses = Vec::new();
        for part in word.split(',') {
            parse_part(part, &mut clauses).ok_or_else(invalid)?;
        }
        Ok(Self::Symbolic(clauses))
    }

    /// The bits of a file that has `mode` (without its type) before. `X` asks if it is a directory.
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Mode(mode) => *mode,
            Self::Symbolic(clauses) => clauses
                .iter()
                .fold(mode & 0o7777, |mode, clause| clause.apply(mode, directory)),
        }
    }
}

/// Reads `[ugoa...]OPERATOR[WHAT]...` into clauses.
fn parse_part(part: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let operators = part.find(['+', '-', '='])?;
    let (who, mut rest) = part.split_at(operators);
    let who = who.chars().try_fold(0, |who, c| match c {
        'u' => Some(who | USER),
        'g' => Some(who | GROUP),
        'o' => Some(who | OTHERS),
        'a' => Some(USER | GROUP | OTHERS),
        _ => None,
    })?;
    let who = if who == 0 { USER | GROUP | OTHERS } else { who };
    while let Some(c) = rest.chars().next() {
        let operator = match c {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Set,
        };
        rest = rest.get(1..)?;
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        let (what, tail) = rest.split_at(end);
        rest = tail;
        clauses.push(Clause {
            who,
            operator,
            what: parse_what(what)?,
        });
    }
    Some(())
}

fn parse_what(text: &str) -> Option<What> {
    match text {
        "u" => return Some(What::Copy { shift: 6 }),
        "g" => return Some(What::Copy { shift: 3 }),
        "o" => return Some(What::Copy { shift: 0 }),
        _ => {}
    }
    let (mut rwx, mut set_id, mut sticky, mut search) = (0, false, false, false);
    for c in text.chars() {
        match c {
            'r' => rwx |= 4,
            'w' => rwx |= 2,
            'x' => rwx |= 1,
            'X' => search = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(What::Bits {
        rwx,
        set_id,
        sticky,
        search,
    })
}

impl Clause {
    fn apply(self, mode: u32, directory: bool) -> u32 {
        let spread = |rwx: u32| (rwx | rwx << 3 | rwx << 6) & self.who;
        let special = |set_id: bool, sticky: bool| {
            let user = if set_id && self.who & USER != 0 { 0o4000 } else { 0 };
            let group = if set_id && self.who & GROUP != 0 {
                0o2000
            } else {
                0
            };
            user | group | if sticky { 0o1000 } else { 0 }
        };
        let (bits, set_by_equals) = match self.what {
            What::Copy { shift } => (spread(mode >> shift & 7), special(true, false)),
            What::Bits {
                rwx,
                set_id,
                sticky,
                search,
            } => {
                let search = u32::from(search && (directory || mode & 0o111 != 0));
                // `=` takes away set-ID bits of files; of directories chmod(1) leaves them.
                let cleared = if directory { 0 } else { special(true, false) };
                (spread(rwx | search) | special(set_id, sticky), cleared)
            }
        };
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => mode & !(self.who | set_by_equals) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(word: &str, mode: u32, directory: bool) -> u32 {
        Chmod::parse(word).expect(word).apply(mode, directory)
    }

    #[test]
    fn octal() {
        assert_eq!(changed("640", 0o777, false), 0o640);
        assert_eq!(changed("07777", 0, true), 0o7777);
        for bad in ["10000", "8", "0o7", "77777777777777", "7x"] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn symbolic() {
        assert_eq!(changed("u=rwX,go=rX", 0o600, false), 0o644);
        assert_eq!(changed("u=rwX,go=rX", 0o600, true), 0o755);
        assert_eq!(changed("u=rwX,go=rX", 0o100, false), 0o755);
        assert_eq!(changed("g+w,o-r", 0o644, false), 0o660);
        assert_eq!(changed("a+x", 0o644, false), 0o755);
        assert_eq!(changed("+x", 0o644, false), 0o755);
        assert_eq!(changed("go=u-w", 0o740, false), 0o755);
        assert_eq!(changed("u+s,g+s,+t", 0o755, false), 0o7755);
        assert_eq!(changed("go=", 0o777, false), 0o700);
        for bad in ["", "u", "u=q", "z+r", "u=rw,", "rwx"] {
            assert!(Chmod::parse(bad).is_err(), "{bad}");
        }
    }
}

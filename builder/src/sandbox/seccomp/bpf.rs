//! Programs of the kernel's packet filter that decide about system calls: seccomp(2), linux/filter.h.
//!
//! A [`Table`] says for each number of an architecture which [`Rule`]s are tried, in order; the first that holds
//! decides. The program looks for the number by halving: neighbours with the same rules share one place, so even a
//! profile of hundreds of calls is decided in about ten instructions.

use std::collections::BTreeMap;

use libc::{sock_filter, sock_fprog};

/// What becomes of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The kernel executes it.
    Allow,
    /// It fails with this errno, unexecuted.
    Errno(i32),
    /// The listener answers (seccomp_unotify(2)).
    Notify,
    /// It ends the process.
    Kill,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            // The kernel cuts the number off at 4095.
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | (errno.unsigned_abs() & libc::SECCOMP_RET_DATA),
            Self::Notify => libc::SECCOMP_RET_USER_NOTIF,
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// How an argument is compared; all 64 bits of it, as the kernel got them, without a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `argument != value`.
    NotEqual(u64),
    /// `argument & mask == value`.
    Masked {
        /// The bits that count. What the kernel takes for an int has 32 of them.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which: 0 to 5.
    pub argument: u8,
    /// The test.
    pub comparison: Comparison,
}

impl Condition {
    /// That the int argument number `argument` is `value`.
    pub fn int(argument: u8, value: i32) -> Self {
        let comparison = Comparison::Masked {
            mask: u64::from(u32::MAX),
            value: u64::from(value as u32),
        };
        Self { argument, comparison }
    }
}

/// What is done if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All of them; none holds always.
    pub conditions: Vec<Condition>,
    /// What then becomes of the call.
    pub action: Action,
}

impl Rule {
    /// A rule without conditions.
    pub fn always(action: Action) -> Self {
        Self {
            conditions: Vec::new(),
            action,
        }
    }
}

/// A set of system calls: each has numbers and conventions of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// 64-bit x86.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM (EABI).
    Arm,
}

impl Architecture {
    /// What this machine's kernel can execute; first what this program is made for.
    pub const NATIVE: &[Self] = if cfg!(target_arch = "x86_64") {
        &[Self::X86_64, Self::X86]
    } else if cfg!(target_arch = "aarch64") {
        &[Self::Aarch64, Self::Arm]
    } else {
        &[]
    };

    /// `AUDIT_ARCH_*` of linux/audit.h: the ELF machine, and whether it is 64-bit and little-endian.
    pub fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The architecture with this `AUDIT_ARCH_*`.
    pub fn of_audit(number: u32) -> Option<Self> {
        let all = [Self::X86_64, Self::X86, Self::Aarch64, Self::Arm];
        all.into_iter()
            .find(|architecture| architecture.audit() == number)
    }
}

/// The rules of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    architecture: Architecture,
    rules: BTreeMap<u32, Vec<Rule>>,
    otherwise: Action,
}

impl Table {
    /// A table in which every call meets `otherwise`.
    pub fn new(architecture: Architecture, otherwise: Action) -> Self {
        Self {
            architecture,
            rules: BTreeMap::new(),
            otherwise,
        }
    }

    /// Whose numbers.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Tries `rule` after those that the call has. A name that the architecture lacks is passed over.
    pub fn add(&mut self, name: &str, rule: Rule) {
        if let Some(number) = self.architecture.number(name) {
            self.rules.entry(number).or_default().push(rule);
        }
    }

    /// Tries `rule` before all others of the call. A name that the architecture lacks is passed over.
    pub fn put_first(&mut self, name: &str, rule: Rule) {
        if let Some(number) = self.architecture.number(name) {
            self.rules.entry(number).or_default().insert(0, rule);
        }
    }

    /// The instructions that decide once the architecture is known.
    fn code(&self) -> Vec<sock_filter> {
        let mut code = vec![load(NUMBER)];
        code.extend(search(&self.places()));
        code
    }

    /// From which number on which instructions decide, in order; the first place begins at 0.
    fn places(&self) -> Vec<(u32, Vec<sock_filter>)> {
        let otherwise = vec![ret(self.otherwise)];
        let mut places: Vec<(u32, Vec<sock_filter>)> = vec![(0, otherwise.clone())];
        let mut put = |from: u32, code: Vec<sock_filter>| match places.last_mut() {
            Some(last) if last.0 == from => last.1 = code,
            Some(last) if last.1 == code => {}
            _ => places.push((from, code)),
        };
        // The first number after those with rules; none after the last.
        let mut next = Some(0);
        for (number, rules) in &self.rules {
            if let Some(next) = next.filter(|next| next < number) {
                put(next, otherwise.clone());
            }
            let mut code: Vec<_> = rules.iter().flat_map(rule).collect();
            if rules.iter().all(|rule| !rule.conditions.is_empty()) {
                code.push(ret(self.otherwise));
            }
            put(*number, code);
            next = number.checked_add(1);
        }
        if let Some(next) = next {
            put(next, otherwise);
        }
        places
    }
}

/// A filter: a table for each architecture. What comes from another ends its process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(Vec<Table>);

impl Filter {
    /// The filter of these tables, one for each architecture.
    pub fn new(tables: Vec<Table>) -> Self {
        Self(tables)
    }

    /// The tables, to add to them.
    pub fn tables(&mut self) -> &mut [Table] {
        &mut self.0
    }

    /// Whether it has calls that a listener answers.
    pub fn notifies(&self) -> bool {
        let rules = self.0.iter().flat_map(|table| table.rules.values().flatten());
        let otherwise = self.0.iter().map(|table| table.otherwise);
        rules
            .map(|rule| rule.action)
            .chain(otherwise)
            .any(|action| action == Action::Notify)
    }

    /// The program; `None` if it is longer than the kernel takes (`BPF_MAXINSNS`).
    pub fn program(&self) -> Option<Program> {
        const LONGEST: usize = 4096;
        let mut code = vec![load(ARCHITECTURE)];
        for table in &self.0 {
            let decide = table.code();
            let length = u32::try_from(decide.len()).ok()?;
            code.push(jump(libc::BPF_JEQ, table.architecture.audit(), 1, 0));
            code.push(skip(length));
            code.extend(decide);
        }
        code.push(ret(Action::Kill));
        (code.len() <= LONGEST).then_some(Program(code))
    }
}

/// A program that the kernel takes.
pub struct Program(Vec<sock_filter>);

impl Program {
    /// The program as seccomp(2) wants it; it points into this value.
    pub fn as_fprog(&self) -> sock_fprog {
        sock_fprog {
            // At most 4096, see [`Filter::program`].
            len: self.0.len() as u16,
            filter: self.0.as_ptr().cast_mut(),
        }
    }
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// The offsets of the lower and the upper half of an argument.
fn halves(argument: u8) -> (u32, u32) {
    let at = 16 + 8 * u32::from(argument);
    match cfg!(target_endian = "big") {
        true => (at + 4, at),
        false => (at, at + 4),
    }
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn ret(action: Action) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action.code())
}

/// Passes over `count` instructions.
fn skip(count: u32) -> sock_filter {
    statement(libc::BPF_JMP | libc::BPF_JA, count)
}

/// Compares the accumulator with `k`, then passes over `yes` or `no` instructions.
fn jump(comparison: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16,
        jt: yes,
        jf: no,
        k,
    }
}

/// Finds the place of the number in the accumulator by halving.
fn search(places: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    let (low, high) = places.split_at(places.len() / 2);
    let Some((middle, only)) = high.first() else {
        return Vec::new();
    };
    if low.is_empty() {
        return only.clone();
    }
    let (low, high) = (search(low), search(high));
    let mut code = match u8::try_from(low.len()) {
        Ok(length) => vec![jump(libc::BPF_JGE, *middle, length, 0)],
        Err(_) => vec![jump(libc::BPF_JGE, *middle, 0, 1), skip(low.len() as u32)],
    };
    code.extend(low);
    code.extend(high);
    code
}

/// Returns from the program if all conditions hold, and else goes on after the last instruction.
fn rule(rule: &Rule) -> Vec<sock_filter> {
    let mut code = vec![ret(rule.action)];
    for condition in rule.conditions.iter().rev() {
        // At most six conditions of six instructions each.
        let rest = u8::try_from(code.len()).unwrap_or(u8::MAX);
        code.splice(0..0, test(condition, rest));
    }
    code
}

/// Goes on if the condition holds, and passes over `rest` more instructions if not.
fn test(condition: &Condition, rest: u8) -> Vec<sock_filter> {
    let (low, high) = halves(condition.argument);
    let split = |value: u64| (value as u32, (value >> 32) as u32);
    match condition.comparison {
        Comparison::NotEqual(value) => {
            let (l, h) = split(value);
            vec![
                load(high),
                jump(libc::BPF_JEQ, h, 0, 2),
                load(low),
                jump(libc::BPF_JEQ, l, rest, 0),
            ]
        }
        Comparison::Masked { mask, value } => {
            let ((mask_low, mask_high), (l, h)) = (split(mask), split(value));
            let and = |k| statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, k);
            let mut code = Vec::new();
            if mask_high != 0 || h != 0 {
                code.extend([load(high), and(mask_high), jump(libc::BPF_JEQ, h, 0, rest + 3)]);
            }
            code.extend([load(low), and(mask_low), jump(libc::BPF_JEQ, l, 0, rest)]);
            code
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A system call as the kernel shows it to a filter.
    #[derive(Debug, Clone, Copy)]
    struct Call {
        number: u32,
        architecture: u32,
        arguments: [u64; 6],
    }

    impl Call {
        fn word(&self, offset: u32) -> u32 {
            match offset {
                NUMBER => self.number,
                ARCHITECTURE => self.architecture,
                _ => {
                    let argument = (offset - 16) / 8;
                    let value = self.arguments[argument as usize];
                    let (low, _) = halves(argument as u8);
                    if offset == low {
                        value as u32
                    } else {
                        (value >> 32) as u32
                    }
                }
            }
        }
    }

    /// What the kernel does with a program; each instruction is passed once at most, since jumps go forward only.
    fn interpret(program: &Program, call: &Call) -> u32 {
        let (mut at, mut accumulator) = (0_usize, 0_u32);
        loop {
            let instruction = program.0[at];
            let k = instruction.k;
            at += 1;
            let branch = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
            match u32::from(instruction.code) {
                0x20 => accumulator = call.word(k),
                0x54 => accumulator &= k,
                0x06 => return k,
                0x05 => at += k as usize,
                0x15 => at += branch(accumulator == k),
                0x25 => at += branch(accumulator > k),
                0x35 => at += branch(accumulator >= k),
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn holds(condition: &Condition, call: &Call) -> bool {
        let argument = call.arguments[usize::from(condition.argument)];
        match condition.comparison {
            Comparison::NotEqual(value) => argument != value,
            Comparison::Masked { mask, value } => argument & mask == value,
        }
    }

    fn expected(tables: &[Table], call: &Call) -> Action {
        let Some(table) = tables
            .iter()
            .find(|table| table.architecture.audit() == call.architecture)
        else {
            return Action::Kill;
        };
        let rules = table.rules.get(&call.number).into_iter().flatten();
        rules
            .into_iter()
            .find(|rule| rule.conditions.iter().all(|condition| holds(condition, call)))
            .map_or(table.otherwise, |rule| rule.action)
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Allow),
            (1..4096).prop_map(Action::Errno),
            Just(Action::Notify),
            Just(Action::Kill)
        ]
    }

    /// Few values, at the edges of the halves, so that equality happens.
    fn value() -> impl Strategy<Value = u64> {
        let half = prop_oneof![Just(0_u64), Just(1), Just(2), Just(0xffff_ffff)];
        (half.clone(), half).prop_map(|(high, low)| high << 32 | low)
    }

    fn condition() -> impl Strategy<Value = Condition> {
        let comparison = prop_oneof![
            value().prop_map(Comparison::NotEqual),
            (value(), value()).prop_map(|(mask, value)| Comparison::Masked { mask, value }),
        ];
        (0..6_u8, comparison).prop_map(|(argument, comparison)| Condition { argument, comparison })
    }

    fn table(architecture: Architecture) -> impl Strategy<Value = Table> {
        let rule = (prop::collection::vec(condition(), 0..4), action())
            .prop_map(|(conditions, action)| Rule { conditions, action });
        let numbers = prop_oneof![0..500_u32, Just(u32::MAX), Just(1 << 30)];
        let rules = prop::collection::btree_map(numbers, prop::collection::vec(rule, 1..4), 0..60);
        (rules, action()).prop_map(move |(rules, otherwise)| Table {
            architecture,
            rules,
            otherwise,
        })
    }

    fn call() -> impl Strategy<Value = Call> {
        let architecture = prop_oneof![
            Just(Architecture::X86_64.audit()),
            Just(Architecture::X86.audit()),
            any::<u32>()
        ];
        let number = prop_oneof![0..500_u32, Just(u32::MAX), Just(1 << 30), any::<u32>()];
        (number, architecture, prop::array::uniform6(value())).prop_map(
            |(number, architecture, arguments)| Call {
                number,
                architecture,
                arguments,
            },
        )
    }

    proptest! {
        #[test]
        fn the_program_decides_as_the_tables_do(
            first in table(Architecture::X86_64),
            second in table(Architecture::X86),
            calls in prop::collection::vec(call(), 60),
        ) {
            // Every number with rules is called too.
            let known = first.rules.keys().map(|number| (*number, first.architecture));
            let known = known.chain(second.rules.keys().map(|number| (*number, second.architecture)));
            let known: Vec<_> = known.zip(&calls).map(|((number, architecture), call)| Call {
                number,
                architecture: architecture.audit(),
                ..*call
            }).collect();
            let tables = vec![first, second];
            let filter = Filter::new(tables.clone());
            let program = filter.program().expect("a short program");
            for call in calls.iter().chain(&known) {
                prop_assert_eq!(interpret(&program, call), expected(&tables, call).code(), "{:?}", call);
            }
        }
    }

    #[test]
    fn a_large_table_is_decided_in_few_instructions() {
        let mut table = Table::new(Architecture::X86_64, Action::Errno(libc::EPERM));
        for (number, action) in (0..400).zip([Action::Allow, Action::Allow, Action::Notify].iter().cycle()) {
            table.rules.insert(number, vec![Rule::always(*action)]);
        }
        let program = Filter::new(vec![table]).program().expect("a short program");
        assert!(program.0.len() < 700, "{} instructions", program.0.len());
    }

    #[test]
    fn a_rule_put_first_wins() {
        let mut table = Table::new(Architecture::X86_64, Action::Errno(libc::EPERM));
        table.add("prctl", Rule::always(Action::Allow));
        table.put_first(
            "prctl",
            Rule {
                conditions: vec![Condition::int(0, libc::PR_SET_KEEPCAPS)],
                action: Action::Notify,
            },
        );
        table.add("no_such_call", Rule::always(Action::Allow));
        let program = Filter::new(vec![table]).program().expect("a short program");
        let decide = |option: u64| {
            let call = Call {
                number: Architecture::X86_64.number("prctl").expect("a call"),
                architecture: Architecture::X86_64.audit(),
                arguments: [option, 0, 0, 0, 0, 0],
            };
            interpret(&program, &call)
        };
        let keep = libc::PR_SET_KEEPCAPS as u64;
        assert_eq!(decide(keep), Action::Notify.code());
        // The kernel takes an int, whatever lies above it.
        assert_eq!(decide(keep | 1 << 40), Action::Notify.code());
        assert_eq!(decide(keep + 1), Action::Allow.code());
    }
}

//! Options that limit what a step or a command may use and do.

use mica_builder::sandbox::{Cpu, Resources, SandboxError};

use crate::diagnostic::{hint, usage_error};

/// The kernel's own period of processor time, in microseconds.
const PERIOD: u64 = 100_000;
/// What the kernel takes for a period, in microseconds.
const PERIODS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;

/// The limits.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// How much memory, as in 512m; as much swap again
    #[arg(long, short, value_name = "BYTES")]
    memory: Option<String>,

    /// How many processors, as in 1.5
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    cpus: Option<f64>,

    /// How many microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_quota: Option<i64>,

    /// The period, in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,

    /// How many processes and threads at once; -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pids_limit: Option<i64>,

    /// no-new-privileges: programs give none, as those do that are set-user-ID
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
}

impl LimitArgs {
    /// What the kernel is to account.
    ///
    /// # Errors
    /// If an option is not of its form.
    pub fn resources(&self) -> anyhow::Result<Resources> {
        let memory = self
            .memory
            .as_deref()
            .map(|text| bytes("--memory", text))
            .transpose()?;
        Ok(Resources {
            // As in Docker, nothing below 1 is a limit.
            memory: memory.filter(|bytes| *bytes > 0),
            cpu: self.cpu()?,
            pids: self
                .pids_limit
                .and_then(|count| u64::try_from(count).ok())
                .filter(|count| *count > 0),
        })
    }

    fn cpu(&self) -> anyhow::Result<Option<Cpu>> {
        let period = self.cpu_period.filter(|period| *period > 0).unwrap_or(PERIOD);
        if !PERIODS.contains(&period) {
            return Err(usage_error(format!(
                "--cpu-period {period}: it may be from {} to {}",
                PERIODS.start(),
                PERIODS.end()
            )));
        }
        let quota = match (self.cpus, self.cpu_quota) {
            (Some(cpus), _) if cpus.is_finite() && cpus >= 0.0 => (cpus * period as f64) as u64,
            (Some(cpus), _) => {
                return Err(usage_error(format!(
                    "--cpus {cpus}: it is no number of processors"
                )));
            }
            (None, Some(quota)) => u64::try_from(quota).unwrap_or(0),
            (None, None) => 0,
        };
        match quota {
            0 => Ok(None),
            // The kernel's smallest.
            1..1_000 => Err(usage_error(format!(
                "{quota} microseconds of processor time are less than 1000"
            ))),
            quota => Ok(Some(Cpu { quota, period })),
        }
    }

    /// Whether programs are to give no privileges.
    ///
    /// # Errors
    /// If something else is asked for.
    pub fn no_new_privileges(&self) -> anyhow::Result<bool> {
        let mut wanted = false;
        for text in &self.security_opt {
            wanted = match text.split_once(['=', ':']).unwrap_or((text, "true")) {
                ("no-new-privileges", "true") => true,
                ("no-new-privileges", "false") => false,
                _ => {
                    return Err(hint(
                        usage_error(format!("--security-opt {text}: this is not supported")),
                        "it may be no-new-privileges; a step that needs more says RUN --security=insecure",
                    ));
                }
            };
        }
        Ok(wanted)
    }
}

/// What a person is told whose limits cannot be set.
pub fn unlimited(error: &SandboxError) -> String {
    format!(
        "--memory, --cpus, --pids-limit: {error}; nothing was limited. `systemd-run --user --scope -p Delegate=yes mica \
         ...` gives mica a control group of its own"
    )
}

/// Reads a number of bytes with a unit, in powers of 1024: `64m`, `1.5GiB`, `4096`.
pub fn bytes(option: &str, text: &str) -> anyhow::Result<u64> {
    let wrong = || {
        hint(
            usage_error(format!("{option} {text}: this is no number of bytes")),
            "write it as in 64m or 1g",
        )
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches('b') {
        "" => 0,
        "k" | "ki" => 10,
        "m" | "mi" => 20,
        "g" | "gi" => 30,
        "t" | "ti" => 40,
        _ => return Err(wrong()),
    };
    // A float beyond the range becomes the nearest number there is.
    Ok((number * (1_u64 << shift) as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("64m", 64 << 20),
            ("64MB", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("1 k", 1 << 10),
        ] {
            assert_eq!(bytes("--memory", text).unwrap(), size, "{text}");
        }
        for wrong in ["", "m", "-1", "1x", "1.2.3m"] {
            assert!(bytes("--memory", wrong).is_err(), "{wrong}");
        }
    }

    fn args(change: impl FnOnce(&mut LimitArgs)) -> LimitArgs {
        let mut args = LimitArgs::default();
        change(&mut args);
        args
    }

    #[test]
    fn processors_are_a_quota_of_a_period() {
        let cpu = |args: LimitArgs| args.cpu().ok().flatten().map(|cpu| (cpu.quota, cpu.period));
        assert_eq!(cpu(args(|a| a.cpus = Some(1.5))), Some((150_000, 100_000)));
        assert_eq!(cpu(args(|a| a.cpu_quota = Some(50_000))), Some((50_000, 100_000)));
        let both = args(|a| (a.cpu_quota, a.cpu_period) = (Some(2_000), Some(10_000)));
        assert_eq!(cpu(both), Some((2_000, 10_000)));
        assert_eq!(cpu(args(|a| a.cpu_quota = Some(-1))), None);
        for wrong in [
            args(|a| a.cpus = Some(-1.0)),
            args(|a| a.cpus = Some(f64::NAN)),
            args(|a| a.cpus = Some(0.001)),
            args(|a| a.cpu_period = Some(7)),
        ] {
            assert!(wrong.cpu().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_limit_is_none() {
        let none = args(|a| (a.pids_limit, a.memory) = (Some(-1), Some("0".into())));
        assert_eq!(none.resources().unwrap(), Resources::default());
        let some = args(|a| (a.pids_limit, a.memory) = (Some(9), Some("1k".into()))).resources();
        assert_eq!(some.map(|r| (r.pids, r.memory)).ok(), Some((Some(9), Some(1024))));
    }

    #[test]
    fn privileges_are_a_matter_of_one_option() {
        let opt = |text: &str| args(|a| a.security_opt = vec![text.into()]).no_new_privileges();
        assert!(opt("no-new-privileges").unwrap() && opt("no-new-privileges:true").unwrap());
        assert!(!opt("no-new-privileges=false").unwrap());
        assert!(opt("seccomp=unconfined").is_err());
    }
}

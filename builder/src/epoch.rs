//! `SOURCE_DATE_EPOCH`: the time that a reproducible build takes for now
//! (<https://reproducible-builds.org/specs/source-date-epoch/>).

use std::fmt;

use mica_fs::layer::Timestamp;

/// The name of the build argument and of the environment variable.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// A moment in whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Epoch(jiff::Timestamp);

/// A text that is no time.
#[derive(Debug, thiserror::Error)]
#[error("{SOURCE_DATE_EPOCH}={0} is not a number of seconds since 1970")]
pub struct InvalidEpoch(String);

impl Epoch {
    /// Reads a number of seconds since 1970.
    ///
    /// # Errors
    /// [`InvalidEpoch`].
    pub fn parse(text: &str) -> Result<Self, InvalidEpoch> {
        let seconds = text.parse().ok();
        let time = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        time.map(Self).ok_or_else(|| InvalidEpoch(text.to_owned()))
    }

    /// As the time of a file.
    pub fn timestamp(self) -> Timestamp {
        Timestamp {
            seconds: self.0.as_second(),
            nanoseconds: 0,
        }
    }

    /// Replaces a time of an image's configuration (RFC 3339) that is later than this.
    pub fn clamp_text(self, text: &mut Option<String>) {
        let time = text
            .as_ref()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok());
        if time.is_none_or(|time| time > self.0) {
            *text = Some(self.to_string());
        }
    }
}

impl fmt::Display for Epoch {
    /// As in RFC 3339.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_times_are_clamped_and_earlier_ones_stay() {
        let epoch = Epoch::parse("1700000000").unwrap();
        assert_eq!(epoch.to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(epoch.timestamp().seconds, 1_700_000_000);
        for (text, clamped) in [
            ("2024-01-01T00:00:00Z", "2023-11-14T22:13:20Z"),
            ("2020-01-01T00:00:00.5Z", "2020-01-01T00:00:00.5Z"),
            ("nonsense", "2023-11-14T22:13:20Z"),
        ] {
            let mut text = Some(text.to_owned());
            epoch.clamp_text(&mut text);
            assert_eq!(text.as_deref(), Some(clamped));
        }
    }

    #[test]
    fn only_seconds_are_a_time() {
        for wrong in ["", "x", "1.5", "99999999999999999", "2024-01-01"] {
            assert!(Epoch::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Epoch::parse("0").unwrap().to_string(), "1970-01-01T00:00:00Z");
    }
}

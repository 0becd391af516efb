//! What users may set of a mount's traffic: the same options for every system that is reached over a network.
//!
//! docs/mount-options.md lists them; a test compares it with the table here.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Error, Result, Secret,
    mount::{did_you_mean, nearest},
};

/// The largest `max_concurrency`.
const CONCURRENCY_MAX: usize = 4096;
/// The largest `retries_max`.
const RETRIES_MAX: u32 = 100;
/// The longest time that an option may set. Requests are signed once for all their tries, and signatures age.
const TIME_MAX: Duration = Duration::from_secs(600);

/// How a mount's requests are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrafficSettings {
    /// Requests under way at once, at most. How many are is found out below it.
    pub max_concurrency: usize,
    /// Retries of one request.
    pub retries_max: u32,
    /// How long after a request's first try a retry may still begin.
    pub retry_timeout: Duration,
    /// Whether slow reads are asked for a second time.
    pub hedge: bool,
    /// The cap on bytes received, if any.
    pub read_bytes_per_second: Option<u64>,
    /// The cap on bytes sent, if any.
    pub write_bytes_per_second: Option<u64>,
    /// How long a connection may take.
    pub connect_timeout: Duration,
    /// How long an answer may be awaited, and how long it may then pause. There is no limit on a whole transfer.
    pub request_timeout: Duration,
}

impl Default for TrafficSettings {
    fn default() -> Self {
        Self {
            max_concurrency: 256,
            retries_max: 5,
            retry_timeout: Duration::from_secs(35),
            hedge: false,
            read_bytes_per_second: None,
            write_bytes_per_second: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
        }
    }
}

/// One option: its name, and how its text is taken in.
struct Setting {
    name: &'static str,
    set: fn(&mut TrafficSettings, &str) -> Result<(), String>,
}

const SETTINGS: [Setting; 8] = [
    Setting {
        name: "max_concurrency",
        set: |it, text| keep(&mut it.max_concurrency, number(text, 1, CONCURRENCY_MAX)),
    },
    Setting { name: "retries_max", set: |it, text| keep(&mut it.retries_max, number(text, 0, RETRIES_MAX)) },
    Setting { name: "retry_timeout", set: |it, text| keep(&mut it.retry_timeout, time(text)) },
    Setting { name: "hedge", set: |it, text| keep(&mut it.hedge, switch(text)) },
    Setting { name: "read_bytes_per_second", set: |it, text| keep(&mut it.read_bytes_per_second, rate(text)) },
    Setting { name: "write_bytes_per_second", set: |it, text| keep(&mut it.write_bytes_per_second, rate(text)) },
    Setting { name: "connect_timeout", set: |it, text| keep(&mut it.connect_timeout, time(text)) },
    Setting { name: "request_timeout", set: |it, text| keep(&mut it.request_timeout, time(text)) },
];

impl TrafficSettings {
    /// The names of the options.
    pub const NAMES: [&'static str; SETTINGS.len()] = {
        let mut names = [""; SETTINGS.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = SETTINGS[i].name;
            i += 1;
        }
        names
    };

    /// Takes the options that are about traffic, and gives those that are not. `uri` is for errors, redacted.
    pub fn split(options: &BTreeMap<String, Secret>, uri: &str) -> Result<(Self, BTreeMap<String, Secret>)> {
        let (mut settings, mut others) = (Self::default(), BTreeMap::new());
        for (name, value) in options {
            let Some(setting) = SETTINGS.iter().find(|setting| setting.name.eq_ignore_ascii_case(name)) else {
                others.insert(name.clone(), value.clone());
                continue;
            };
            (setting.set)(&mut settings, value.expose().trim()).map_err(|reason| Error::InvalidOption {
                uri: uri.to_owned(),
                option: setting.name.to_owned(),
                reason,
            })?;
        }
        Ok((settings, others))
    }

    /// The error for an option that is neither about traffic nor one of `known`, with the one that was meant.
    pub fn unknown_option(name: &str, known: &[&str], uri: &str) -> Error {
        let all: Vec<&str> = known.iter().copied().chain(Self::NAMES).collect();
        let advice = match nearest(name, &all) {
            Some(meant) => did_you_mean(meant),
            None => format!("the usual ones are {}", all.join(", ")),
        };
        Error::UnknownOption { uri: uri.to_owned(), option: name.to_owned(), advice }
    }
}

fn keep<T>(field: &mut T, value: Result<T, String>) -> Result<(), String> {
    *field = value?;
    Ok(())
}

fn number<N: std::str::FromStr + PartialOrd + std::fmt::Display + Copy>(
    text: &str,
    min: N,
    max: N,
) -> Result<N, String> {
    let within = text.parse().ok().filter(|number| (&min..=&max).contains(&number));
    within.ok_or_else(|| format!("it is not a whole number from {min} to {max}"))
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Ok(true),
        "off" | "false" | "no" | "0" => Ok(false),
        _ => Err("it is neither on nor off".to_owned()),
    }
}

/// `500ms`, `20s`, `2m`; a bare number is seconds.
fn time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = split_unit(text);
    let ms_each = match unit.to_ascii_lowercase().as_str() {
        "ms" | "millis" | "milliseconds" => 1,
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hour" | "hours" => 3_600_000,
        _ => 0,
    };
    let time = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(ms_each)).map(Duration::from_millis);
    time.filter(|time| !time.is_zero() && *time <= TIME_MAX).ok_or_else(|| {
        format!("it is not a time such as 500ms, 20s or 2m, longer than nothing and at most {} s", TIME_MAX.as_secs())
    })
}

/// `1000000`, `100MB`, `64MiB`; `0` and `off` are no cap.
fn rate(text: &str) -> Result<Option<u64>, String> {
    if text == "0" || text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let (digits, unit) = split_unit(text);
    let bytes_each: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        _ => 0,
    };
    let bytes = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(bytes_each));
    let bytes = bytes.filter(|bytes| *bytes >= RATE_MIN);
    bytes
        .map(Some)
        .ok_or_else(|| format!("it is not a rate such as 100MB or 64MiB, at least {RATE_MIN}, or off for no cap"))
}

/// Bytes a second of the lowest cap: one write of 8 MiB must pass within the time in which it has to be published.
const RATE_MIN: u64 = 1 << 20;

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::options;

    #[test]
    fn options_are_taken_and_others_are_left() {
        let (settings, others) = TrafficSettings::split(
            &options(&[
                ("max_concurrency", "8"),
                ("Hedge", "on"),
                ("retry_timeout", "2m"),
                ("request_timeout", "1500 ms"),
                ("retries_max", "0"),
                ("read_bytes_per_second", "64MiB"),
                ("write_bytes_per_second", "off"),
                ("aws_region", "x"),
            ]),
            "s3://b",
        )
        .unwrap();
        let wanted = TrafficSettings {
            max_concurrency: 8,
            hedge: true,
            retry_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_millis(1500),
            retries_max: 0,
            read_bytes_per_second: Some(64 << 20),
            ..TrafficSettings::default()
        };
        assert_eq!(settings, wanted);
        assert_eq!(others.keys().collect::<Vec<_>>(), ["aws_region"]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_shape_that_can() {
        let refused = [
            ("max_concurrency", "0", "1 to 4096"),
            ("max_concurrency", "4097", "1 to 4096"),
            ("retries_max", "-1", "0 to 100"),
            ("retry_timeout", "0s", "20s"),
            ("retry_timeout", "2 fortnights", "20s"),
            ("request_timeout", "11m", "600 s"),
            ("connect_timeout", "99999999999999999999h", "20s"),
            ("hedge", "maybe", "on nor off"),
            ("read_bytes_per_second", "1", "1048576"),
            ("write_bytes_per_second", "99999999999999999GiB", "100MB"),
        ];
        for (name, value, advice) in refused {
            let error = TrafficSettings::split(&options(&[(name, value)]), "s3://b").unwrap_err();
            assert!(matches!(&error, Error::InvalidOption { option, .. } if option == name), "{name}={value}: {error}");
            assert!(error.to_string().contains(advice), "{name}={value}: {error}");
        }
    }

    #[test]
    fn a_misspelt_option_is_recognized() {
        let advice = |name| TrafficSettings::unknown_option(name, &["aws_region"], "s3://b").to_string();
        assert!(advice("max_concurency").contains("did you mean max_concurrency?"));
        assert!(advice("aws_regoin").contains("did you mean aws_region?"));
        assert!(advice("colour").contains("request_timeout"));
    }

    /// Each option has its row in the document, with its default.
    #[test]
    fn the_document_lists_every_option() {
        let document = include_str!("../../../../docs/mount-options.md");
        let defaults = ["256", "5", "35s", "off", "off", "off", "5s", "20s"];
        for (name, default) in TrafficSettings::NAMES.iter().zip(defaults) {
            let row = format!("| `{name}` | {default} |");
            assert!(document.contains(&row), "docs/mount-options.md lacks a row that begins with {row}");
            if default != "off" || *name == "hedge" {
                let (parsed, _) = TrafficSettings::split(&options(&[(name, default)]), "s3://b").unwrap();
                assert_eq!(parsed, TrafficSettings::default(), "{name}");
            }
        }
    }
}

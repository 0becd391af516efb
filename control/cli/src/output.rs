//! How things look: tables and sizes for people, JSON for programs.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write as _;
use std::io::{self, Write};

/// Says a line on standard error. Where nobody listens any more, that is no reason to end what is being done, as the
/// panic of `eprintln!` would.
macro_rules! say {
    ($($words:tt)*) => {
        $crate::output::say_line(format_args!($($words)*))
    };
}
pub(crate) use say;

/// What [`say!`] does.
pub(crate) fn say_line(words: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{words}");
}

/// 1536 as 1.5 KiB.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 10.0 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// Milliseconds since 1970 as 2026-11-22 07:40:01, in UTC; a dash for 0, which says that there is no time: directories of an
/// object store and mount points have none.
pub(crate) fn time(ms: u64) -> String {
    if ms == 0 {
        return format!("{:<19}", "-");
    }
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date, after Howard Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// A duration in nanoseconds as 1.2 us, 34 ms, 5.6 s.
pub(crate) fn human_nanos(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} us", n / 1e3),
        n if n < 1e9 => format!("{:.1} ms", n / 1e6),
        n => format!("{:.1} s", n / 1e9),
    }
}

/// A table without lines; columns whose name begins with `>` are set to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|name| Cell::new(name.trim_start_matches('>'))));
    for row in rows {
        table.add_row(row);
    }
    for (i, name) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(i) {
            column.set_padding((0, 2));
            if name.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

/// Writes one JSON value as a line.
pub(crate) fn json_line(out: &mut impl Write, value: &serde_json::Value) -> io::Result<()> {
    writeln!(out, "{value}")
}

/// Text from outside as it may be shown on a terminal: it can neither move the cursor, nor turn what follows around, nor
/// look like another name by what is not seen of it.
pub(crate) fn shown(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if c.is_control() || is_unseen(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// Whether a character is of those that change or hide others and have no shape themselves: Unicode's general category Cf
/// (format), line and paragraph separators, and fillers that are drawn as nothing. The joiners (U+200C, U+200D), which
/// Persian, Indic scripts and emoji are written with, and the selectors of variants are left alone.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{115f}' | '\u{1160}'
        | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A URI without the user and password that it may hold.
pub(crate) fn redact_uri(uri: &str) -> String {
    match uri.split_once("://") {
        Some((scheme, rest)) => {
            let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..authority_end].rfind('@') {
                Some(at) => format!("{scheme}://***@{}", &rest[at + 1..]),
                None => uri.to_owned(),
            }
        }
        None => uri.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_durations() {
        assert_eq!(
            [0, 1023, 1024, 1536, 10 << 20, 5 << 40].map(human_bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10 MiB", "5.0 TiB"]
        );
        assert_eq!(time(1), "1970-01-01 00:00:00");
        assert_eq!((time(0).trim_end(), time(0).len()), ("-", time(1).len()));
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(time(1_795_333_201_999), "2026-11-22 07:40:01");
        assert_eq!(human_nanos(1234.0), "1.2 us");
    }

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(shown("a\u{1b}[2Jb\nü"), "a\\u{1b}[2Jb\\nü");
    }

    #[test]
    fn names_cannot_pose_as_others() {
        // `ls` showed photo<U+202E>gpj.exe as photoexe.jpg.
        assert_eq!(shown("photo\u{202e}gpj.exe"), "photo\\u{202e}gpj.exe");
        for unseen in ['\u{200b}', '\u{2066}', '\u{2069}', '\u{feff}', '\u{2028}', '\u{ad}', '\u{e0041}'] {
            assert_eq!(shown(&format!("a{unseen}b")), format!("a{}b", unseen.escape_unicode()));
        }
        for seen in ["ü", "日本", "👩\u{200d}🚀", "\u{2764}\u{fe0f}", "می\u{200c}خواهم", "שלום"] {
            assert_eq!(shown(seen), seen);
        }
    }

    #[test]
    fn passwords_in_uris_are_not_shown() {
        assert_eq!(redact_uri("s3://k:s3cret@host/b"), "s3://***@host/b");
        assert_eq!(redact_uri("s3://bucket/a@b"), "s3://bucket/a@b");
        assert_eq!(redact_uri("/a/b"), "/a/b");
    }

    #[test]
    fn tables_align() {
        let text = table(&["name", ">bytes"], [vec!["a".into(), "1".into()], vec!["bcd".into(), "100".into()]]);
        assert_eq!(text, "name  bytes\na         1\nbcd     100\n");
    }
}

//! Holds docs/mount-options.md to the tables of the systems: what they have is listed, and what is listed they have.

const DOCUMENT: &str = include_str!("../../../docs/mount-options.md");

/// Compares the tables of the section whose heading begins with `heading` with the names of its options and aliases, which
/// stand in the first column.
pub(crate) fn lists(heading: &str, names: impl IntoIterator<Item = impl AsRef<str>>) {
    lists_in_columns(1, heading, names);
}

/// The same of tables that have names in so many columns.
pub(crate) fn lists_in_columns(columns: usize, heading: &str, names: impl IntoIterator<Item = impl AsRef<str>>) {
    let start = DOCUMENT.find(&format!("\n## {heading}")).unwrap_or_else(|| panic!("there is no section {heading}"));
    let section = &DOCUMENT[start + 1..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let listed: Vec<&str> = rows.flat_map(|row| row.split('|').skip(1).take(columns)).flat_map(quoted).collect();
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    for name in &names {
        assert!(listed.contains(&name.as_str()), "docs/mount-options.md lacks {name} in \"{heading}\"");
    }
    for name in listed {
        assert!(
            names.iter().any(|known| known == name),
            "docs/mount-options.md has {name} in \"{heading}\", which is none"
        );
    }
}

/// What stands between backquotes.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

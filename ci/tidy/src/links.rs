//! Links between the project's Markdown files lead somewhere.
//!
//! Inline links and images `[a](b)`, reference definitions `[a]: b`, and `src` and `href` of HTML
//! are looked at, outside code. Links that leave the tree are not followed: no test asks a network.

use std::collections::HashSet;

use crate::finding::Finding;
use crate::tree::Tree;

const CHECK: &str = "links";

/// Checks every relative link, and its anchor where it leads to a Markdown file.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts().filter(|(path, _)| path.ends_with(".md")) {
        for (number, line) in prose(text) {
            for target in targets(line) {
                if let Some(what) = broken(tree, path, target) {
                    findings.push(Finding::at_line(CHECK, path, number, what));
                }
            }
        }
    }
    findings
}

/// The lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fence: Option<&str> = None;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let trimmed = line.trim_start();
        let opened = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        match (fence, opened) {
            (None, None) => return Some((index + 1, line)),
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (Some(_), _) => {}
        }
        None
    })
}

/// What the links of a line point to; inline code is passed over.
fn targets(line: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    // Odd pieces lie between backquotes. A link around code still shows its `](…)` in an even one.
    for piece in line.split('`').step_by(2) {
        for (opening, closing) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            for (at, _) in piece.match_indices(opening) {
                let rest = &piece[at + opening.len()..];
                let target = rest.split(closing).next().unwrap_or(rest);
                // `[a](b "title")`
                targets.push(target.split(" \"").next().unwrap_or(target).trim());
            }
        }
    }
    let definition = line.strip_prefix('[').and_then(|rest| rest.split_once("]: "));
    targets.extend(definition.map(|(_, target)| target.trim()));
    targets
}

fn broken(tree: &Tree, from: &str, target: &str) -> Option<String> {
    let target = target.trim_matches(['<', '>']);
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let Some(path) = resolve(from, &file.replace("%20", " ")) else {
        return Some(format!("`{target}` leads out of the tree"));
    };
    if !tree.has_file(&path) && !tree.has_folder(&path) {
        return Some(format!("`{target}` leads nowhere: there is no {path}"));
    }
    let text = tree.text(&path).filter(|_| path.ends_with(".md"))?;
    if !anchor.is_empty() && !anchors(text).contains(anchor) {
        return Some(format!("`{target}` leads nowhere: {path} has no such heading"));
    }
    None
}

/// `target` as seen from the folder of `from`, relative to the top; none if it climbs above.
fn resolve(from: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(from.to_owned());
    }
    let mut components: Vec<&str> = from.split('/').collect();
    components.pop();
    for component in target.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop()?;
            }
            name => components.push(name),
        }
    }
    Some(components.join("/"))
}

/// The anchors that GitHub makes of headings: lower case, spaces to hyphens, punctuation dropped, a
/// number added to one that was there before.
fn anchors(text: &str) -> HashSet<String> {
    let mut anchors = HashSet::new();
    for (_, line) in prose(text) {
        let Some(heading) = line.trim_start_matches('#').strip_prefix(' ') else {
            continue;
        };
        if !line.starts_with('#') {
            continue;
        }
        let slug: String = heading
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut repeat = 0;
        while !anchors.insert(anchor) {
            repeat += 1;
            anchor = format!("{slug}-{repeat}");
        }
    }
    anchors
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: (&str, &str) = ("docs/other.md", "# Big, `bold` words\n\n## Again\n## Again\n");

    fn findings(text: &str) -> usize {
        let tree = Tree::of(&[("docs/a.md", text), OTHER, ("engine/src/lib.rs", "")]);
        check(&tree).len()
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        for text in [
            "[o](other.md), [o](./other.md#big-bold-words) and [o](other.md#again-1)",
            "# Here\n[h](#here) ![i](<../engine/src/lib.rs> \"title\")",
            "[folder](../engine/) [top](..)",
            "[web](https://host.example/a#b) [mail](mailto:a@host.example)",
            "[ref]: other.md",
            "```\n[no](nowhere.md)\n```\nand `[no](nowhere.md)`",
            "[`code`](other.md)",
        ] {
            assert_eq!(findings(text), 0, "{text}");
        }
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        for text in [
            "see [o](others.md)",
            "[`code`](nowhere.md)",
            "![i](plot.svg)",
            "[o](other.md#small-words)",
            "[o](other.md#again-2)",
            "[h](#here)",
            "[up](../../x.md)",
            "[ref]: nowhere.md",
            "<img src=\"plot.svg\">",
            "```\n```\n[no](nowhere.md)",
        ] {
            assert_eq!(findings(text), 1, "{text}");
        }
    }
}

//! The namespace beside its naive twin, a map of whole paths.

use super::super::files::FileSlot;
use super::super::namespace::{Inode, Links, Namespace, Stored};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    /// Links or unlinks one thing at a path.
    Toggle(String, u8),
    Relocate(String, String),
    /// Writes the tree down and reads it again.
    Restore,
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "ab", "b", "ü", "c-0123456789"]), 1..5)
        .prop_map(|names| format!("/{}", names.join("/")))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any_path(), 0_u8..3).prop_map(|(path, what)| Step::Toggle(path, what)),
        4 => (any_path(), any_path()).prop_map(|(from, to)| Step::Relocate(from, to)),
        1 => Just(Step::Restore),
    ]
}

fn toggle(links: &mut Links, what: u8) {
    let slot = Some(FileSlot::of_index(3));
    match what {
        0 => links.file = if links.file.is_some() { None } else { slot },
        1 => links.writer = if links.writer.is_some() { None } else { slot },
        _ => links.mount = if links.mount.is_some() { None } else { Some(MountId(5)) },
    }
}

/// Whole paths and what is linked to them; nothing else.
type Twin = BTreeMap<String, Links>;

fn below<'a>(twin: &'a Twin, dir: &'a str) -> impl Iterator<Item = (&'a String, &'a Links)> {
    let prefix = if dir == "/" { "/".to_owned() } else { format!("{dir}/") };
    twin.iter().filter(move |(path, _)| path.starts_with(&prefix))
}

fn apply(tree: &mut Namespace, twin: &mut Twin, step: &Step) {
    match step {
        Step::Toggle(text, what) => {
            tree.link(&path(text), |links| toggle(links, *what));
            let links = twin.entry(text.clone()).or_default();
            toggle(links, *what);
            if *links == Links::default() {
                twin.remove(text);
            }
        }
        Step::Relocate(from, to) => {
            let (from_path, to_path) = (path(from), path(to));
            let is_free = !twin.contains_key(to) && below(twin, to).next().is_none();
            let Some(inode) = tree.find(&from_path) else { return };
            if !is_free || to_path.is_under(&from_path) {
                return;
            }
            tree.relocate(inode, &to_path);
            assert_eq!(tree.find(&to_path), Some(inode), "an inode is the same wherever it is");
            let moved: Vec<String> =
                below(twin, from).map(|(path, _)| path.clone()).chain(Some(from.clone())).collect();
            for old in moved {
                if let Some(links) = twin.remove(&old) {
                    twin.insert(format!("{to}{}", &old[from.len()..]), links);
                }
            }
        }
        Step::Restore => {
            let stored: Vec<Stored<'_>> = tree.stored().collect();
            let free: Vec<_> = tree.stored_free().collect();
            let restored = Namespace::restore(&stored, &free).unwrap();
            *tree = restored;
        }
    }
}

fn compare(tree: &Namespace, twin: &Twin) {
    tree.validate();
    let mut known: BTreeSet<String> = BTreeSet::from(["/".to_owned()]);
    for text in twin.keys() {
        let mut above = Some(path(text));
        while let Some(path) = above {
            known.insert(path.as_str().to_owned());
            above = path.parent();
        }
    }
    assert_eq!(tree.len(), known.len());
    for text in &known {
        let inode = tree.find(&path(text)).unwrap();
        assert_eq!(tree.path(inode).as_str(), text);
        assert_eq!(*tree.links(inode), twin.get(text).copied().unwrap_or_default());
        let mut here = below(twin, text).map(|(_, links)| links).chain(twin.get(text));
        assert_eq!(tree.is_visible(inode), here.any(|links| links.file.is_some() || links.mount.is_some()));
        assert_eq!(tree.has_children(inode), below(twin, text).next().is_some());
        for after in ["", "a", "ab", "bb"] {
            let expected: Vec<&str> = known
                .iter()
                .filter(|child| path(child).parent().is_some_and(|parent| parent.as_str() == text))
                .map(|child| &child[child.rfind('/').unwrap() + 1..])
                .filter(|name| *name > after)
                .collect();
            let found: Vec<&str> = tree.children_after(inode, after).map(|(name, _)| name).collect();
            assert_eq!(found, expected, "{text} after {after:?}");
        }
        let family: BTreeSet<String> =
            tree.subtree(inode).map(|(inode, _)| tree.path(inode).as_str().to_owned()).collect();
        let is_family = |other: &&String| path(other).is_under(&path(text));
        assert_eq!(family, known.iter().filter(is_family).cloned().collect());
        for (member, bytes) in tree.subtree(inode) {
            let prefix = if text == "/" { 0 } else { text.len() };
            let whole = tree.path(member);
            assert_eq!(if whole.is_root() { 0 } else { whole.as_str().len() } - prefix, bytes);
        }
    }
    for missing in ["/zz", "/a/zz", "/zz/a"] {
        assert_eq!(tree.find(&path(missing)), None);
    }
}

proptest! {
    #[test]
    fn as_a_map_of_paths(steps in prop::collection::vec(any_step(), 1..120)) {
        let (mut tree, mut twin) = (Namespace::new(), Twin::new());
        for step in &steps {
            apply(&mut tree, &mut twin, step);
        }
        compare(&tree, &twin);
        // And back to nothing.
        for (text, links) in std::mem::take(&mut twin) {
            let inode = tree.find(&path(&text)).unwrap();
            prop_assert_eq!(*tree.links(inode), links);
            tree.relink(inode, |links| *links = Links::default());
        }
        compare(&tree, &twin);
        prop_assert_eq!(tree.len(), 1);
    }
}

#[test]
fn a_slot_that_is_used_again_is_another_inode() {
    let mut tree = Namespace::new();
    let first = tree.link(&path("/a"), |links| links.mount = Some(MountId(1)));
    tree.relink(first, |links| links.mount = None);
    let second = tree.link(&path("/b"), |links| links.mount = Some(MountId(1)));
    assert_ne!(first, second);
    assert_ne!(first.number(), second.number());
    assert_eq!(first.number() as u32, second.number() as u32, "the slot is the same");
    assert!(tree.find(&path("/a")).is_none() && tree.find(&NamespacePath::root()) == Some(Inode::ROOT));
}

#[test]
fn trees_that_are_none_are_not_restored() {
    let node = |slot, parent, name| Stored { slot, generation: 0, parent, name, links: Links::default() };
    let restores = |nodes: &[Stored<'_>], free: &[(u32, u32)]| Namespace::restore(nodes, free).is_some();
    assert!(restores(&[node(0, 0, ""), node(1, 0, "a"), node(2, 1, "b")], &[(3, 1)]));
    for (nodes, free) in [
        (vec![], vec![]),
        (vec![node(0, 0, "name")], vec![]),
        (vec![node(0, 0, ""), node(1, 0, "")], vec![]),
        (vec![node(0, 0, ""), node(2, 0, "a")], vec![]),
        (vec![node(0, 0, ""), node(1, 7, "a")], vec![]),
        (vec![node(0, 0, ""), node(1, 2, "a"), node(2, 1, "b")], vec![]),
        (vec![node(0, 0, ""), node(1, 0, "a"), node(2, 0, "a")], vec![]),
        (vec![node(0, 0, ""), node(1, 0, "a")], vec![(1, 0)]),
        (vec![node(0, 0, ""), node(1, 2, "a")], vec![(2, 0)]),
        (vec![node(0, 0, "")], vec![(9, 0)]),
    ] {
        assert!(!restores(&nodes, &free));
    }
}

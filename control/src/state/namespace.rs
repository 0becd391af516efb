//! The tree of names that only the log knows.
//!
//! ```text
//! slot:        0        1        2        3
//! nodes:     [ / ]    [ a ]    [ f ]    free      parent, generation, links, children
//! names:      ""       "a"      "f"               one string, see `names`
//! table:     (0,"a") -> 1   (1,"f") -> 2          one hash table for all directories
//! ```
//!
//! A node is here because something is linked to it (a file, its writer, a mount, an intent) or because something
//! lies below it; directories themselves live in the under-stores. So a node vanishes with its last link and its last
//! child. The root never does.
//!
//! An inode is a slot with a generation, so that a slot that is used again is another inode. Slots are given out last
//! in, first out: the order is part of the state, because inodes must be the same on every replica.

use super::children::Children;
use super::files::FileSlot;
use super::intents::Claim;
use super::names::Names;
use citius_wire::{MountId, NamespacePath, PATH_BYTES_MAX};
use core::hash::{BuildHasher, Hasher};
use hashbrown::{DefaultHashBuilder, HashTable};

/// The most inodes: as many as memory could hold at about 100 bytes each, and far from the end of `u32`.
pub const INODES_MAX: usize = 1 << 30;
/// The most names in a path: one byte each, and a slash.
pub(super) const DEPTH_MAX: usize = PATH_BYTES_MAX / 2;

const ROOT: u32 = 0;

/// An inode number: a slot in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode {
    slot: u32,
    generation: u32,
}

impl Inode {
    /// The root.
    pub const ROOT: Self = Self { slot: ROOT, generation: 0 };

    pub(super) const fn of_slot(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// The number that a user sees.
    pub const fn number(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }
}

/// What is linked to a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// A complete file.
    pub(super) file: Option<FileSlot>,
    /// A file being written; nobody but its writer sees it.
    pub(super) writer: Option<FileSlot>,
    /// A mount that begins here.
    pub(super) mount: Option<MountId>,
    /// An intent that has the name, and perhaps all below it, for itself.
    pub(super) claim: Option<Claim>,
}

impl Links {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many of them everyone sees.
    fn visible(&self) -> u32 {
        u32::from(self.file.is_some()) + u32::from(self.mount.is_some())
    }
}

struct Node {
    generation: u32,
    /// Of the root and of a free slot: itself.
    parent: u32,
    /// Links that everyone sees, here and below.
    visible: u32,
    links: Links,
    children: Option<Box<Children>>,
}

const _: () = assert!(size_of::<Node>() <= 72, "about 100 bytes an inode, with name, table and child list");

/// A node as a snapshot keeps it.
pub(super) struct Stored<'a> {
    pub(super) slot: u32,
    pub(super) generation: u32,
    pub(super) parent: u32,
    pub(super) name: &'a str,
    pub(super) links: Links,
}

/// One node on the way to a path.
pub(super) struct Step {
    pub(super) inode: Inode,
    /// The node's path is so many bytes of the whole path; 0 for the root.
    pub(super) end: usize,
    /// Whether the whole path ends here.
    pub(super) is_last: bool,
}

/// The tree.
pub(super) struct Namespace {
    nodes: Vec<Node>,
    names: Names,
    /// Slots by parent and name. Its order depends on a random seed and is never looked at.
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Free slots; the last one is used next.
    free: Vec<u32>,
}

impl Namespace {
    /// A tree of a root.
    pub(super) fn new() -> Self {
        let mut names = Names::default();
        names.set(ROOT, "");
        Self {
            nodes: vec![Node { generation: 0, parent: ROOT, visible: 0, links: Links::default(), children: None }],
            names,
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            free: Vec::new(),
        }
    }

    /// Nodes, the root included.
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// What is linked to an inode.
    pub(super) fn links(&self, inode: Inode) -> &Links {
        &self.node(inode).links
    }

    /// Whether something lies below.
    pub(super) fn has_children(&self, inode: Inode) -> bool {
        self.node(inode).children.is_some()
    }

    /// Whether everyone sees something here or below.
    pub(super) fn is_visible(&self, inode: Inode) -> bool {
        self.node(inode).visible > 0
    }

    /// The nodes from the root towards a path, as far as there are any.
    pub(super) fn trail<'a>(&'a self, path: &'a NamespacePath) -> impl Iterator<Item = Step> + use<'a> {
        let text = if path.is_root() { "" } else { path.as_str() };
        let mut next = Some((ROOT, 0));
        std::iter::from_fn(move || {
            let (slot, end) = next?;
            let is_last = end == text.len();
            next = if is_last {
                None
            } else {
                let rest = &text[end + 1..];
                let name = rest.split('/').next().unwrap_or(rest);
                self.child(slot, name).map(|child| (child, end + 1 + name.len()))
            };
            Some(Step { inode: self.inode(slot), end, is_last })
        })
    }

    /// The inode of a path.
    pub(super) fn find(&self, path: &NamespacePath) -> Option<Inode> {
        self.trail(path).find(|step| step.is_last).map(|step| step.inode)
    }

    /// The path of an inode.
    pub(super) fn path(&self, inode: Inode) -> NamespacePath {
        let mut slots = Vec::new();
        let mut slot = self.checked(inode);
        while slot != ROOT {
            slots.push(slot);
            slot = self.nodes[slot as usize].parent;
        }
        let mut path = String::from("/");
        for (i, slot) in slots.iter().rev().enumerate() {
            if i > 0 {
                path.push('/');
            }
            path.push_str(self.names.get(*slot));
        }
        NamespacePath::parse(&path).expect("the tree is made of paths")
    }

    /// The children after a name, in name order.
    pub(super) fn children_after<'a>(
        &'a self,
        inode: Inode,
        after: &str,
    ) -> impl Iterator<Item = (&'a str, Inode)> + use<'a> {
        let children = self.node(inode).children.as_deref();
        children
            .map(|children| children.after(after, &self.names))
            .into_iter()
            .flatten()
            .map(|slot| (self.names.get(slot), self.inode(slot)))
    }

    /// The inode and all below it, parents first, each with the bytes of its path below `inode`.
    pub(super) fn subtree(&self, inode: Inode) -> impl Iterator<Item = (Inode, usize)> {
        let mut stack = vec![(self.checked(inode), 0)];
        std::iter::from_fn(move || {
            let (slot, bytes) = stack.pop()?;
            if let Some(children) = &self.nodes[slot as usize].children {
                stack.extend(children.iter().map(|child| (child, bytes + 1 + self.names.get(child).len())));
            }
            Some((self.inode(slot), bytes))
        })
    }

    /// Changes the links of a path, which is made if it is not there. The caller has asked [`Namespace::has_room`].
    pub(super) fn link(&mut self, path: &NamespacePath, change: impl FnOnce(&mut Links)) -> Inode {
        let inode = self.ensure(path);
        self.relink(inode, change);
        inode
    }

    /// The inode of a path, which is made if it is not there. The caller links it next: until then nothing holds it.
    pub(super) fn ensure(&mut self, path: &NamespacePath) -> Inode {
        let slot = self.ensure_slot(path);
        self.inode(slot)
    }

    /// Changes the links of an inode, which goes if nothing holds it any more.
    pub(super) fn relink(&mut self, inode: Inode, change: impl FnOnce(&mut Links)) {
        let slot = self.checked(inode);
        let links = &mut self.nodes[slot as usize].links;
        let before = links.visible();
        change(links);
        let after = links.visible();
        if before != after {
            self.add_visible(slot, i64::from(after) - i64::from(before));
        }
        self.prune(slot);
    }

    /// Moves an inode, with all below it, to a path that is not there. No inode changes by that.
    pub(super) fn relocate(&mut self, inode: Inode, to: &NamespacePath) {
        let slot = self.checked(inode);
        assert!(slot != ROOT && self.find(to).is_none(), "{to} is free");
        let visible = i64::from(self.nodes[slot as usize].visible);
        let from_parent = self.nodes[slot as usize].parent;
        let (Some(to_parent), Some(to_name)) = (to.parent(), to.name()) else { unreachable!("the root is there") };

        self.detach(slot);
        self.add_visible(from_parent, -visible);
        // The new parent first: the old one may be among its ancestors, and would go if it were empty.
        let to_parent = self.ensure_slot(&to_parent);
        self.attach(slot, to_parent, to_name);
        self.add_visible(to_parent, visible);
        self.prune(from_parent);
    }

    /// Whether two paths more, the most that one change makes, still fit.
    pub(super) fn has_room(&self) -> bool {
        self.len() + 2 * DEPTH_MAX <= INODES_MAX
    }

    fn node(&self, inode: Inode) -> &Node {
        &self.nodes[self.checked(inode) as usize]
    }

    /// The slot of an inode that lives.
    fn checked(&self, inode: Inode) -> u32 {
        assert_eq!(self.nodes[inode.slot as usize].generation, inode.generation, "{inode:?} lives");
        inode.slot
    }

    fn inode(&self, slot: u32) -> Inode {
        Inode { slot, generation: self.nodes[slot as usize].generation }
    }

    fn hash(hasher: &DefaultHashBuilder, parent: u32, name: &str) -> u64 {
        let mut state = hasher.build_hasher();
        state.write_u32(parent);
        state.write(name.as_bytes());
        state.finish()
    }

    fn child(&self, parent: u32, name: &str) -> Option<u32> {
        let hash = Self::hash(&self.hasher, parent, name);
        self.table
            .find(hash, |slot| self.nodes[*slot as usize].parent == parent && self.names.get(*slot) == name)
            .copied()
    }

    /// The slot of a path; missing ones are made, and the caller links the last.
    fn ensure_slot(&mut self, path: &NamespacePath) -> u32 {
        let mut slot = ROOT;
        for name in path.names() {
            slot = match self.child(slot, name) {
                Some(child) => child,
                None => {
                    let child = self.take_slot(slot);
                    self.attach(child, slot, name);
                    child
                }
            };
        }
        slot
    }

    fn take_slot(&mut self, parent: u32) -> u32 {
        let slot = self.free.pop().unwrap_or(self.nodes.len() as u32);
        if slot as usize == self.nodes.len() {
            self.nodes.push(Node { generation: 0, parent, visible: 0, links: Links::default(), children: None });
        }
        slot
    }

    /// Names a slot and enters it under its parent.
    fn attach(&mut self, slot: u32, parent: u32, name: &str) {
        self.names.set(slot, name);
        self.nodes[slot as usize].parent = parent;
        let hash = Self::hash(&self.hasher, parent, name);
        let (nodes, names, hasher) = (&self.nodes, &self.names, &self.hasher);
        self.table.insert_unique(hash, slot, |slot| Self::hash(hasher, nodes[*slot as usize].parent, names.get(*slot)));
        self.nodes[parent as usize].children.get_or_insert_default().insert(slot, &self.names);
    }

    /// Takes a slot away from its parent, which may be left with no children; see [`Namespace::prune`].
    fn detach(&mut self, slot: u32) {
        let parent = self.nodes[slot as usize].parent;
        let hash = Self::hash(&self.hasher, parent, self.names.get(slot));
        self.table.find_entry(hash, |other| *other == slot).expect("every node but the root is in the table").remove();
        let children = self.nodes[parent as usize].children.as_mut().expect("a parent has children");
        children.remove(slot, &self.names);
        if children.is_empty() {
            self.nodes[parent as usize].children = None;
        }
        self.names.clear(slot);
    }

    /// Frees a slot that nothing holds, and then its ancestors likewise.
    fn prune(&mut self, mut slot: u32) {
        loop {
            let node = &self.nodes[slot as usize];
            if slot == ROOT || node.children.is_some() || !node.links.is_empty() {
                return;
            }
            let parent = node.parent;
            debug_assert_eq!(node.visible, 0);
            self.detach(slot);
            let node = &mut self.nodes[slot as usize];
            node.parent = slot;
            // After 2^32 lives of one slot an inode number comes again; a client does not keep one that long.
            node.generation = node.generation.wrapping_add(1);
            self.free.push(slot);
            slot = parent;
        }
    }

    /// Adds to the visible links of a slot and its ancestors.
    fn add_visible(&mut self, mut slot: u32, difference: i64) {
        loop {
            let node = &mut self.nodes[slot as usize];
            let visible = i64::from(node.visible) + difference;
            node.visible = u32::try_from(visible).expect("INODES_MAX bounds the links");
            if slot == ROOT {
                return;
            }
            slot = node.parent;
        }
    }

    /// All nodes, by slot.
    pub(super) fn stored(&self) -> impl Iterator<Item = Stored<'_>> {
        self.nodes
            .iter()
            .enumerate()
            .map(|(i, node)| (i as u32, node))
            .filter(|(slot, node)| *slot == ROOT || node.parent != *slot)
            .map(|(slot, node)| Stored {
                slot,
                generation: node.generation,
                parent: node.parent,
                name: self.names.get(slot),
                links: node.links,
            })
    }

    /// Free slots with their generations; the last one is used next.
    pub(super) fn stored_free(&self) -> impl Iterator<Item = (u32, u32)> {
        self.free.iter().map(|slot| (*slot, self.nodes[*slot as usize].generation))
    }

    /// Builds the tree that [`Namespace::stored`] and [`Namespace::stored_free`] told of; `None` if there is no such
    /// tree.
    pub(super) fn restore(stored: &[Stored<'_>], free: &[(u32, u32)]) -> Option<Self> {
        let total = stored.len() + free.len();
        if !stored.iter().any(|node| node.slot == ROOT) {
            return None;
        }
        let mut tree = Self::new();
        let blank = |slot| Node { generation: 0, parent: slot, visible: 0, links: Links::default(), children: None };
        tree.nodes = (0..u32::try_from(total).ok()?).map(blank).collect();
        for (slot, generation) in free {
            let node = tree.nodes.get_mut(*slot as usize)?;
            node.generation = *generation;
            tree.free.push(*slot);
        }
        let mut seen = vec![false; total];
        let slots = stored.iter().map(|node| node.slot).chain(free.iter().map(|(slot, _)| *slot));
        for slot in slots {
            if std::mem::replace(seen.get_mut(slot as usize)?, true) {
                return None;
            }
        }
        for node in stored {
            let is_root = node.slot == ROOT;
            let parent_lives = tree.nodes.get(node.parent as usize).is_some();
            if is_root != node.name.is_empty() || is_root != (node.parent == node.slot) || !parent_lives {
                return None;
            }
            tree.nodes[node.slot as usize].generation = node.generation;
            tree.nodes[node.slot as usize].links = node.links;
            if !is_root {
                if tree.child(node.parent, node.name).is_some() {
                    return None;
                }
                tree.attach(node.slot, node.parent, node.name);
            }
        }
        if tree.subtree(tree.inode(ROOT)).take(total + 1).count() != stored.len() {
            return None;
        }
        for node in stored {
            match node.links.visible() {
                0 => {}
                visible => tree.add_visible(node.slot, i64::from(visible)),
            }
        }
        Some(tree)
    }

    /// Checks every invariant of the tree.
    pub(super) fn validate(&self) {
        self.names.validate();
        let root = self.inode(ROOT);
        assert_eq!(self.subtree(root).count(), self.len(), "every node hangs on the root, once");
        assert_eq!(self.table.len() + 1, self.len(), "every node but the root is in the table");
        for (inode, _) in self.subtree(root) {
            let node = self.node(inode);
            let mut visible = node.links.visible();
            if let Some(children) = &node.children {
                assert!(!children.is_empty(), "an empty child list is none");
                children.validate(&self.names);
                for child in children.iter() {
                    assert_eq!(self.nodes[child as usize].parent, inode.slot);
                    assert_eq!(self.child(inode.slot, self.names.get(child)), Some(child), "the table finds it");
                    visible += self.nodes[child as usize].visible;
                }
            } else {
                assert!(inode.slot == ROOT || !node.links.is_empty(), "something holds {}", self.path(inode));
            }
            assert_eq!(node.visible, visible, "visible links of {}", self.path(inode));
        }
        for slot in &self.free {
            let node = &self.nodes[*slot as usize];
            assert!(node.parent == *slot && node.links.is_empty() && node.children.is_none() && node.visible == 0);
        }
    }
}

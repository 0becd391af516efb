//! Which block goes first when room is needed.

/// Orders the blocks that may be evicted. Slots are small numbers that the index gives to blocks.
///
/// The index tells of blocks only while they may go: one that is pinned, unpersisted or being fetched is forgotten, and
/// admitted again when that ends. So the victim is found without passing over blocks that may not go.
pub trait Policy {
    /// A block may be evicted from now on.
    fn admit(&mut self, slot: u32);
    /// An admitted block was read.
    fn touch(&mut self, slot: u32);
    /// An admitted block is gone, or may not go any more.
    fn forget(&mut self, slot: u32);
    /// The block to evict next, which stays admitted.
    fn victim(&self) -> Option<u32>;
}

/// No slot.
const NONE: u32 = u32::MAX;

/// Least recently used first: a doubly linked list through an array, so every step is constant.
#[derive(Debug)]
pub struct Lru {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
    is_listed: bool,
}

impl Default for Lru {
    fn default() -> Self {
        Self { links: Vec::new(), oldest: NONE, newest: NONE }
    }
}

impl Policy for Lru {
    fn admit(&mut self, slot: u32) {
        let at = slot as usize;
        if at >= self.links.len() {
            self.links.resize(at + 1, Link { older: NONE, newer: NONE, is_listed: false });
        }
        assert!(!self.links[at].is_listed, "slot {slot} is admitted twice");
        self.links[at] = Link { older: self.newest, newer: NONE, is_listed: true };
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.links[newest as usize].newer = slot,
        }
        self.newest = slot;
    }

    fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.forget(slot);
            self.admit(slot);
        }
    }

    fn forget(&mut self, slot: u32) {
        let Link { older, newer, is_listed } = self.links[slot as usize];
        assert!(is_listed, "slot {slot} is not admitted");
        self.links[slot as usize].is_listed = false;
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }

    fn victim(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::default();
        assert_eq!(lru.victim(), None);
        (0..4).for_each(|slot| lru.admit(slot));
        lru.touch(0);
        lru.touch(2);
        lru.touch(2);
        lru.forget(3);
        let mut order = Vec::new();
        while let Some(slot) = lru.victim() {
            order.push(slot);
            lru.forget(slot);
        }
        assert_eq!(order, [1, 0, 2]);
        lru.admit(9);
        assert_eq!(lru.victim(), Some(9));
    }
}

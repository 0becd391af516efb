//! The names of inodes, packed into one string.
//!
//! ```text
//! spans[slot] = offset << 8 | length        text = "…alphabetagamma…"
//! ```
//!
//! A name has at most 255 bytes, so a span is one `u64`. Bytes of names that were cleared stay in the string until
//! they outweigh the live ones; then the string is rebuilt. Clearing is O(1), and no more than half is ever wasted.

use citius_wire::NAME_BYTES_MAX;

/// Below so many dead bytes the string is never rebuilt.
const COMPACT_BYTES_MIN: usize = 64 << 10;

const LENGTH_BITS: u32 = 8;
const _: () = assert!(NAME_BYTES_MAX < 1 << LENGTH_BITS);

/// Names by slot.
#[derive(Default)]
pub(super) struct Names {
    text: String,
    spans: Vec<u64>,
    dead_bytes: usize,
}

impl Names {
    /// The name in `slot`; empty if it has none.
    pub(super) fn get(&self, slot: u32) -> &str {
        let span = self.spans[slot as usize];
        let start = (span >> LENGTH_BITS) as usize;
        &self.text[start..start + length(span)]
    }

    /// Names `slot`, which has no name.
    pub(super) fn set(&mut self, slot: u32, name: &str) {
        assert!(name.len() <= NAME_BYTES_MAX, "paths hold no longer names");
        let slot = slot as usize;
        if slot >= self.spans.len() {
            self.spans.resize(slot + 1, 0);
        }
        assert!(length(self.spans[slot]) == 0, "slot {slot} has a name");
        self.spans[slot] = (self.text.len() as u64) << LENGTH_BITS | name.len() as u64;
        self.text.push_str(name);
    }

    /// Takes the name of `slot` away.
    pub(super) fn clear(&mut self, slot: u32) {
        self.dead_bytes += length(std::mem::take(&mut self.spans[slot as usize]));
        if self.dead_bytes > COMPACT_BYTES_MIN.max(self.text.len() / 2) {
            self.compact();
        }
    }

    fn compact(&mut self) {
        let mut text = String::with_capacity(self.text.len() - self.dead_bytes);
        for span in &mut self.spans {
            let (start, length) = ((*span >> LENGTH_BITS) as usize, length(*span));
            *span = (text.len() as u64) << LENGTH_BITS | length as u64;
            text.push_str(&self.text[start..start + length]);
        }
        self.text = text;
        self.dead_bytes = 0;
    }

    /// Checks that live and dead bytes add up.
    pub(super) fn validate(&self) {
        let live: usize = self.spans.iter().map(|span| length(*span)).sum();
        assert_eq!(live + self.dead_bytes, self.text.len(), "name bytes are live or dead");
    }
}

fn length(span: u64) -> usize {
    (span & ((1 << LENGTH_BITS) - 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_compaction() {
        let mut names = Names::default();
        let name = |slot: u32| format!("{slot}-ü-{}", "x".repeat(slot as usize % 200));
        for slot in 0..4_000 {
            names.set(slot, &name(slot));
        }
        let text_bytes = names.text.len();
        for slot in (0..4_000).filter(|slot| slot % 5 != 0) {
            names.clear(slot);
        }
        names.validate();
        assert!(names.text.len() < text_bytes / 2, "{} of {text_bytes} bytes are left", names.text.len());
        for slot in 0..4_000 {
            assert_eq!(names.get(slot), if slot % 5 == 0 { name(slot) } else { String::new() });
        }
        names.set(1, "again");
        assert_eq!(names.get(1), "again");
    }
}

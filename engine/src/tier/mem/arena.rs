//! Where in the slab segments each object lies: pure bookkeeping, no memory.
//!
//! ```text
//! segment  |p0|p1|p2|p3|p4|p5|...                 SEGMENT_PAGES pages of address space
//! runs      [  4 KiB  ][ 2.5 MiB       ]           each of one size class, on whole pages
//! slots     ssssss....  s      s                   slot i at i * class bytes; may cross pages within its run
//! ```
//!
//! Invariants: runs do not overlap; a page's count is the number of live slots that touch it; a run with a free slot is
//! listed as open under its class, once; a run with no live slot does not exist.

use super::size_class::{CLASSES, RUN_SLOTS_MAX, SizeClass};
use citius_wire::units::PAGE_BYTES;
use core::ops::Range;

/// Pages of address space of a segment.
pub(super) const SEGMENT_PAGES: u32 = 512;

const WORDS: usize = RUN_SLOTS_MAX / u64::BITS as usize;

/// Where an object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) segment: u32,
    run_page: u32,
    slot: u16,
    class: SizeClass,
}

impl Place {
    /// The bytes of the slot, within its segment.
    pub(super) fn bytes(self) -> Range<usize> {
        let start = self.run_page as usize * PAGE_BYTES + usize::from(self.slot) * self.class.bytes();
        start..start + self.class.bytes()
    }

    /// The pages that the slot touches, within its segment.
    pub(super) fn pages(self) -> Range<u32> {
        let bytes = self.bytes();
        (bytes.start / PAGE_BYTES) as u32..bytes.end.div_ceil(PAGE_BYTES) as u32
    }
}

/// What removing an object left behind.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Removed {
    /// Pages that no live slot touches any more.
    pub(super) idle_pages: Vec<u32>,
    /// Whether the segment has no object left.
    pub(super) is_segment_empty: bool,
}

pub(super) struct Arena {
    segments: Vec<Option<Segment>>,
    open: [Vec<RunId>; CLASSES],
}

impl Default for Arena {
    fn default() -> Self {
        Self { segments: Vec::new(), open: [const { Vec::new() }; CLASSES] }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RunId {
    segment: u32,
    page: u32,
}

struct Segment {
    /// By first page.
    runs: Vec<Option<Box<Run>>>,
    /// Pages of address space that belong to a run.
    taken: Vec<bool>,
    /// Live slots that touch each page.
    live: Vec<u16>,
    objects: u32,
}

struct Run {
    class: SizeClass,
    used: [u64; WORDS],
    live: u16,
    /// Its position in the list of open runs, while it has a free slot.
    open_at: Option<u32>,
}

impl Arena {
    /// Finds a slot for an object of a class; `None` if a segment must be added first.
    pub(super) fn place(&mut self, class: SizeClass) -> Option<Place> {
        let id = match self.open[class.index()].last() {
            Some(id) => *id,
            None => self.open_run(class)?,
        };
        let segment = self.segments[id.segment as usize].as_mut().expect("an open run is in a segment");
        let run = segment.runs[id.page as usize].as_mut().expect("an open run exists");
        assert_eq!(run.class, class, "a run is listed under its own class");
        let slot = first_free(&run.used);
        run.used[usize::from(slot) / 64] |= 1 << (slot % 64);
        run.live += 1;
        if run.live == class.run_slots() {
            run.open_at = None;
            self.open[class.index()].pop();
        }
        let place = Place { segment: id.segment, run_page: id.page, slot, class };
        for page in place.pages() {
            segment.live[page as usize] += 1;
        }
        segment.objects += 1;
        Some(place)
    }

    /// Frees a slot.
    pub(super) fn remove(&mut self, place: Place) -> Removed {
        let segment = self.segments[place.segment as usize].as_mut().expect("an object is in a segment");
        let run = segment.runs[place.run_page as usize].as_mut().expect("an object is in a run");
        let bit = 1 << (place.slot % 64);
        let word = &mut run.used[usize::from(place.slot) / 64];
        assert!(*word & bit != 0, "{place:?} is removed twice");
        *word &= !bit;
        run.live -= 1;
        segment.objects -= 1;
        let (is_run_empty, was_open) = (run.live == 0, run.open_at);
        let mut idle_pages = Vec::new();
        for page in place.pages() {
            segment.live[page as usize] -= 1;
            if segment.live[page as usize] == 0 {
                idle_pages.push(page);
            }
        }
        let is_segment_empty = segment.objects == 0;
        let id = RunId { segment: place.segment, page: place.run_page };
        match (is_run_empty, was_open) {
            (true, at) => {
                if let Some(at) = at {
                    self.unlist(place.class, at);
                }
                let segment = self.segments[id.segment as usize].as_mut().expect("seen above");
                segment.runs[id.page as usize] = None;
                segment.taken[run_range(id.page, place.class)].fill(false);
            }
            (false, None) => self.list(id, place.class),
            (false, Some(_)) => {}
        }
        Removed { idle_pages, is_segment_empty }
    }

    /// Adds a segment and says which.
    pub(super) fn add_segment(&mut self) -> u32 {
        let pages = SEGMENT_PAGES as usize;
        let runs = std::iter::repeat_with(|| None).take(pages).collect();
        let segment = Some(Segment { runs, taken: vec![false; pages], live: vec![0; pages], objects: 0 });
        match self.segments.iter().position(Option::is_none) {
            Some(at) => {
                self.segments[at] = segment;
                at as u32
            }
            None => {
                self.segments.push(segment);
                self.segments.len() as u32 - 1
            }
        }
    }

    /// Removes an empty segment.
    pub(super) fn remove_segment(&mut self, segment: u32) {
        let removed = self.segments[segment as usize].take().expect("only existing segments are removed");
        assert_eq!(removed.objects, 0, "only empty segments are removed");
    }

    pub(super) fn segment_count(&self) -> usize {
        self.segments.iter().flatten().count()
    }

    pub(super) fn object_count(&self) -> usize {
        self.segments.iter().flatten().map(|segment| segment.objects as usize).sum()
    }

    fn open_run(&mut self, class: SizeClass) -> Option<RunId> {
        let pages = class.run_pages() as usize;
        let id = self.segments.iter().enumerate().find_map(|(index, segment)| {
            let taken = &segment.as_ref()?.taken;
            let page = taken.windows(pages).position(|window| !window.contains(&true))?;
            Some(RunId { segment: index as u32, page: page as u32 })
        })?;
        let segment = self.segments[id.segment as usize].as_mut().expect("just found");
        segment.taken[run_range(id.page, class)].fill(true);
        segment.runs[id.page as usize] = Some(Box::new(Run { class, used: [0; WORDS], live: 0, open_at: None }));
        self.list(id, class);
        Some(id)
    }

    fn list(&mut self, id: RunId, class: SizeClass) {
        let open = &mut self.open[class.index()];
        open.push(id);
        let at = open.len() as u32 - 1;
        self.run_mut(id).open_at = Some(at);
    }

    fn unlist(&mut self, class: SizeClass, at: u32) {
        let open = &mut self.open[class.index()];
        open.swap_remove(at as usize);
        if let Some(moved) = open.get(at as usize).copied() {
            self.run_mut(moved).open_at = Some(at);
        }
    }

    fn run_mut(&mut self, id: RunId) -> &mut Run {
        let segment = self.segments[id.segment as usize].as_mut().expect("a listed run is in a segment");
        segment.runs[id.page as usize].as_mut().expect("a listed run exists")
    }

    #[cfg(test)]
    fn validate(&self) {
        for (index, segment) in self.segments.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?))) {
            let mut live = vec![0u16; SEGMENT_PAGES as usize];
            let mut taken = vec![false; SEGMENT_PAGES as usize];
            let mut objects = 0;
            for (page, run) in segment.runs.iter().enumerate().filter_map(|(p, r)| Some((p, r.as_ref()?))) {
                let id = RunId { segment: index as u32, page: page as u32 };
                assert!(run.live > 0, "a run with no live slot does not exist");
                assert_eq!(run.open_at.is_some(), run.live < run.class.run_slots());
                if let Some(at) = run.open_at {
                    assert_eq!(self.open[run.class.index()][at as usize], id);
                }
                for taken in &mut taken[run_range(page as u32, run.class)] {
                    assert!(!std::mem::replace(taken, true), "runs do not overlap");
                }
                let used = (0..run.class.run_slots())
                    .filter(|slot| run.used[usize::from(*slot) / 64] & (1 << (slot % 64)) != 0);
                for slot in used {
                    let place = Place { segment: id.segment, run_page: id.page, slot, class: run.class };
                    objects += 1;
                    place.pages().for_each(|page| live[page as usize] += 1);
                }
            }
            assert_eq!((live, taken, objects), (segment.live.clone(), segment.taken.clone(), segment.objects));
        }
    }
}

fn run_range(page: u32, class: SizeClass) -> Range<usize> {
    page as usize..(page + class.run_pages()) as usize
}

fn first_free(used: &[u64; WORDS]) -> u16 {
    let word = used.iter().position(|word| *word != u64::MAX).expect("an open run has a free slot");
    (word * 64) as u16 + used[word].trailing_ones() as u16
}

#[cfg(test)]
mod tests {
    use super::super::size_class::OBJECT_BYTES_MAX;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_objects_share_pages() {
        let mut arena = Arena::default();
        arena.add_segment();
        let places: Vec<_> = (0..100_000).map(|_| arena.place(SizeClass::of(4096)).unwrap()).collect();
        let pages: std::collections::BTreeSet<u32> = places.iter().flat_map(|place| place.pages()).collect();
        assert_eq!(pages.len(), 100_000usize.div_ceil(512), "100,000 files of 4 KiB take 196 pages");
        arena.validate();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against the plainest twin: a list of places that never overlap.
        #[test]
        fn places_never_overlap(steps in prop::collection::vec((any::<bool>(), 0..OBJECT_BYTES_MAX, any::<prop::sample::Index>()), 1..300)) {
            let mut arena = Arena::default();
            let mut live: Vec<Place> = Vec::new();
            for (is_add, bytes, which) in steps {
                if is_add || live.is_empty() {
                    let class = SizeClass::of(bytes);
                    let place = arena.place(class).unwrap_or_else(|| {
                        arena.add_segment();
                        arena.place(class).unwrap()
                    });
                    let range = place.bytes();
                    prop_assert!(range.len() >= bytes && range.end <= SEGMENT_PAGES as usize * PAGE_BYTES);
                    for other in &live {
                        let apart = other.bytes().end <= range.start || range.end <= other.bytes().start;
                        prop_assert!(other.segment != place.segment || apart, "{:?} over {:?}", place, other);
                    }
                    live.push(place);
                } else {
                    let place = live.swap_remove(which.index(live.len()));
                    let removed = arena.remove(place);
                    let mates: Vec<_> = live.iter().filter(|other| other.segment == place.segment).collect();
                    let idle: Vec<u32> = place.pages().filter(|page| !mates.iter().any(|mate| mate.pages().contains(page))).collect();
                    prop_assert_eq!(removed, Removed { idle_pages: idle, is_segment_empty: mates.is_empty() });
                }
                arena.validate();
                prop_assert_eq!(arena.object_count(), live.len());
            }
        }
    }
}

//! Who is at a door and has not said hello: so many at a time, and the oldest makes room for a newcomer.
//!
//! Without a token anybody may connect and be silent. If newcomers waited for places, a few silent peers would keep
//! everybody out for as long as a hello may take; so nobody waits. An honest peer says hello within a round trip, and
//! loses its place only if that many others come within it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The places before the hello of one door. `T` is what the one who is at a place is held by: when it is dropped, the
/// connection is to be closed.
#[derive(Debug)]
pub struct Greetings<T>(Arc<Mutex<Places<T>>>);

#[derive(Debug)]
struct Places<T> {
    max: usize,
    next: u64,
    taken: BTreeMap<u64, T>,
}

/// A place, which is given back when this is dropped.
#[derive(Debug)]
pub struct Greeting<T> {
    places: Arc<Mutex<Places<T>>>,
    number: u64,
}

impl<T> Greetings<T> {
    /// A door with so many places, of which there must be one.
    pub fn new(max: usize) -> Self {
        assert!(max > 0, "nobody could say hello");
        Self(Arc::new(Mutex::new(Places { max, next: 0, taken: BTreeMap::new() })))
    }

    /// Gives a place to a newcomer, and drops what holds the oldest one if there is no other.
    pub fn enter(&self, held_by: T) -> Greeting<T> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if places.taken.len() == places.max { places.taken.pop_first() } else { None };
        let number = places.next;
        places.next += 1;
        places.taken.insert(number, held_by);
        drop(places);
        // What it does is not known here.
        drop(oldest);
        Greeting { places: Arc::clone(&self.0), number }
    }
}

impl<T> Drop for Greeting<T> {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let held_by = places.taken.remove(&self.number);
        drop(places);
        drop(held_by);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_held(it: &Arc<()>) -> bool {
        Arc::strong_count(it) > 1
    }

    #[test]
    fn the_oldest_goes_for_a_newcomer_and_no_other() {
        let greetings = Greetings::new(3);
        let peers: Vec<Arc<()>> = (0..5).map(|_| Arc::default()).collect();
        let mut places: Vec<_> = peers[..3].iter().map(|peer| greetings.enter(Arc::clone(peer))).collect();
        assert!(peers[..3].iter().all(is_held));
        // One that said hello gives its place back, so nobody goes for the next.
        drop(places.remove(1));
        assert!(!is_held(&peers[1]));
        places.push(greetings.enter(Arc::clone(&peers[3])));
        assert!(is_held(&peers[0]) && is_held(&peers[2]));
        places.push(greetings.enter(Arc::clone(&peers[4])));
        assert!(!is_held(&peers[0]) && peers[2..].iter().all(is_held));
        // The place of one that had to go is not given back twice.
        drop(places);
        assert!(!peers.iter().any(is_held));
        assert_eq!(greetings.0.lock().unwrap().taken.len(), 0);
    }
}

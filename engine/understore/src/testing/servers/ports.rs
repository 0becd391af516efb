//! Ports for servers that must be told theirs.
//!
//! A port that the system gave out and took back is soon given to somebody else: to a listener on port 0, or to the near
//! end of a connection. So these lie outside the range that the system gives from, and are kept from other tests, of this
//! process or another, by a socket in the abstract namespace for each, which goes with its process however that ends.

use std::{
    fs::{self, File},
    io::{self, Read},
    net::TcpStream,
    ops::{Index, RangeInclusive},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    time::Duration,
};

/// Where well-known services are seldom found.
const FIRST: u16 = 10_000;
/// A port of this machine that does not answer at once is somebody's.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Ports that are this value's as long as it lives.
#[derive(Debug)]
pub struct Ports<const COUNT: usize> {
    numbers: [u16; COUNT],
    _reserved: Vec<UnixListener>,
}

impl<const COUNT: usize> Ports<COUNT> {
    /// Takes ports that nobody listens on.
    ///
    /// # Errors
    /// When there are too few, or the system does not tell which it gives out by itself.
    pub fn take() -> io::Result<Self> {
        let given_out = given_out()?;
        let outside = || (FIRST..=u16::MAX).filter(|port| !given_out.contains(port));
        let mut seed = [0; 4];
        File::open("/dev/urandom")?.read_exact(&mut seed)?;
        // Others start elsewhere, and so seldom meet.
        let start = u32::from_ne_bytes(seed) as usize % outside().count().max(1);
        let mut numbers = [0; COUNT];
        let mut reserved = Vec::with_capacity(COUNT);
        let mut candidates = outside().cycle().skip(start).take(outside().count());
        while let Some(number) = numbers.get_mut(reserved.len()) {
            let port = candidates.next().ok_or_else(|| io::Error::other("too few ports are free"))?;
            if let Some(reservation) = reserve(port) {
                *number = port;
                reserved.push(reservation);
            }
        }
        Ok(Self { numbers, _reserved: reserved })
    }

    /// Their numbers.
    pub fn numbers(&self) -> [u16; COUNT] {
        self.numbers
    }
}

impl<const COUNT: usize> Index<usize> for Ports<COUNT> {
    type Output = u16;

    fn index(&self, index: usize) -> &u16 {
        &self.numbers[index]
    }
}

/// The ports that the system gives to who asks for any.
fn given_out() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ends = text.split_ascii_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::Error::other(format!("not a range of ports: {text:?}"))),
    }
}

fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("citius-test-port-{port}")).ok()?;
    let reservation = UnixListener::bind_addr(&name).ok()?;
    is_free(port).then_some(reservation)
}

/// Whether nobody listens there. Asked and not tried: a listener of ours would stay in each process that another thread is
/// about to start, until that becomes its program, and be in the way of the server meant to have the port.
fn is_free(port: u16) -> bool {
    let answer = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), ANSWER_TIMEOUT);
    answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::TcpListener, time::Instant};

    use super::*;

    #[test]
    fn no_port_is_taken_twice_or_given_out_by_the_system() {
        let taken: Vec<_> = (0..20).map(|_| Ports::<9>::take().unwrap()).collect();
        let numbers: HashSet<_> = taken.iter().flat_map(Ports::numbers).collect();
        assert_eq!(numbers.len(), 20 * 9);
        let given_out = given_out().unwrap();
        assert!(numbers.iter().all(|port| !given_out.contains(port)));
    }

    #[test]
    fn a_port_is_kept_until_it_is_given_back_and_never_another_s() {
        let ports = Ports::<1>::take().unwrap();
        let [port] = ports.numbers();
        assert!(reserve(port).is_none(), "taken twice");
        drop(ports);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(reserve(port).is_none(), "somebody listens there");
        drop(listener);
        // Other tests start programs meanwhile, and what was open here is so there for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while reserve(port).is_none() {
            assert!(Instant::now() < deadline, "kept though nobody listens");
        }
    }
}

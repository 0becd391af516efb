//! A server of HTTP that says what a test wrote, byte for byte: what no server does at will, and no library would send.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
};

/// Answers one request of each connection, and no more connections than this, with what is said to its head. It ends with
/// the test's process.
///
/// # Errors
/// Without a port.
pub fn scripted(connections: usize, mut says: impl FnMut(&str) -> Vec<u8> + Send + 'static) -> io::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().take(connections) {
            // Who connects and leaves is seen by nobody.
            let _ = stream.and_then(|stream| answer(stream, &mut says));
        }
    });
    Ok(endpoint)
}

fn answer(mut stream: TcpStream, says: &mut impl FnMut(&str) -> Vec<u8>) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head);
    let length = head.lines().filter_map(|line| line.split_once(": "));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.filter_map(|(_, value)| value.parse().ok()).next().unwrap_or(0);
    // What is not read would break off the connection before the answer is.
    io::copy(&mut Read::by_ref(&mut stream).take(length), &mut io::sink())?;
    stream.write_all(&says(&head))
}

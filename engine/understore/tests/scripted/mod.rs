//! A server that says what a test has written down, and tells what it was asked.

#![allow(dead_code, clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::mpsc::{Receiver, channel},
};

/// What was asked: heads in small letters.
pub(crate) type Asked = Receiver<String>;

/// Answers each connection's one request with the next of these.
pub(crate) fn scripted(answers: Vec<Vec<u8>>) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (tell, asked) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
            let mut body = vec![0; header(&head, "content-length").map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).unwrap();
            tell.send(head).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    (endpoint, asked)
}

/// The value of a header, in small letters.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// An answer.
pub(crate) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    format!("HTTP/1.1 {status} x\r\nconnection: close\r\n{headers}content-length: {length}\r\n\r\n{body}").into_bytes()
}

/// A failure, as S3 and its like document them.
pub(crate) fn refusal(status: u16, code: &str, message: &str) -> Vec<u8> {
    let body =
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    answer(status, &[("content-type", "application/xml")], &body)
}

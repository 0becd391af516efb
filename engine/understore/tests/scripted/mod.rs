//! A server that says what a test has written down, and tells what it was asked.

#![allow(dead_code, clippy::unwrap_used)]

use std::sync::mpsc::{Receiver, channel};

use citius_understore::testing::servers;

/// What was asked: heads in small letters.
pub(crate) type Asked = Receiver<String>;

/// Answers each connection's one request with the next of these.
pub(crate) fn scripted(answers: Vec<Vec<u8>>) -> (String, Asked) {
    let (tell, asked) = channel();
    let (count, mut answers) = (answers.len(), answers.into_iter());
    let endpoint = servers::scripted(count, move |head| {
        tell.send(head.to_ascii_lowercase()).unwrap();
        answers.next().unwrap()
    });
    (endpoint.unwrap(), asked)
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

//! Shared access signatures, as their owner makes them.

#![allow(clippy::unwrap_used)]

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{SecondsFormat, Utc};
use ring::hmac;

/// A token for the account, by the rules of "Create an account SAS": rights, and hours from now at which it begins and ends.
pub(crate) fn account_sas(account: &str, key: &str, rights: &str, from_hours: i64, to_hours: i64) -> String {
    let time = |hours| (Utc::now() + chrono::TimeDelta::hours(hours)).to_rfc3339_opts(SecondsFormat::Secs, true);
    let (start, end) = (time(from_hours), time(to_hours));
    let text = format!("{account}\n{rights}\nb\nsco\n{start}\n{end}\n\nhttps,http\n2022-11-02\n\n");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64_STANDARD.decode(key).unwrap());
    let signature = BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()));
    format!("?sv=2022-11-02&ss=b&srt=sco&sp={rights}&st={start}&se={end}&spr=https,http&sig={signature}")
}

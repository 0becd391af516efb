//! Every kind of credentials that docs/mount-options.md names for a cloud: who has them logs in, writes and reads a real
//! store with what the login gave, and logs in again before that ends, or when what was kept in a file has been replaced.
//!
//! Those who give keys and tokens are played by `Internet`, at the addresses where they really are; a `Gate` before the
//! store lets in nobody but whom they told it of. What is known from the environment runs in a process that begins with
//! it. All secrets have `hidden` in them, and nothing that is logged, printed or told may.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod alibaba;
mod amazon;
mod azure;
mod desk;
mod google;
#[path = "../logged/mod.rs"]
mod logged;
mod login;
#[path = "../sas/mod.rs"]
mod sas;

use citius_understore::testing::is_alone;

/// Does nothing but in the processes that the tests here start, each for one mount.
#[tokio::test]
async fn alone() {
    if is_alone("alone") {
        login::of_this_process().await;
    }
}

//! The baselines: for each job the least that a careful person would write, with nothing that Citius is there for (no
//! namespace, no checksums, no tiers, no rights). Servers run in a process of their own, on one core.

pub(crate) mod echo;
pub(crate) mod get;
pub(crate) mod log;
pub(crate) mod memcpy;
pub(crate) mod plain;
pub(crate) mod tcp;

use crate::child::announce;
use crate::cpu;
use crate::memory::{PageKind, WorkingSet};
use anyhow::Result;
use clap::{Args, Subcommand};
use std::net::{Ipv4Addr, TcpListener};

/// Which server to be, and on which core.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serve {
    /// The core that all its threads stay on.
    #[arg(long)]
    pub(crate) core: usize,
    /// What it serves.
    #[command(subcommand)]
    pub(crate) service: Service,
}

/// What a server of a baseline does.
#[derive(Subcommand, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Ranges of a working set; see [`tcp`].
    Tcp {
        /// Bytes of the working set.
        #[arg(long)]
        bytes: usize,
        /// What it is made of.
        #[arg(long)]
        pages: PageKind,
    },
    /// Replies of one size to requests of one size; see [`echo`].
    Echo {
        /// Bytes of a request.
        #[arg(long)]
        request_bytes: usize,
        /// Bytes of a reply.
        #[arg(long)]
        reply_bytes: usize,
    },
}

impl Serve {
    /// The command line that means this.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let words = match self.service {
            Service::Tcp { bytes, pages } => format!("tcp --bytes {bytes} --pages {pages}"),
            Service::Echo { request_bytes, reply_bytes } => {
                format!("echo --request-bytes {request_bytes} --reply-bytes {reply_bytes}")
            }
        };
        format!("--core {} {words}", self.core).split(' ').map(str::to_owned).collect()
    }
}

/// Serves until standard input ends, which ends the process.
pub(crate) fn serve(serve: &Serve) -> Result<()> {
    cpu::pin(serve.core)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    match serve.service {
        Service::Tcp { bytes, pages } => {
            let set = WorkingSet::new(bytes, pages)?;
            announce(&listener)?;
            tcp::serve(&listener, &set)
        }
        Service::Echo { request_bytes, reply_bytes } => {
            announce(&listener)?;
            echo::serve(listener, echo::Sizes { request_bytes, reply_bytes })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    #[test]
    fn a_command_line_means_what_it_was_made_of() {
        let services = [
            Service::Tcp { bytes: 2 << 20, pages: PageKind::Hugetlb },
            Service::Tcp { bytes: 4 << 20, pages: PageKind::Small },
            Service::Echo { request_bytes: 80, reply_bytes: 144 },
        ];
        for service in services {
            let serve = Serve { core: 3, service };
            let words = std::iter::once("serve".to_owned()).chain(serve.arguments());
            assert_eq!(Line::try_parse_from(words).unwrap().serve, serve);
        }
    }
}

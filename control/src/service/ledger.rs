//! The state behind the log: the log's bytes are the state's commands.

use std::io;

use citius_wire::Failure;

use crate::raft::{Machine, Position, SnapshotWriter};
use crate::state::{Applied, Command, State};

/// The replicated state.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) state: State,
}

impl Machine for Ledger {
    type Reply = Result<Applied, Failure>;

    fn apply(&mut self, at: Position, command: &[u8]) -> Self::Reply {
        self.state.apply(&Command::decode(command)?, at.time_ms)
    }

    /// Serialises to memory, which holds commands back for one pass over the state.
    fn snapshot(&self) -> SnapshotWriter {
        let mut bytes = Vec::new();
        let written = self.state.snapshot(&mut bytes);
        Box::new(move |out| written.and_then(|()| out.write_all(&bytes)))
    }

    fn restore(&mut self, from: &mut dyn io::Read) -> io::Result<()> {
        self.state = State::restore(from)?;
        Ok(())
    }
}

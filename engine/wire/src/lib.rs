//! What the parts of Citius say to each other.
//!
//! | file | what it holds |
//! |---|---|
//! | `units` | sector, grain, page, block, and how they relate |
//! | `ids` | newtype ids, the file key, the place |
//! | `path` | a normal path in the namespace |
//! | `hex` | the digits that ids and tokens are written in |
//! | `frame` | the 32-byte prelude, its bounds and its checksum |
//! | `codec` | messages to frames, bytes to frames; sans-I/O |
//! | `status` | classes of failure, exit codes |
//! | `greetings` | who has not said hello yet |
//! | `token`, `capability` | who may connect, who may read or write a file |
//! | `ring` | live workers and weighted rendezvous placement |
//! | `data` | messages between a client and a shard |
//! | `meta` | messages between a client and a master |
//! | `cluster` | messages between a worker and a master, and counters |
//! | `traffic` | what a mount costs its under-store |
//!
//! The crate does no input or output, reads no clock, and has no unsafe code.

#![forbid(unsafe_code)]

mod capability;
mod checkup;
mod cluster;
mod codec;
mod data;
mod frame;
mod greetings;
mod hex;
mod ids;
mod meta;
mod path;
mod ring;
mod secret_text;
mod status;
mod token;
mod traffic;
pub mod units;

pub use capability::{Access, CAPABILITY_BYTES_MAX, MAC_BYTES, MacKey, Origin, Right, WriteType};
pub use checkup::{CheckedAbility, CheckedStep, MountCheckup, StepResult};
pub use cluster::{
    ClusterView, Counters, DIRTY_FILES_MAX, Heartbeat, HeartbeatReply, MountSecret, Register, Registered, Task, Work,
};
pub use codec::{Encode, Encoder, FrameBuffer, Head, Message, Request};
pub use data::{
    Attach, Attached, CountersRequest, Detach, Done, Free, Freed, Hello, Load, Map, MapWrite, Mapped, Publish,
    Published, Read, ReadMode, ReadReply, ReadReplyView, Resident, ResidentBlock, ResidentReply, Seal, Stage, Staged,
    TRANSFER_BYTES_MAX, Warm, Welcome, Write,
};
pub use frame::{
    FRAME_BYTES_MAX, Flags, FrameError, HEADER_ALIGN, HEADER_BYTES_MAX, HELLO_FRAME_BYTES_MAX, Kind, MAGIC,
    PAYLOAD_BYTES_MAX, PRELUDE_BYTES, PROTOCOL_VERSION, Prelude,
};
pub use greetings::{Greeting, Greetings};
pub use ids::{BlockId, ClientId, ClusterId, Epoch, FileKey, Handle, Incarnation, MountId, Place, Serial, WorkerId};
pub use meta::{
    Batch, BatchReply, ClusterInfo, Created, EntryKind, FileInfo, LIST_PAGE_ENTRIES_MAX, List, ListPage, MountInfo,
    OPERATIONS_MAX, Opened, Operation, Outcome, Persistence, WorkerInfo,
};
pub use path::{NAME_BYTES_MAX, NamespacePath, PATH_BYTES_MAX};
pub use ring::{Member, Owner, Ring, WORKERS_MAX};
pub use secret_text::SecretText;
pub use status::{ExitCode, Failure, Status};
pub use token::Token;
pub use traffic::{BreakerState, FAILURE_NAMES, LATENCY_BUCKETS, Latency, MountTraffic, OPERATION_NAMES};

//! Requests that memory cannot answer: they run on the master's runtime and send their frames to their connection.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use citius_wire::{
    Batch, ClientId, Encoder, Failure, Flags, Heartbeat, Kind, List, ListPage, Register, Request, Status,
};
use futures::FutureExt;
use tokio::sync::mpsc;

use crate::service::{PageSink, Service};

/// A frame on its way to a connection.
pub(super) struct Parcel {
    pub(super) frame: Vec<u8>,
    /// Whether it ends its request.
    pub(super) is_last: bool,
}

/// What is to be done.
pub(super) enum Errand {
    Batch(ClientId, Batch),
    List(List),
    Register(Box<Register>),
    Heartbeat(Box<Heartbeat>),
}

impl Errand {
    const fn kind(&self) -> Kind {
        match self {
            Self::Batch(..) => Kind::Batch,
            Self::List(_) => Kind::List,
            Self::Register(_) => Kind::Register,
            Self::Heartbeat(_) => Kind::Heartbeat,
        }
    }

    /// Does it and sends the answer; of a defect, a failure. A connection that is gone does not stop it: what was asked
    /// for is done.
    pub(super) async fn run(self, request_id: u64, service: Arc<Service>, parcels: mpsc::Sender<Parcel>) {
        let kind = self.kind();
        let done = AssertUnwindSafe(self.perform(request_id, &service, &parcels)).catch_unwind().await;
        let frame = done.unwrap_or_else(|_| {
            let words = "the master met a defect of its own; its log has the place";
            let mut frame = Vec::new();
            Encoder::default().failure(&mut frame, kind, request_id, &Failure::new(Status::Internal, words));
            frame
        });
        drop(parcels.send(Parcel { frame, is_last: true }).await);
    }

    /// Gives the last frame of the answer.
    async fn perform(self, request_id: u64, service: &Arc<Service>, parcels: &mpsc::Sender<Parcel>) -> Vec<u8> {
        match self {
            Self::Batch(client, batch) => encode::<Batch>(request_id, &service.batch(client, batch).await),
            Self::Register(register) => encode::<Register>(request_id, &service.register(*register).await),
            Self::Heartbeat(beat) => encode::<Heartbeat>(request_id, &service.heartbeat(*beat).await),
            Self::List(list) => {
                let mut pages = Pages { request_id, parcels, encoder: Encoder::default() };
                encode::<List>(request_id, &service.list(list, &mut pages).await)
            }
        }
    }
}

fn encode<R: Request>(request_id: u64, reply: &Result<R::Reply, Failure>) -> Vec<u8> {
    let mut frame = Vec::new();
    Encoder::default().reply::<R>(&mut frame, request_id, reply);
    frame
}

/// Pages of a listing on their way: it waits while the connection's reader is slow.
struct Pages<'a> {
    request_id: u64,
    parcels: &'a mpsc::Sender<Parcel>,
    encoder: Encoder,
}

impl PageSink for Pages<'_> {
    async fn page(&mut self, page: ListPage) -> Result<(), Failure> {
        let mut frame = Vec::new();
        let flags = Flags::REPLY.with(Flags::MORE);
        self.encoder.encode(&mut frame, Kind::List, flags, self.request_id, &page, 0);
        let gone = |_| Failure::new(Status::Aborted, "the reader of the listing is gone");
        self.parcels.send(Parcel { frame, is_last: false }).await.map_err(gone)
    }
}

//! The connection by itself, as the perf tool drives it.

use crate::server::{Server, TOKEN};
use crate::{BLOCK, pattern};
use citius_client::raw::{Address, Connection, Deadline, Fault, wire};
use std::time::Duration;

#[test]
fn thirty_two_reads_in_flight_on_one_connection() {
    let server = Server::start(1, "x");
    let bytes = pattern(BLOCK as usize);
    server.put("/f", bytes.clone(), BLOCK);
    let deadline = Deadline::after(Duration::from_secs(10));
    let client = wire::ClientId([3; 16]);
    let hello = |shard| wire::Hello { token: TOKEN, client, shard };
    let mut master = Connection::connect(&Address::Tcp(server.master.clone()), &hello(0), deadline).unwrap();
    assert_eq!(master.welcome().worker, wire::WorkerId(0));
    let open = wire::Batch {
        first: wire::Serial(1),
        operations: vec![wire::Operation::Open { path: "/f".into(), stale: None }],
    };
    let mut results = master.call(&open, deadline).unwrap().results;
    let Some(Ok(wire::Outcome::Opened(opened))) = results.pop() else { panic!("no file") };
    let shard = server.state.rings.lock().unwrap()[0].owner(opened.place, 0).unwrap().shard;
    let address = Address::Tcp(server.members[0].data_address.clone());
    let mut worker = Connection::connect(&address, &hello(shard), deadline).unwrap();
    let handle = worker.attach(opened.info.version, wire::Access::Read, &opened.capability, deadline).unwrap();

    let read = |offset| wire::Read { handle, length: 4096, offset, mode: wire::ReadMode::Cache };
    let first = worker.request_id_next();
    for i in 0..32 {
        worker.queue(&read(i * 8192));
    }
    worker.flush(deadline).unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..32 {
        let id = worker.receive(4096, deadline).unwrap().request_id;
        let offset = (id - first) * 8192;
        worker.read_sectors(offset..offset + 4096, 0, &mut buffer, deadline).unwrap();
        assert!(buffer == bytes[offset as usize..][..4096]);
    }
    assert!(worker.is_quiet());

    // What is not taken of a payload is skipped.
    worker.queue(&read(0));
    worker.queue(&read(4096));
    worker.flush(deadline).unwrap();
    worker.receive(0, deadline).unwrap();
    assert_eq!(worker.view_reply::<wire::Read>().unwrap().crcs.len(), 1);
    worker.receive(0, deadline).unwrap();
    assert!(matches!(worker.reply::<wire::Map>(), Err(Fault::Unexpected(_))), "an answer of another kind");
    worker.read_sectors(4096..8192, 0, &mut buffer, deadline).unwrap();
    assert!(buffer == bytes[4096..8192]);
}

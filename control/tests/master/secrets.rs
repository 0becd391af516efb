//! A secret of a mount reaches the workers, and nobody else: not listings, status, metrics, errors or logs.

use crate::http::{get, page};
use crate::rig::{Rig, TOKEN, register};
use citius_wire::Operation;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

const SECRET: &str = "correct-horse-battery";

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_planted_secret_is_nowhere() {
    let logs = Captured::default();
    let writer = logs.clone();
    // Everything that any thread of this process says, at the finest level.
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let mut rig = Rig::new();
    let mut client = rig.client();
    let mount = |path: &str, uri: String, option: &str| Operation::MountAdd {
        path: path.into(),
        uri,
        options: vec![(option.into(), SECRET.into())],
        read_only: false,
        sync_interval_ms: None,
    };
    let mut outputs = Vec::new();
    let good = mount("/m", format!("memory://user:{SECRET}@secrets"), "aws_secret_access_key");
    outputs.push(format!("{good:?}"));
    outputs.push(format!("{:?}", client.one(good).unwrap()));
    // Refusals quote what they refuse; a password in a URI must not be in the quotation.
    for (uri, option) in [
        (format!("gopher://user:{SECRET}@host"), "x"),
        (format!("s3://user:{SECRET}@bucket"), "aws_no_such_option"),
        (format!("s3://bucket?x={SECRET}"), "aws_allow_http"),
    ] {
        outputs.push(format!("{:?}", client.one(mount("/n", uri, option)).unwrap_err()));
    }
    let registered = register(&mut client, 1, 1);
    assert!(registered.view.mounts.iter().any(|it| it.options.iter().any(|(_, value)| value.expose() == SECRET)));
    outputs.push(format!("{registered:?}"));
    for restarted in [false, true] {
        if restarted {
            rig.restart();
            client = rig.client();
        }
        outputs.push(format!("{:?}", client.one(Operation::MountList).unwrap()));
        outputs.push(format!("{:?}", client.one(Operation::Cluster).unwrap()));
        outputs.push(page(&rig, "/metrics"));
        outputs.push(page(&rig, "/api/v1/status"));
        outputs.push(get(&rig, "/api/v1/status", "localhost", None).1);
        outputs.push(format!("{:?} {:?}", rig.master(), rig.master().warnings()));
    }
    outputs.push(String::from_utf8_lossy(&logs.0.lock()).into_owned());
    assert!(outputs.last().unwrap().len() > 1_000, "logs were captured");
    assert!(outputs.iter().any(|output| output.contains("memory://***@secrets")));
    for output in &outputs {
        for secret in [SECRET, &TOKEN.to_hex()] {
            assert!(!output.contains(secret), "{secret} is in {output}");
        }
    }
}

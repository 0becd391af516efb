//! A mount that is used by who logged in.

use std::{collections::BTreeMap, env, time::Duration};

use bytes::Bytes;
use citius_understore::{Condition, Error, FileId, MountSpec, StorePath, UnderStore, open, testing::run_alone};
use futures::TryStreamExt;

/// The mount of a process of its own: its URI and its options.
const MOUNT: &str = "CITIUS_TEST_MOUNT";
/// Credentials that are about to end are kept for a tenth of a second, also by `object_store`.
const KEPT: Duration = Duration::from_millis(150);

/// Writes, reads and lists, with more than one login if what a login gives is about to end.
pub(crate) async fn use_store(spec: &MountSpec) {
    let store = open(spec).unwrap();
    store.check().await.unwrap();
    for round in 1..=2 {
        write_and_read(&*store, round).await;
        tokio::time::sleep(KEPT).await;
    }
}

/// A small file and one of two parts.
pub(crate) async fn write_and_read(store: &dyn UnderStore, round: u8) {
    for (name, len) in [("small", 7), ("large", 9 << 20)] {
        let at = StorePath::parse(&format!("{name}-{round}")).unwrap();
        let content = Bytes::from(vec![round; len]);
        let mut staged = store.stage(&at, FileId([round; 16]), Some(len as u64)).await.unwrap();
        staged.write(content.clone()).await.unwrap();
        let token = staged.publish(&Condition::Any).await.unwrap();
        let mut landed = vec![0; len];
        let mut landing = |offset: u64, bytes: &[u8]| landed[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        store.read(&at, &token, 0..len as u64, &mut landing).await.unwrap();
        assert!(landed == content, "{name} is not what was written");
    }
    let pages: Vec<_> = store.list(&StorePath::root(), "").try_collect().await.unwrap();
    let names: Vec<_> = pages.iter().flat_map(|page| &page.entries).map(|entry| entry.name.clone()).collect();
    for name in ["small", "large"] {
        assert!(names.contains(&format!("{name}-{round}")), "{names:?}");
    }
}

/// The same in a process that begins with these variables.
pub(crate) fn use_store_alone(spec: &MountSpec, variables: &[(&str, &str)]) {
    let options: BTreeMap<_, _> = spec.options.iter().map(|(name, value)| (name, value.expose())).collect();
    let mount = serde_json::to_string(&(&spec.uri, options)).unwrap();
    let variables: Vec<_> = variables.iter().copied().chain([(MOUNT, mount.as_str())]).collect();
    run_alone("alone", &variables);
}

/// What [`use_store_alone`] has this process do.
pub(crate) async fn of_this_process() {
    let (uri, options): (String, BTreeMap<String, String>) = serde_json::from_str(&env::var(MOUNT).unwrap()).unwrap();
    use_store(&options.into_iter().fold(MountSpec::new(uri), |spec, (name, value)| spec.option(name, value))).await;
}

/// A login that is refused is told with the names of what to change, and with nothing that was shown.
pub(crate) async fn is_refused(spec: &MountSpec, names: &[&str]) {
    let error = failure(spec, names).await;
    assert!(matches!(error, Error::MissingKeys { .. }), "{error:?}");
}

/// Whoever gives keys and is not there for now is no refusal: what needs them can be done later.
pub(crate) async fn is_away(spec: &MountSpec, names: &[&str]) {
    let error = failure(spec, names).await;
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient(), "{error:?}");
}

async fn failure(spec: &MountSpec, names: &[&str]) -> Error {
    let store = open(spec).unwrap();
    let error = store.check().await.unwrap_err();
    for name in names {
        assert!(error.to_string().contains(name), "{name} is not in: {error}");
    }
    let text = format!("{spec:?} {store:?} {error} {error:?}");
    assert!(!text.contains("hidden"), "{text}");
    error
}

/// An option that says nothing without another one is refused with the name of that.
pub(crate) fn is_half(spec: &MountSpec, names: &[&str]) {
    let error = open(spec).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
    for name in names {
        assert!(error.to_string().contains(name), "{name} is not in: {error}");
    }
}

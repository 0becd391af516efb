//! Mkdir, delete and rename.

use super::*;

fn failed(status: Status) -> Result<(), Failure> {
    Err(Failure::new(status, "the under-store would not do it"))
}

#[test]
fn a_delete_drops_aborts_and_hides_at_once() {
    let mut world = World::new();
    world.file(key(1), "/d/f");
    world.file(key(2), "/d/sub/g");
    world.file(key(3), "/e");
    world.done(Change::Create(create(key(4), "/d/w", WriteType::CacheThrough)));
    world.done(stage(key(4)));
    let (intent, effects) = world.begun(delete("/d", true));
    let (mut forgotten, aborted) = gone(&effects);
    forgotten.sort();
    assert_eq!(forgotten, [key(1), key(2), key(4)]);
    assert_eq!(aborted, [(key(4), AbortReason::Deleted)]);
    for hidden in ["/d", "/d/f", "/d/what/the/store/has"] {
        assert_eq!(world.seen(hidden), Seen::Hidden, "{hidden}");
    }
    assert_eq!(world.listed("/", ""), [("d", Seen::Hidden), ("data", Seen::Mount(DATA)), ("e", Seen::File(key(3)))]);
    assert_eq!(world.listed("/", "data"), [("e", Seen::File(key(3)))]);
    let logged = world.state.intent(intent).unwrap();
    assert_eq!((logged.store_path.as_str(), logged.store_path_to.as_str(), logged.mount), ("d", "", ROOT));

    world.finish(intent, Ok(()));
    assert_eq!((world.seen("/d"), world.state.intents().count()), (Seen::None, 0));
    let close = world.refused(Change::Complete { file: key(4), length: 1 });
    assert_eq!(close, Status::Aborted);
    assert_eq!(world.finish(intent, Ok(())), [], "the next leader says it too");
}

#[test]
fn a_delete_that_fails_shows_the_under_store_s_name_again() {
    let mut world = World::new();
    let (intent, _) = world.begun(delete("/data/f", false));
    assert_eq!(world.seen("/data/f"), Seen::Hidden);
    world.finish(intent, failed(Status::UnderStore));
    assert_eq!(world.seen("/data/f"), Seen::None);
}

#[test]
fn deletes_that_are_refused() {
    let mut world = World::new();
    world.file(key(1), "/d/f");
    world.done(mount_add("/m/inner"));
    for (change, status) in [
        (delete("/d", false), Status::NotEmpty),
        (delete("/", true), Status::InvalidArgument),
        (delete("/data", true), Status::InvalidArgument),
        (delete("/m", true), Status::InvalidArgument),
        (delete("/d/f/x", false), Status::NotADirectory),
        (begin(Action::Delete { path: "/d/../..".to_owned(), recursive: true }), Status::EscapesMount),
    ] {
        assert_eq!(world.refused(change.clone()), status, "{change:?}");
    }
    let elsewhere =
        Change::IntentBegin { mount: DATA, action: Action::Delete { path: "/d/f".to_owned(), recursive: false } };
    assert_eq!(world.refused(elsewhere), Status::Unavailable, "mounts changed meanwhile");
}

#[test]
fn an_intent_has_its_names_for_itself() {
    let mut world = World::new();
    world.file(key(1), "/to/sibling");
    let (first, _) = world.begun(delete("/del", true));
    let (second, _) = world.begun(rename("/from", "/to/x", false));
    let (third, _) = world.begun(mkdir("/new/dir", false));
    for change in [
        Change::Create(create(key(9), "/del", WriteType::MustCache)),
        Change::Create(create(key(9), "/del/f", WriteType::MustCache)),
        Change::Create(create(key(9), "/from/f", WriteType::MustCache)),
        Change::Create(create(key(9), "/to/x/f", WriteType::MustCache)),
        Change::Create(create(key(9), "/new/dir", WriteType::MustCache)),
        delete("/del", true),
        delete("/del/x", true),
        delete("/from", true),
        delete("/to", true),
        delete("/new", true),
        rename("/to", "/elsewhere", false),
        rename("/elsewhere", "/from", false),
        rename("/from/a", "/b", false),
        mkdir("/del/x", true),
        mkdir("/new/dir", true),
    ] {
        assert_eq!(world.refused(change.clone()), Status::Unavailable, "{change:?}");
    }
    // A directory that is being made is claimed by its name only.
    world.done(Change::Create(create(key(2), "/new/dir/f", WriteType::MustCache)));
    world.begun(mkdir("/new/other", false));
    for intent in [first, second, third] {
        world.finish(intent, Ok(()));
    }
    world.done(Change::Create(create(key(3), "/del/f", WriteType::MustCache)));
}

#[test]
fn mkdirs_that_are_refused() {
    let mut world = World::new();
    world.file(key(1), "/d/f");
    world.done(Change::Create(create(key(2), "/w", WriteType::MustCache)));
    for (change, status) in [
        (mkdir("/d/f", true), Status::AlreadyExists),
        (mkdir("/d", false), Status::AlreadyExists),
        (mkdir("/data", true), Status::AlreadyExists),
        (mkdir("/w", true), Status::FileBusy),
        (mkdir("/w/x", true), Status::NotADirectory),
    ] {
        assert_eq!(world.refused(change.clone()), status, "{change:?}");
    }
    world.begun(mkdir("/d", true));
}

#[test]
fn a_renamed_file_keeps_its_blocks() {
    let mut world = World::new();
    world.file(key(1), "/data/a");
    world.done(register(2, 1));
    let before = world.state.file(key(1)).unwrap().clone();
    let (intent, effects) = world.begun(rename("/data/a", "/data/deep/b", false));
    assert_eq!(effects, []);
    let logged = world.state.intent(intent).unwrap();
    assert!(logged.moves_overlay_file);
    assert_eq!((logged.store_path.as_str(), logged.store_path_to.as_str()), ("a", "deep/b"));
    assert_eq!(world.seen("/data/a"), Seen::File(key(1)), "it is always under one of its names");
    world.finish(intent, Ok(()));
    assert_eq!((world.seen("/data/a"), world.seen("/data/deep/b")), (Seen::None, Seen::File(key(1))));
    assert_eq!(world.seen("/data/deep"), Seen::Implied);
    let after = world.state.file(key(1)).unwrap();
    assert_eq!(*after, before, "place, epoch, and even the inode are the same");
    assert_eq!(world.state.path_of(after), path("/data/deep/b"));
}

#[test]
fn a_rename_that_fails_moves_nothing() {
    let mut world = World::new();
    world.file(key(1), "/a");
    world.file(key(2), "/b");
    let (intent, _) = world.begun(rename("/a", "/b", true));
    world.finish(intent, failed(Status::UnderStore));
    assert_eq!((world.seen("/a"), world.seen("/b")), (Seen::File(key(1)), Seen::File(key(2))));
}

#[test]
fn a_rename_replaces_what_is_there() {
    let mut world = World::new();
    world.file(key(1), "/a");
    world.file(key(2), "/b");
    assert_eq!(world.refused(rename("/a", "/b", false)), Status::AlreadyExists);
    let (intent, _) = world.begun(rename("/a", "/b", true));
    assert_eq!(gone(&world.finish(intent, Ok(()))), (vec![key(2)], vec![]));
    assert_eq!((world.seen("/a"), world.seen("/b")), (Seen::None, Seen::File(key(1))));
    // What moves may be in the under-store only: the log knows just what it replaces.
    let (intent, _) = world.begun(rename("/stored", "/b", true));
    assert!(!world.state.intent(intent).unwrap().moves_overlay_file);
    assert_eq!(gone(&world.finish(intent, Ok(()))), (vec![key(1)], vec![]));
    assert_eq!(world.seen("/b"), Seen::None);
    assert_eq!(world.state.inode_count(), 2);
}

#[test]
fn a_renamed_directory_takes_its_files_and_ends_its_writes() {
    let mut world = World::new();
    world.file(key(1), "/d/f");
    world.file(key(2), "/d/sub/g");
    world.done(Change::Create(create(key(3), "/d/sub/w", WriteType::CacheThrough)));
    world.done(Change::Create(create(key(4), "/e", WriteType::CacheThrough)));
    let (intent, effects) = world.begun(rename("/d", "/e", false));
    let (_, mut aborted) = gone(&effects);
    aborted.sort_by_key(|(file, _)| *file);
    assert_eq!(aborted, [(key(3), AbortReason::Renamed), (key(4), AbortReason::Renamed)]);
    world.finish(intent, Ok(()));
    assert_eq!(world.listed("/e", ""), [("f", Seen::File(key(1))), ("sub", Seen::Implied)]);
    assert_eq!(world.seen("/e/sub/g"), Seen::File(key(2)));
    assert_eq!(world.seen("/d"), Seen::None);

    let (intent, _) = world.begun(rename("/e/sub", "/e/bus", false));
    world.finish(intent, Ok(()));
    assert_eq!(world.seen("/e/bus/g"), Seen::File(key(2)), "within one directory");
}

#[test]
fn renames_that_are_refused() {
    let mut world = World::new();
    world.file(key(1), "/d/f");
    world.file(key(2), "/g");
    world.done(mount_add("/m/inner"));
    let long = format!("/{}", vec!["n".repeat(250); 16].join("/"));
    for (change, status) in [
        (rename("/g", "/data/g", false), Status::CrossMount),
        (rename("/data/g", "/g", false), Status::CrossMount),
        (rename("/data", "/x", false), Status::InvalidArgument),
        (rename("/g", "/data", true), Status::InvalidArgument),
        (rename("/m", "/x", false), Status::InvalidArgument),
        (rename("/g", "/m", true), Status::InvalidArgument),
        (rename("/g", "/g", true), Status::InvalidArgument),
        (rename("/d", "/d/x", true), Status::InvalidArgument),
        (rename("/d/f", "/d", true), Status::AlreadyExists),
        (rename("/g", "/d", true), Status::AlreadyExists),
        (rename("/d", "/g", true), Status::NotADirectory),
        (rename("/g/x", "/y", true), Status::NotADirectory),
        (rename("/", "/y", true), Status::InvalidArgument),
    ] {
        assert_eq!(world.refused(change.clone()), status, "{change:?}");
    }
    world.file(key(3), &format!("/deep/{}", "n".repeat(200)));
    assert_eq!(world.refused(rename("/deep", &long, false)), Status::InvalidName, "a path would get too long");
}

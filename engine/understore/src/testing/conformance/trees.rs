//! Directories and files made, deleted and moved.

use super::*;

pub(super) async fn mkdir_and_empty_directories(bench: &Bench) -> Verdict {
    bench.store.mkdir(&bench.at("d")).await?;
    hold!(bench.names(&bench.dir).await? == ["d/"], "it is not listed");
    hold!(!bench.store.stat(&bench.at("d")).await?.is_file(), "it is a file");
    hold!(bench.names(&bench.at("d")).await?.is_empty(), "it lists itself");
    refused!(bench.store.mkdir(&bench.at("d")).await, Error::AlreadyExists { .. });
    bench.put(&bench.at("f"), &body(1, 1)).await?;
    refused!(bench.store.mkdir(&bench.at("f")).await, Error::AlreadyExists { .. });
    bench.put(&bench.at("d/f"), &body(1, 1)).await?;
    bench.store.delete_file(&bench.at("d/f")).await?;
    hold!(bench.names(&bench.dir).await? == ["d/", "f"], "it went with its last file");
    Ok(())
}

pub(super) async fn delete_file(bench: &Bench) -> Verdict {
    bench.put(&bench.at("f"), &body(1, 1)).await?;
    bench.put(&bench.at("f2"), &body(1, 2)).await?;
    bench.store.mkdir(&bench.at("d")).await?;
    bench.store.delete_file(&bench.at("f")).await?;
    refused!(bench.store.delete_file(&bench.at("f")).await, Error::NotFound { .. });
    refused!(bench.store.delete_file(&bench.at("d")).await, Error::IsADirectory { .. });
    hold!(bench.names(&bench.dir).await? == ["d/", "f2"], "the wrong thing was deleted");
    Ok(())
}

pub(super) async fn delete_dir_only_if_empty(bench: &Bench) -> Verdict {
    bench.store.mkdir(&bench.at("d")).await?;
    bench.put(&bench.at("d/f"), &body(5, 1)).await?;
    refused!(bench.store.delete_dir(&bench.at("d"), Depth::Empty).await, Error::NotEmpty { .. });
    hold!(bench.get(&bench.at("d/f")).await? == body(5, 1), "the refusal changed the content");
    refused!(bench.store.delete_dir(&bench.at("d/f"), Depth::Empty).await, Error::NotADirectory { .. });
    refused!(bench.store.delete_dir(&bench.at("none"), Depth::Empty).await, Error::NotFound { .. });
    bench.store.delete_file(&bench.at("d/f")).await?;
    bench.store.delete_dir(&bench.at("d"), Depth::Empty).await?;
    hold!(bench.names(&bench.dir).await?.is_empty(), "it is still there");
    Ok(())
}

pub(super) async fn delete_dir_recursively(bench: &Bench) -> Verdict {
    for dir in ["d", "d/e", "d/e/g", "d/e/empty", "dd"] {
        bench.store.mkdir(&bench.at(dir)).await?;
    }
    for number in 0..40 {
        bench.put(&bench.at(&format!("d/e/g/{number}")), &body(1, 1)).await?;
    }
    for name in ["d/f", "d/e/f", "dd/f", "d.f"] {
        bench.put(&bench.at(name), &body(7, 7)).await?;
    }
    refused!(bench.store.delete_dir(&bench.at("d.f"), Depth::Recursive).await, Error::NotADirectory { .. });
    bench.store.delete_dir(&bench.at("d"), Depth::Recursive).await?;
    let left = bench.names(&bench.dir).await?;
    hold!(left == ["d.f", "dd/"], "left are {left:?}");
    hold!(bench.get(&bench.at("dd/f")).await? == body(7, 7), "a neighbour has changed");
    refused!(bench.store.delete_dir(&bench.at("d"), Depth::Recursive).await, Error::NotFound { .. });
    Ok(())
}

pub(super) async fn rename_file(bench: &Bench) -> Verdict {
    for (seed, len) in [0, 1, LARGE_BYTES].into_iter().enumerate() {
        let (from, to) = (bench.at(&format!("from-{len}")), bench.at(&format!("to-{len}")));
        let content = body(len, seed as u64);
        bench.put(&from, &content).await?;
        let stat = bench.store.rename(&from, &to, &Condition::MustNotExist).await?;
        hold!(stat == bench.store.stat(&to).await?, "it answered another stat: {stat:?}");
        hold!(bench.get(&to).await? == content, "another body arrived");
        refused!(bench.store.stat(&from).await, Error::NotFound { .. });
    }
    Ok(())
}

pub(super) async fn rename_conditions(bench: &Bench) -> Verdict {
    let (a, b) = (bench.at("a"), bench.at("b"));
    bench.put(&a, &body(10, 1)).await?;
    let old = bench.put(&b, &body(10, 2)).await?;
    let now = bench.put(&b, &body(10, 3)).await?;
    refused!(bench.store.rename(&a, &b, &Condition::MustNotExist).await, Error::AlreadyExists { .. });
    refused!(bench.store.rename(&a, &b, &Condition::Replaces(old.clone())).await, Error::Conflict { .. });
    refused!(bench.store.rename(&a, &bench.at("c"), &Condition::Replaces(old)).await, Error::Conflict { .. });
    hold!(bench.get(&a).await? == body(10, 1) && bench.get(&b).await? == body(10, 3), "a refusal changed something");
    bench.store.rename(&a, &b, &Condition::Replaces(now)).await?;
    hold!(bench.get(&b).await? == body(10, 1), "the wrong body won");
    bench.put(&a, &body(10, 4)).await?;
    bench.store.rename(&a, &b, &Condition::Any).await?;
    hold!(bench.get(&b).await? == body(10, 4), "the wrong body won");
    bench.store.mkdir(&bench.at("d")).await?;
    hold!(bench.store.rename(&b, &bench.at("d"), &Condition::Any).await.is_err(), "a file replaced a directory");
    hold!(bench.names(&bench.dir).await? == ["b", "d/"], "names are left over");
    Ok(())
}

pub(super) async fn rename_directory(bench: &Bench) -> Verdict {
    for dir in ["d", "d/e", "d/empty", "dx", "taken"] {
        bench.store.mkdir(&bench.at(dir)).await?;
    }
    for (seed, name) in ["d/f", "d/e/g", "dx/f"].iter().enumerate() {
        bench.put(&bench.at(name), &body(100, seed as u64)).await?;
    }
    bench.put(&bench.at("d/e/large"), &body(LARGE_BYTES, 3)).await?;
    bench.put(&bench.at("taken/t"), &body(1, 1)).await?;
    let (d, n) = (bench.at("d"), bench.at("n"));
    refused!(bench.store.rename(&d, &bench.at("taken"), &Condition::MustNotExist).await, Error::AlreadyExists { .. });
    let stat = bench.store.rename(&d, &n, &Condition::MustNotExist).await?;
    hold!(!stat.is_file(), "it answered {stat:?}");
    let left = bench.names(&bench.dir).await?;
    hold!(left == ["dx/", "n/", "taken/"], "left are {left:?}");
    hold!(bench.names(&n).await? == ["e/", "empty/", "f"], "not everything arrived");
    hold!(bench.get(&bench.at("n/f")).await? == body(100, 0), "n/f has another body");
    hold!(bench.get(&bench.at("n/e/g")).await? == body(100, 1), "n/e/g has another body");
    hold!(bench.get(&bench.at("n/e/large")).await? == body(LARGE_BYTES, 3), "n/e/large has another body");
    hold!(bench.get(&bench.at("dx/f")).await? == body(100, 2), "a neighbour moved");
    as_many_requests_as_declared(bench).await
}

/// One step asks as much for a directory of many files as for one of few; a store in memory asks nothing.
async fn as_many_requests_as_declared(bench: &Bench) -> Verdict {
    const FILES: u64 = 20;
    bench.store.mkdir(&bench.at("many")).await?;
    for number in 0..FILES {
        bench.put(&bench.at(&format!("many/{number}")), &body(1, number)).await?;
    }
    let before = bench.store.traffic().totals().requests;
    bench.store.rename(&bench.at("many"), &bench.at("moved"), &Condition::MustNotExist).await?;
    let asked = bench.store.traffic().totals().requests - before;
    match bench.store.capabilities().native_rename {
        true => hold!(asked < FILES, "a rename declared to be one step took {asked} requests for {FILES} files"),
        false => hold!(asked == 0 || asked > FILES, "a rename declared to copy {FILES} files took {asked} requests"),
    }
    Ok(())
}

pub(super) async fn rename_into_itself(bench: &Bench) -> Verdict {
    bench.store.mkdir(&bench.at("d")).await?;
    bench.put(&bench.at("d/f"), &body(9, 9)).await?;
    let inside = bench.store.rename(&bench.at("d"), &bench.at("d/e"), &Condition::MustNotExist).await;
    hold!(inside.is_err(), "a directory moved into itself");
    bench.store.rename(&bench.at("d/f"), &bench.at("d/f"), &Condition::Any).await?;
    hold!(bench.get(&bench.at("d/f")).await? == body(9, 9), "renaming a file to itself lost it");
    Ok(())
}

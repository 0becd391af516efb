//! Names: odd ones, missing ones, and their order in listings.

use futures::{StreamExt, stream};

use super::*;

pub(super) async fn missing_paths(bench: &Bench) -> Verdict {
    let token = bench.put(&bench.at("f"), &body(1, 1)).await?;
    for name in ["none", "none/below", "f/below"] {
        refused!(bench.store.stat(&bench.at(name)).await, Error::NotFound { .. });
    }
    refused!(bench.read(&bench.at("none"), &token, 0..1).await, Error::NotFound { .. });
    refused!(bench.store.rename(&bench.at("none"), &bench.at("b"), &Condition::Any).await, Error::NotFound { .. });
    Ok(())
}

pub(super) async fn root_is_a_directory(bench: &Bench) -> Verdict {
    hold!(!bench.store.stat(&StorePath::root()).await?.is_file(), "the root is a file");
    hold!(!bench.store.stat(&bench.dir).await?.is_file(), "a directory is a file");
    let listed = bench.names(&StorePath::root()).await?;
    hold!(listed.contains(&format!("{}/", bench.dir)), "the root lists {listed:?}");
    hold!(bench.store.delete_dir(&StorePath::root(), Depth::Recursive).await.is_err(), "the root was deleted");
    Ok(())
}

/// Names that have broken stores, clients or encodings before.
const ODD: &[&str] = &[
    " leading and trailing ",
    "%2F",
    "%2e%2e",
    "-dash",
    "...",
    "..two dots",
    ".hidden",
    "100%",
    "a%231",
    "a#1",
    "a+b c",
    "a&b=c;d,e",
    "brackets[]{}<>",
    "colon:pipe|star*",
    "dots...",
    "nfc-\u{e9}",
    "nfd-e\u{301}",
    "question?mark",
    "quotes'\"`",
    "tilde~caret^at@dollar$",
    "trailing.",
    "漢字",
    "😀",
];

/// Directories that are worked on at once: a small server stands a few.
const AT_ONCE: usize = 4;

/// The odd names that a store may hold, and those that it has to refuse.
fn odd_of(bench: &Bench) -> (Vec<&'static str>, Vec<&'static str>) {
    let refused = bench.store.capabilities().refused_characters;
    ODD.iter().partition(|name| !name.contains(|c| refused.contains(c)))
}

pub(super) async fn odd_names(bench: &Bench) -> Verdict {
    let (odd, none) = odd_of(bench);
    for name in none {
        refused!(bench.put(&bench.at(name), &body(100, 1)).await, Error::Unnameable { .. });
        refused!(bench.store.stat(&bench.at(name)).await, Error::Unnameable { .. });
    }
    for (seed, name) in odd.iter().enumerate() {
        bench.put(&bench.at(name), &body(100, seed as u64)).await?;
    }
    let mut expected: Vec<String> = odd.iter().map(|name| (*name).to_owned()).collect();
    expected.sort();
    let files = bench.names(&bench.dir).await?;
    // A way that would ask for another file by such a name has to refuse it.
    let is_blank_refused = bench.store.stat(&bench.at(odd[0])).await.is_err();
    expected.retain(|name| name != odd[0] || !is_blank_refused);
    hold!(files == expected, "listed {files:?}");
    for (seed, name) in odd.iter().enumerate().skip(usize::from(is_blank_refused)) {
        hold!(bench.get(&bench.at(name)).await? == body(100, seed as u64), "{name:?} has another body");
    }
    if is_blank_refused {
        return Err(Stop::Skip("names that end in white space are refused; all others hold"));
    }
    // To an odd name, and from one.
    bench.store.mkdir(&bench.at("to")).await?;
    for (seed, name) in odd.iter().enumerate() {
        let to = bench.at(&format!("to/{name}"));
        bench.store.rename(&bench.at(name), &to, &Condition::MustNotExist).await?;
        hold!(bench.get(&to).await? == body(100, seed as u64), "{name:?} has another body when it is renamed");
    }
    hold!(bench.names(&bench.dir).await? == ["to/"], "renamed files are left");
    let moved = bench.names(&bench.at("to")).await?;
    hold!(moved == expected, "renamed are {moved:?}");
    for name in &odd {
        bench.store.delete_file(&bench.at(&format!("to/{name}"))).await?;
    }
    let left = bench.names(&bench.at("to")).await?;
    hold!(left.is_empty(), "left are {left:?}");
    Ok(())
}

pub(super) async fn odd_names_of_directories(bench: &Bench) -> Verdict {
    let (odd, none) = odd_of(bench);
    for name in none {
        refused!(bench.store.mkdir(&bench.at(name)).await, Error::Unnameable { .. });
        refused!(bench.names(&bench.at(name)).await, Error::Unnameable { .. });
        refused!(bench.put(&bench.at(&format!("{name}/f")), &body(1, 1)).await, Error::Unnameable { .. });
    }
    let filled: Vec<_> = odd.iter().zip(0..).map(|(name, seed)| fill_directory(bench, name, seed)).collect();
    stream::iter(filled).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let mut expected: Vec<&str> = odd.clone();
    expected.sort_unstable();
    let expected: Vec<String> = expected.into_iter().map(|name| format!("{name}/")).collect();
    let listed = bench.names(&bench.dir).await?;
    hold!(listed == expected, "listed {listed:?}");
    bench.store.mkdir(&bench.at("to")).await?;
    let moved: Vec<_> = odd.iter().zip(0..).map(|(name, seed)| move_directory(bench, name, seed)).collect();
    stream::iter(moved).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let listed = bench.names(&bench.dir).await?;
    hold!(listed == ["to/"], "renamed directories are left: {listed:?}");
    let listed = bench.names(&bench.at("to")).await?;
    hold!(listed == expected, "renamed are {listed:?}");
    let deleted: Vec<_> = odd.iter().map(|name| delete_directory(bench, name)).collect();
    stream::iter(deleted).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    let left = bench.names(&bench.at("to")).await?;
    hold!(left.is_empty(), "left are {left:?}");
    if !bench.store.capabilities().real_directories {
        implied_directories(bench, &odd, &expected).await?;
    }
    Ok(())
}

/// Directories that nobody made: they are what names have in common.
async fn implied_directories(bench: &Bench, odd: &[&str], expected: &[String]) -> Verdict {
    for (seed, name) in odd.iter().enumerate() {
        bench.put(&bench.at(&format!("implied/{name}/f")), &body(70, seed as u64)).await?;
    }
    let listed = bench.names(&bench.at("implied")).await?;
    hold!(listed == expected, "implied are {listed:?}");
    for (seed, name) in odd.iter().enumerate() {
        let dir = bench.at(&format!("implied/{name}"));
        hold!(!bench.store.stat(&dir).await?.is_file(), "{name:?} is a file");
        let listed = bench.names(&dir).await?;
        hold!(listed == ["f"], "{name:?} lists {listed:?}");
        let got = bench.get(&bench.at(&format!("implied/{name}/f"))).await?;
        hold!(got == body(70, seed as u64), "another body in {name:?}");
        bench.store.delete_dir(&dir, Depth::Recursive).await?;
        refused!(bench.store.stat(&dir).await, Error::NotFound { .. });
    }
    Ok(())
}

/// Makes a directory with a file and with one more directory of the same name, which has a file of its own.
async fn fill_directory(bench: &Bench, name: &str, seed: u64) -> Verdict {
    for dir in [name.to_owned(), format!("{name}/{name}")] {
        bench.store.mkdir(&bench.at(&dir)).await?;
    }
    bench.put(&bench.at(&format!("{name}/f")), &body(50, seed)).await?;
    bench.put(&bench.at(&format!("{name}/{name}/f")), &body(60, seed)).await?;
    directory_is_whole(bench, name, name, seed).await
}

/// Holds what was filled against what is at `path` now.
async fn directory_is_whole(bench: &Bench, path: &str, name: &str, seed: u64) -> Verdict {
    for dir in [path.to_owned(), format!("{path}/{name}")] {
        hold!(!bench.store.stat(&bench.at(&dir)).await?.is_file(), "{dir:?} is a file");
    }
    let mut expected = [format!("{name}/"), "f".to_owned()];
    expected.sort_by(|a, b| a.trim_end_matches('/').cmp(b.trim_end_matches('/')));
    let listed = bench.names(&bench.at(path)).await?;
    hold!(listed == expected, "{path:?} lists {listed:?}");
    let listed = bench.names(&bench.at(&format!("{path}/{name}"))).await?;
    hold!(listed == ["f"], "{path:?} lists {listed:?} within");
    hold!(bench.get(&bench.at(&format!("{path}/f"))).await? == body(50, seed), "another body in {path:?}");
    let inner = bench.get(&bench.at(&format!("{path}/{name}/f"))).await?;
    hold!(inner == body(60, seed), "another body within {path:?}");
    Ok(())
}

/// Renames a file within the directory and back, and then the directory with all that is in it.
async fn move_directory(bench: &Bench, name: &str, seed: u64) -> Verdict {
    let (from, to) = (bench.at(name), format!("to/{name}"));
    let (file, other) = (bench.at(&format!("{name}/f")), bench.at(&format!("{name}/{name}/g")));
    bench.store.rename(&file, &other, &Condition::MustNotExist).await?;
    refused!(bench.store.stat(&file).await, Error::NotFound { .. });
    hold!(bench.get(&other).await? == body(50, seed), "another body in {name:?}");
    bench.store.rename(&other, &file, &Condition::MustNotExist).await?;
    bench.store.rename(&from, &bench.at(&to), &Condition::MustNotExist).await?;
    refused!(bench.store.stat(&from).await, Error::NotFound { .. });
    directory_is_whole(bench, &to, name, seed).await
}

/// Deletes the moved directory: its file, the directory in it with what it holds, and itself when it is empty.
async fn delete_directory(bench: &Bench, name: &str) -> Verdict {
    let dir = bench.at(&format!("to/{name}"));
    refused!(bench.store.delete_dir(&dir, Depth::Empty).await, Error::NotEmpty { .. });
    bench.store.delete_dir(&bench.at(&format!("to/{name}/{name}")), Depth::Recursive).await?;
    let listed = bench.names(&dir).await?;
    hold!(listed == ["f"], "{name:?} still lists {listed:?}");
    bench.store.delete_file(&bench.at(&format!("to/{name}/f"))).await?;
    bench.store.delete_dir(&dir, Depth::Empty).await?;
    refused!(bench.store.stat(&dir).await, Error::NotFound { .. });
    Ok(())
}

pub(super) async fn backslashes_in_names(bench: &Bench) -> Verdict {
    bench.put(&bench.at("back\\slash"), &body(10, 1)).await?;
    let listed = bench.names(&bench.dir).await?;
    if listed == ["back/"] {
        return Err(Stop::Skip("the server takes a backslash for a slash"));
    }
    hold!(listed == ["back\\slash"], "listed {listed:?}");
    hold!(bench.get(&bench.at("back\\slash")).await? == body(10, 1), "it has another body");
    Ok(())
}

pub(super) async fn names_of_the_greatest_length(bench: &Bench) -> Verdict {
    let name = "n".repeat(crate::COMPONENT_BYTES_MAX);
    bench.put(&bench.at(&name), &body(10, 1)).await?;
    hold!(bench.names(&bench.dir).await? == [name.clone()], "it is not listed as it was written");
    hold!(bench.get(&bench.at(&name)).await? == body(10, 1), "it has another body");
    bench.store.delete_file(&bench.at(&name)).await?;
    // What stands for an empty directory may need a name of its own that is longer.
    let is_marked = match bench.store.mkdir(&bench.at(&name)).await {
        Err(Error::Unnameable { .. }) if !bench.store.capabilities().real_directories => false,
        made => made.map(|()| true)?,
    };
    bench.put(&bench.at(&format!("{name}/f")), &body(10, 2)).await?;
    hold!(bench.names(&bench.dir).await? == [format!("{name}/")], "the directory is not listed as it was made");
    hold!(bench.names(&bench.at(&name)).await? == ["f"], "it does not list what is in it");
    hold!(bench.get(&bench.at(&format!("{name}/f"))).await? == body(10, 2), "what is in it has another body");
    if !is_marked {
        return Err(Stop::Skip("empty directories of the longest names are refused; files and full directories hold"));
    }
    Ok(())
}

/// Bytes of a path that every store holds, but for what the prefix takes of its keys.
const LONG_PATH_BYTES: usize = 1024;

/// A path of so many bytes from the mount on, whose last name is made of one letter. No name is near its own bound.
fn path_of(bench: &Bench, bytes: usize, letter: &str) -> StorePath {
    let mut text = bench.dir.to_string();
    while bytes - text.len() > 220 {
        text.push('/');
        text.push_str(&"d".repeat(100));
    }
    text.push('/');
    text.push_str(&letter.repeat(bytes - text.len()));
    StorePath::parse(&text).expect("it is a path")
}

/// What stores count with the mounted prefix is used to the last byte. One more is refused by name, never cut.
pub(super) async fn paths_of_the_greatest_length(bench: &Bench) -> Verdict {
    let (store, bytes_max) = (&bench.store, bench.store.capabilities().path_bytes_max);
    let bytes = bytes_max.min(LONG_PATH_BYTES);
    let (longest, moved, dir) = (path_of(bench, bytes, "l"), path_of(bench, bytes, "m"), path_of(bench, bytes, "n"));
    let parent = longest.parent().expect("it is in the point's directory");
    if store.capabilities().real_directories {
        for (at, _) in parent.as_str().match_indices('/').skip_while(|(at, _)| *at <= bench.dir.as_str().len()) {
            store.mkdir(&StorePath::parse(&parent.as_str()[..at])?).await?;
        }
        store.mkdir(&parent).await?;
    }
    bench.put(&longest, &body(10, 1)).await?;
    hold!(bench.names(&parent).await? == [longest.name()], "it is not listed as it was written");
    hold!(bench.get(&longest).await? == body(10, 1), "it has another body");
    store.rename(&longest, &moved, &Condition::MustNotExist).await?;
    refused!(store.stat(&longest).await, Error::NotFound { .. });
    refused!(bench.names(&longest).await, Error::NotFound { .. });
    refused!(bench.names(&moved).await, Error::NotADirectory { .. });
    hold!(bench.get(&moved).await? == body(10, 1), "it has another body when it is renamed");
    // What is large may need names of its own beside the key.
    match bench.put(&longest, &body(LARGE_BYTES, 2)).await {
        Ok(_) => hold!(bench.get(&longest).await? == body(LARGE_BYTES, 2), "it has another body when it is large"),
        Err(Error::Unnameable { .. }) => refused!(store.stat(&longest).await, Error::NotFound { .. }),
        Err(other) => return Err(other.into()),
    }
    // And a directory a slash behind it.
    match store.mkdir(&dir).await {
        Ok(()) => {
            hold!(bench.names(&dir).await?.is_empty(), "a new directory has entries");
            store.delete_dir(&dir, Depth::Empty).await?;
        }
        Err(Error::Unnameable { .. }) => {}
        Err(other) => return Err(other.into()),
    }
    refused!(store.stat(&dir).await, Error::NotFound { .. });
    if bytes == bytes_max {
        longer_paths_are_refused(bench, &moved, bytes).await?;
    }
    store.delete_dir(&bench.dir, Depth::Recursive).await?;
    refused!(store.stat(&moved).await, Error::NotFound { .. });
    Ok(())
}

/// Where paths end before they do everywhere: what is too long is refused, and what would become so is left as it is.
async fn longer_paths_are_refused(bench: &Bench, held: &StorePath, bytes: usize) -> Verdict {
    let (store, long) = (&bench.store, path_of(bench, bytes + 1, "l"));
    refused!(store.stat(&long).await, Error::Unnameable { .. });
    refused!(bench.names(&long).await, Error::Unnameable { .. });
    refused!(bench.put(&long, &body(1, 1)).await, Error::Unnameable { .. });
    refused!(store.mkdir(&long).await, Error::Unnameable { .. });
    refused!(store.rename(held, &long, &Condition::MustNotExist).await, Error::Unnameable { .. });
    let first = &held.as_str()[..bench.dir.as_str().len() + 1 + 100];
    let (from, to) = (StorePath::parse(first)?, StorePath::parse(&format!("{first}d"))?);
    refused!(store.rename(&from, &to, &Condition::MustNotExist).await, Error::Unnameable { .. });
    hold!(bench.get(held).await? == body(10, 1), "what was not renamed has another body");
    Ok(())
}

pub(super) async fn control_characters(bench: &Bench) -> Verdict {
    let path = bench.at("a\nb\x01c");
    if bench.store.capabilities().control_characters {
        bench.put(&path, &body(10, 1)).await?;
        hold!(bench.get(&path).await? == body(10, 1), "it has another body");
        hold!(bench.names(&bench.dir).await? == ["a\nb\x01c"], "it is not listed as it was written");
    } else {
        refused!(bench.put(&path, &body(10, 1)).await, Error::Unnameable { .. });
        refused!(bench.store.stat(&path).await, Error::Unnameable { .. });
    }
    Ok(())
}

pub(super) async fn listing_is_in_name_order(bench: &Bench) -> Verdict {
    let dir = bench.at("d");
    bench.store.mkdir(&dir).await?;
    bench.store.mkdir(&bench.at("d/a")).await?;
    bench.store.mkdir(&bench.at("d/b!")).await?;
    for name in ["a-b", "a.txt", "a/inner", "a/z", "a0", "B", "b", "ab", "b!/x", "ü", "z-1"] {
        bench.put(&bench.at(&format!("d/{name}")), &body(3, 1)).await?;
    }
    let listed = bench.names(&dir).await?;
    let expected = ["B", "a/", "a-b", "a.txt", "a0", "ab", "b", "b!/", "z-1", "ü"];
    hold!(listed == expected, "listed {listed:?}");
    let inner = bench.names(&bench.at("d/a")).await?;
    hold!(inner == ["inner", "z"], "listed {inner:?}");
    for after in ["", "B", "C", "a", "a-", "a-b", "a/", "b", "b!", "z-1", "ü", "ýz"] {
        let found = bench.names_after(&dir, after).await?;
        let behind: Vec<_> = expected.into_iter().filter(|name| name.trim_end_matches('/') > after).collect();
        hold!(found == behind, "after {after:?}: {found:?}");
    }
    bench.listing_agrees(&dir).await
}

pub(super) async fn listing_is_paged(bench: &Bench) -> Verdict {
    const COUNT: usize = 2 * PAGE_ENTRIES_MAX + 37;
    let content = body(1, 1);
    // One directory that could sort before all of them, so that they have to wait for it.
    let names: Vec<String> = (0..COUNT).map(|number| format!("part-{number:05}")).collect();
    let paths: Vec<StorePath> = names.iter().map(|name| bench.at(name)).collect();
    for batch in paths.chunks(16) {
        futures::future::try_join_all(batch.iter().map(|path| bench.put(path, &content))).await?;
    }
    bench.store.mkdir(&bench.at("part")).await?;
    let pages = bench.pages(&bench.dir).await?;
    hold!(pages.len() > 2, "{} pages", pages.len());
    hold!(pages.iter().all(|page| page.entries.len() + page.refused.len() <= PAGE_ENTRIES_MAX), "a page is too long");
    hold!(pages.iter().all(|page| page.refused.is_empty()), "something was refused");
    let listed: Vec<&str> = pages.iter().flat_map(|page| &page.entries).map(|entry| entry.name.as_str()).collect();
    let expected: Vec<&str> = std::iter::once("part").chain(names.iter().map(String::as_str)).collect();
    hold!(listed == expected, "{} names instead of {}, or out of order", listed.len(), expected.len());
    let last = bench.names_after(&bench.dir, &names[COUNT - 3]).await?;
    hold!(last == names[COUNT - 2..], "listed {last:?}");
    bench.store.delete_dir(&bench.dir, Depth::Recursive).await?;
    Ok(())
}

/// What comes before the name that a listing begins behind is not asked for, and so costs nothing.
pub(super) async fn listing_begins_where_it_is_asked(bench: &Bench) -> Verdict {
    const COUNT: usize = PAGE_ENTRIES_MAX + 2;
    let content = body(1, 1);
    let names: Vec<String> = (0..COUNT).map(|number| format!("part-{number:05}")).collect();
    let paths: Vec<StorePath> = names.iter().map(|name| bench.at(name)).collect();
    for batch in paths.chunks(16) {
        futures::future::try_join_all(batch.iter().map(|path| bench.put(path, &content))).await?;
    }
    let before = bench.store.traffic().totals().requests;
    let last = bench.names_after(&bench.dir, &names[COUNT - 2]).await?;
    let asked = bench.store.traffic().totals().requests - before;
    hold!(last == names[COUNT - 1..], "listed {last:?}");
    bench.store.delete_dir(&bench.dir, Depth::Recursive).await?;
    if asked > 1 {
        return Err(Stop::Skip("the server begins every listing at its first name"));
    }
    Ok(())
}

pub(super) async fn listing_of_nothing_and_of_a_file(bench: &Bench) -> Verdict {
    hold!(bench.names(&bench.dir).await?.is_empty(), "an empty directory has entries");
    bench.put(&bench.at("f"), &body(1, 1)).await?;
    refused!(bench.names(&bench.at("f")).await, Error::NotADirectory { .. });
    refused!(bench.names(&bench.at("none")).await, Error::NotFound { .. });
    hold!(bench.names_after(&bench.dir, "z").await?.is_empty(), "there is something behind all names");
    refused!(bench.names_after(&bench.at("f"), "z").await, Error::NotADirectory { .. });
    refused!(bench.names_after(&bench.at("none"), "z").await, Error::NotFound { .. });
    Ok(())
}

//! Names: odd ones, missing ones, and their order in listings.

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

pub(super) async fn odd_names(bench: &Bench) -> Verdict {
    let refused = bench.store.capabilities().refused_characters;
    let (odd, none): (Vec<&str>, Vec<&str>) = ODD.iter().partition(|name| !name.contains(|c| refused.contains(c)));
    for name in none {
        refused!(bench.put(&bench.at(name), &body(100, 1)).await, Error::Unnameable { .. });
        refused!(bench.store.stat(&bench.at(name)).await, Error::Unnameable { .. });
    }
    for (seed, name) in odd.iter().enumerate() {
        bench.put(&bench.at(name), &body(100, seed as u64)).await?;
        bench.put(&bench.at(&format!("dir/{name}/f")), &body(50, seed as u64)).await.or_else(|error| match error {
            // Real directories have to be made first.
            Error::NotFound { .. } => Ok(VersionToken::new(&[])?),
            other => Err(other),
        })?;
    }
    let mut expected: Vec<String> = odd.iter().map(|name| (*name).to_owned()).collect();
    expected.sort();
    let listed = bench.names(&bench.dir).await?;
    let files: Vec<String> = listed.into_iter().filter(|name| !name.ends_with('/')).collect();
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
    bench.store.rename(&bench.at(odd[1]), &bench.at("renamed %+#"), &Condition::MustNotExist).await?;
    hold!(bench.get(&bench.at("renamed %+#")).await? == body(100, 1), "the renamed body is another");
    for name in &odd[2..] {
        bench.store.delete_file(&bench.at(name)).await?;
    }
    let left: Vec<String> = bench.names(&bench.dir).await?.into_iter().filter(|name| !name.ends_with('/')).collect();
    hold!(left == [odd[0], "renamed %+#"], "left are {left:?}");
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

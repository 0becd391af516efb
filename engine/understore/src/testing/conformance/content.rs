//! Reading: bodies, ranges, versions, counters, descriptors.

use super::*;
use crate::Glance;

pub(super) async fn empty_file(bench: &Bench) -> Verdict {
    let path = bench.at("empty");
    let token = bench.put(&path, &Bytes::new()).await?;
    let stat = bench.store.stat(&path).await?;
    hold!(stat.is_file() && stat.len == 0 && stat.token == token, "{stat:?}");
    hold!(bench.get(&path).await?.is_empty(), "bytes came out of an empty file");
    hold!(bench.names(&bench.dir).await? == ["empty"], "it is not listed");
    Ok(())
}

pub(super) async fn bodies_of_many_sizes(bench: &Bench) -> Verdict {
    for len in [1, 4095, 4096, 1 << 20, (2 << 20) - 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 1, 17 << 20] {
        let (path, content) = (bench.at(&format!("of-{len}")), body(len, len as u64));
        let token = bench.put(&path, &content).await?;
        let stat = bench.store.stat(&path).await?;
        hold!(stat.token == token, "published {token:?}, found {:?} for {len} bytes", stat.token);
        hold!(stat.len == len as u64, "{} bytes instead of {len}", stat.len);
        hold!(stat.mtime_ms > 0, "no modification time");
        hold!(bench.get(&path).await? == content, "another body of {len} bytes came back");
    }
    bench.listing_agrees(&bench.dir).await
}

pub(super) async fn ranges(bench: &Bench) -> Verdict {
    let (path, content) = (bench.at("f"), body(3 << 20, 1));
    let token = bench.put(&path, &content).await?;
    let end = content.len() as u64;
    for range in [0..1, 0..end, end - 1..end, 4096..8192, (1 << 20) - 1..(1 << 20) + 1, 12345..end - 1] {
        let expected = &content[range.start as usize..range.end as usize];
        hold!(bench.read(&path, &token, range.clone()).await? == expected, "range {range:?} came back wrong");
    }
    Ok(())
}

pub(super) async fn empty_range_checks_the_version(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let old = bench.put(&path, &body(10, 1)).await?;
    hold!(bench.read(&path, &old, 5..5).await?.is_empty(), "bytes came out of an empty range");
    bench.put(&path, &body(10, 2)).await?;
    refused!(bench.read(&path, &old, 5..5).await, Error::VersionChanged { .. });
    Ok(())
}

pub(super) async fn range_past_the_end_is_an_error(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let token = bench.put(&path, &body(100, 1)).await?;
    hold!(bench.read(&path, &token, 50..101).await.is_err(), "a range past the end was read");
    hold!(bench.read_whole(&path, &token, 101).await.is_err(), "more was read than all there is");
    hold!(bench.read(&path, &token, 100..200).await.is_err(), "a range behind the end was read");
    Ok(())
}

pub(super) async fn replaced_file_is_never_mixed(bench: &Bench) -> Verdict {
    let (path, old, new) = (bench.at("f"), body(1 << 20, 1), body(1 << 20, 2));
    let token = bench.put(&path, &old).await?;
    hold!(bench.read(&path, &token, 0..4096).await? == old[..4096], "wrong bytes before");
    bench.put(&path, &new).await?;
    refused!(bench.read(&path, &token, 4096..8192).await, Error::VersionChanged { .. });
    refused!(bench.read_whole(&path, &token, 1 << 20).await, Error::VersionChanged { .. });
    hold!(bench.get(&path).await? == new, "wrong bytes after");
    bench.store.delete_file(&path).await?;
    refused!(bench.read(&path, &token, 0..1).await, Error::NotFound { .. } | Error::VersionChanged { .. });
    refused!(bench.read_whole(&path, &token, 1 << 20).await, Error::NotFound { .. } | Error::VersionChanged { .. });
    Ok(())
}

pub(super) async fn equal_length_is_another_version(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let mut tokens = BTreeSet::new();
    for seed in 0..5 {
        let token = bench.put(&path, &body(1000, seed)).await?;
        hold!(tokens.insert(token.clone()), "version {token:?} came twice for different content");
    }
    Ok(())
}

pub(super) async fn many_readers_at_once(bench: &Bench) -> Verdict {
    let (path, content) = (bench.at("f"), body(4 << 20, 4));
    let token = bench.put(&path, &content).await?;
    let reads = (0..64_u64).map(|reader| {
        let (path, token) = (&path, &token);
        async move {
            let range = reader * 60_000..reader * 60_000 + 123_456;
            Ok::<_, Error>((range.clone(), bench.read(path, token, range).await?))
        }
    });
    for result in join_all(reads).await {
        let (range, bytes) = result?;
        hold!(bytes == content[range.start as usize..range.end as usize], "range {range:?} came back wrong");
    }
    Ok(())
}

pub(super) async fn traffic_is_counted(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let before = bench.store.traffic().totals();
    let token = bench.put(&path, &body(5000, 1)).await?;
    bench.read(&path, &token, 1000..4000).await?;
    let after = bench.store.traffic().totals();
    // Other points do not run beside this one.
    hold!(after.bytes_written - before.bytes_written == 5000, "{before:?} {after:?}");
    hold!(after.bytes_read - before.bytes_read == 3000, "{before:?} {after:?}");
    hold!(after.requests - before.requests >= 2, "{before:?} {after:?}");
    Ok(())
}

pub(super) async fn descriptors_show_one_version(bench: &Bench) -> Verdict {
    let (path, content) = (bench.at("f"), body(10_000, 1));
    let token = bench.put(&path, &content).await?;
    let Some(local) = bench.store.local() else {
        return Err(Stop::Skip("the store is not a near file system"));
    };
    let seen = local.stat_now(&path)?;
    hold!(matches!(&seen, Glance::Found(stat) if stat.token == token), "this thread sees {seen:?}");
    let Some(fd) = local.open_local(&path, &token).await? else {
        return Err(Stop::Fail("the file is said to lie in another file system".to_owned()));
    };
    let mut read = vec![0; content.len()];
    let got = rustix::io::pread(&fd, &mut read, 0).map_err(|errno| Stop::Fail(errno.to_string()))?;
    hold!(got == content.len() && read == content, "the descriptor shows another body");
    local.check_local(&path, &fd, &token)?;
    bench.put(&path, &body(10_000, 2)).await?;
    refused!(local.open_local(&path, &token).await, Error::VersionChanged { .. });
    Ok(())
}

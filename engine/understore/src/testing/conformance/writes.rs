//! Writes from stage to settle: conditions, races, crashes, remains.

use super::*;

pub(super) async fn publish_only_if_absent(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        bench.put_if(&path, &body(len, 1), &Condition::MustNotExist).await?;
        refused!(bench.put_if(&path, &body(len, 2), &Condition::MustNotExist).await, Error::AlreadyExists { .. });
        hold!(bench.get(&path).await? == body(len, 1), "the refused write is visible ({len} bytes)");
    }
    bench.store.mkdir(&bench.at("d")).await?;
    Ok(())
}

pub(super) async fn publish_only_replacing(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        let first = bench.put(&path, &body(len, 1)).await?;
        let second = bench.put_if(&path, &body(len, 2), &Condition::Replaces(first.clone())).await?;
        refused!(bench.put_if(&path, &body(len, 3), &Condition::Replaces(first)).await, Error::Conflict { .. });
        hold!(bench.get(&path).await? == body(len, 2), "the refused write is visible ({len} bytes)");
        bench.store.delete_file(&path).await?;
        refused!(bench.put_if(&path, &body(len, 4), &Condition::Replaces(second)).await, Error::Conflict { .. });
        refused!(bench.store.stat(&path).await, Error::NotFound { .. });
    }
    Ok(())
}

pub(super) async fn publish_twice_is_once(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        let mut staged = bench.store.stage(&path, fresh_id(), Some(len as u64)).await?;
        staged.write(body(len, 1)).await?;
        staged.seal().await?;
        let first = staged.publish(&Condition::MustNotExist).await?;
        let second = staged.publish(&Condition::MustNotExist).await?;
        hold!(first == second, "{first:?} and then {second:?}");
        hold!(bench.get(&path).await? == body(len, 1), "another body");
    }
    Ok(())
}

pub(super) async fn staged_is_invisible(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at("f");
        let mut staged = bench.store.stage(&path, fresh_id(), Some(len as u64)).await?;
        staged.write(body(len, 1)).await?;
        staged.seal().await?;
        refused!(bench.store.stat(&path).await, Error::NotFound { .. });
        hold!(bench.names(&bench.dir).await?.is_empty(), "it is listed before it is published");
        let root = bench.pages(&StorePath::root()).await?;
        let names: Vec<_> = root.iter().flat_map(|page| &page.entries).map(|entry| &entry.name).collect();
        hold!(names.iter().all(|name| NAMES.contains(&name.as_str())), "the root lists {names:?}");
        hold!(root.iter().all(|page| page.refused.is_empty()), "the root refuses names: {root:?}");
        staged.abandon().await?;
    }
    Ok(())
}

/// Seals a large write and gives its record the way another process would get it.
async fn sealed(bench: &Bench, path: &StorePath, seed: u64) -> Verdict<(Box<dyn crate::Staged>, StagedRecord)> {
    let mut staged = bench.store.stage(path, fresh_id(), Some(LARGE_BYTES as u64)).await?;
    staged.write(body(LARGE_BYTES, seed)).await?;
    let record = staged.seal().await?;
    hold!(!matches!(record.body, StagedBody::Small { .. }), "{LARGE_BYTES} bytes make a small put");
    let copied = StagedRecord::decode(&record.encode())?;
    hold!(copied == record, "the record changed on its way");
    Ok((staged, copied))
}

pub(super) async fn settle_before_publishing(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let (mut staged, record) = sealed(bench, &path, 1).await?;
    for _ in 0..2 {
        hold!(bench.store.settle(&record).await? == Settled::Absent, "it is not absent");
    }
    hold!(staged.publish(&Condition::Any).await.is_err(), "it was published after it was settled");
    hold!(bench.store.publish(&record, &Condition::Any).await.is_err(), "its record was published");
    refused!(bench.store.stat(&path).await, Error::NotFound { .. });
    hold!(bench.names(&bench.dir).await?.is_empty(), "something is left");
    Ok(())
}

pub(super) async fn settle_after_publishing(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let path = bench.at(&format!("f-{len}"));
        let mut staged = bench.store.stage(&path, fresh_id(), None).await?;
        staged.write(body(len, 1)).await?;
        let record = staged.seal().await?;
        let token = staged.publish(&Condition::MustNotExist).await?;
        drop(staged);
        for _ in 0..2 {
            let settled = bench.store.settle(&record).await?;
            hold!(settled == Settled::Published(token.clone()), "{settled:?} instead of {token:?}");
        }
        hold!(bench.get(&path).await? == body(len, 1), "settling changed the body");
    }
    Ok(())
}

pub(super) async fn settle_after_being_overwritten(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let (mut staged, record) = sealed(bench, &path, 1).await?;
    staged.publish(&Condition::Any).await?;
    // Its publisher is known to be done, so that nobody has to wait until it may no more.
    let record = record.not_published_since(0);
    bench.put(&path, &body(LARGE_BYTES, 2)).await?;
    hold!(bench.store.settle(&record).await? == Settled::Absent, "another's write is taken for ours");
    hold!(bench.get(&path).await? == body(LARGE_BYTES, 2), "settling changed another's write");
    Ok(())
}

pub(super) async fn settle_what_was_only_begun(bench: &Bench) -> Verdict {
    let (path, file_id) = (bench.at("f"), fresh_id());
    let mut staged = bench.store.stage(&path, file_id, Some(LARGE_BYTES as u64)).await?;
    staged.write(body(LARGE_BYTES, 1)).await?;
    let begun = StagedRecord::decode(&staged.begun().encode())?;
    // The process dies here: nothing is cleaned up by it.
    std::mem::forget(staged);
    hold!(bench.store.settle(&begun).await? == Settled::Absent, "it is not absent");
    let named = StagedRecord::named(path.clone(), file_id);
    hold!(bench.store.settle(&named).await? == Settled::Absent, "it is not absent by name");
    hold!(bench.names(&bench.dir).await?.is_empty(), "something is left");
    let swept = bench.store.sweep(&|remnant| is_of(remnant, &path, file_id)).await?;
    hold!(swept.removed == 0, "{} remains were still to be swept", swept.removed);
    Ok(())
}

pub(super) async fn abandon_leaves_nothing(bench: &Bench) -> Verdict {
    for len in [10, LARGE_BYTES] {
        let (path, file_id) = (bench.at("f"), fresh_id());
        let mut staged = bench.store.stage(&path, file_id, Some(len as u64)).await?;
        staged.write(body(len, 1)).await?;
        staged.seal().await?;
        staged.abandon().await?;
        drop(staged);
        hold!(bench.names(&bench.dir).await?.is_empty(), "something is left");
        let swept = bench.store.sweep(&|remnant| is_of(remnant, &path, file_id)).await?;
        hold!(swept.removed == 0, "{} remains were still to be swept", swept.removed);
    }
    Ok(())
}

pub(super) async fn publish_by_another_process(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    let (staged, record) = sealed(bench, &path, 5).await?;
    std::mem::forget(staged);
    let token = bench.store.publish(&record, &Condition::MustNotExist).await?;
    hold!(bench.store.stat(&path).await?.token == token, "another version is there");
    hold!(bench.get(&path).await? == body(LARGE_BYTES, 5), "another body is there");
    hold!(bench.store.publish(&record, &Condition::MustNotExist).await? == token, "the second time differs");
    Ok(())
}

pub(super) async fn shared_upload(bench: &Bench) -> Verdict {
    const PART: usize = 5 << 20;
    if !bench.store.capabilities().shared_upload {
        return Err(Stop::Skip("the store takes a write from one writer only"));
    }
    let (path, content) = (bench.at("f"), body(2 * PART + 777, 3));
    let mut staged = bench.store.stage(&path, fresh_id(), Some(content.len() as u64)).await?;
    let record = StagedRecord::decode(&staged.share().await?.encode())?;
    // Parts come from different writers and out of order; one of them in two pieces.
    let third = bench.store.put_part(&record, 3, vec![content.slice(2 * PART..)]).await?;
    let pieces = vec![content.slice(..100), content.slice(100..PART)];
    let (first, second) = futures::future::try_join(
        bench.store.put_part(&record, 1, pieces),
        bench.store.put_part(&record, 2, vec![content.slice(PART..2 * PART)]),
    )
    .await?;
    staged.adopt(vec![third, first])?;
    staged.adopt(vec![second])?;
    let sealed = staged.seal().await?;
    hold!(sealed.len == content.len() as u64, "the record says {} bytes", sealed.len);
    staged.publish(&Condition::MustNotExist).await?;
    hold!(bench.get(&path).await? == content, "another body is there");
    Ok(())
}

pub(super) async fn many_small_writes(bench: &Bench) -> Verdict {
    let (path, content) = (bench.at("f"), body(LARGE_BYTES, 8));
    let mut staged = bench.store.stage(&path, fresh_id(), None).await?;
    let mut at = 0;
    for step in (1..).map(|step: usize| step * 977 % 65_536 + 1) {
        let end = (at + step).min(content.len());
        staged.write(content.slice(at..end)).await?;
        at = end;
        if at == content.len() {
            break;
        }
    }
    staged.publish(&Condition::Any).await?;
    hold!(bench.get(&path).await? == content, "another body is there");
    Ok(())
}

fn is_of(remnant: &Remnant, path: &StorePath, id: FileId) -> bool {
    match remnant {
        Remnant::Temp { file_id, .. } => *file_id == id,
        Remnant::Upload { path: at, .. } => at == path,
    }
}

pub(super) async fn sweep_takes_the_dead_only(bench: &Bench) -> Verdict {
    if bench.store.capabilities().drops_parts {
        return Err(Stop::Skip("the store drops by itself what was never published"));
    }
    let (dead, live) = (bench.at("dead"), bench.at("live"));
    let (staged, record) = sealed(bench, &dead, 1).await?;
    std::mem::forget(staged);
    let (mut living, _) = sealed(bench, &live, 2).await?;
    let id = record.file_id;
    let swept = bench.store.sweep(&|remnant| is_of(remnant, &dead, id)).await?;
    if swept.seen == 0 {
        return Err(Stop::Skip("the server lists no uploads below a prefix"));
    }
    hold!(swept.removed == 1, "{swept:?}");
    hold!(swept.seen >= 2, "{swept:?}");
    let again = bench.store.sweep(&|remnant| is_of(remnant, &dead, id)).await?;
    hold!(again.removed == 0, "{again:?}");
    hold!(bench.store.publish(&record, &Condition::Any).await.is_err(), "what was swept was published");
    living.publish(&Condition::Any).await?;
    hold!(bench.get(&live).await? == body(LARGE_BYTES, 2), "the living was swept");
    Ok(())
}

/// Small writes race always; large ones where the store promises one winner for them too.
fn race_sizes(bench: &Bench) -> impl Iterator<Item = usize> {
    let large = bench.store.capabilities().large_writes == Compares::Atomically;
    [10].into_iter().chain(large.then_some(LARGE_BYTES))
}

/// Publishes many sealed writes of one path at once; gives how many said that they had won, and the seeds.
async fn race(bench: &Bench, path: &StorePath, len: usize, condition: &Condition) -> Verdict<Vec<u64>> {
    let contestants = (1..=4_u64).map(|seed| async move {
        let won = bench.put_if(path, &body(len, seed), condition).await;
        match won {
            Ok(_) => Ok(Some(seed)),
            Err(Error::AlreadyExists { .. } | Error::Conflict { .. }) => Ok(None),
            Err(other) => Err(Stop::from(other)),
        }
    });
    let mut winners = Vec::new();
    for result in join_all(contestants).await {
        winners.extend(result?);
    }
    Ok(winners)
}

pub(super) async fn one_creator_wins(bench: &Bench) -> Verdict {
    if bench.store.capabilities().create_only != Compares::Atomically {
        return Err(Stop::Skip("the store looks just before it creates"));
    }
    for len in race_sizes(bench) {
        for round in 0..5 {
            let path = bench.at(&format!("f-{len}-{round}"));
            let winners = race(bench, &path, len, &Condition::MustNotExist).await?;
            hold!(winners.len() == 1, "{} writers of {len} bytes created one file", winners.len());
            hold!(bench.get(&path).await? == body(len, winners[0]), "the winner's body is not there");
        }
    }
    Ok(())
}

pub(super) async fn one_replacer_wins(bench: &Bench) -> Verdict {
    if bench.store.capabilities().replace != Compares::Atomically {
        return Err(Stop::Skip("the store compares just before it replaces"));
    }
    for len in race_sizes(bench) {
        for round in 0..5 {
            let path = bench.at(&format!("f-{len}-{round}"));
            let token = bench.put(&path, &body(len, 99)).await?;
            let winners = race(bench, &path, len, &Condition::Replaces(token)).await?;
            hold!(winners.len() == 1, "{} writers of {len} bytes replaced one version", winners.len());
            hold!(bench.get(&path).await? == body(len, winners[0]), "the winner's body is not there");
        }
    }
    Ok(())
}

pub(super) async fn writes_of_one_path_leave_one_whole_body(bench: &Bench) -> Verdict {
    let path = bench.at("f");
    for len in [1000, LARGE_BYTES] {
        let writers = (0..4_u64).map(|seed| {
            let path = &path;
            async move {
                match bench.put(path, &body(len, seed)).await {
                    // Replaced at once: it was whole, and is history.
                    Ok(_) | Err(Error::Conflict { .. }) => Ok(()),
                    Err(other) => Err(Stop::from(other)),
                }
            }
        });
        for result in join_all(writers).await {
            result?;
        }
        let found = bench.get(&path).await?;
        hold!((0..4).any(|seed| found == body(len, seed)), "a mixture of bodies is there");
    }
    Ok(())
}

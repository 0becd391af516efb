//! Retries get the answer of the first try.

use super::super::sessions::Sessions;
use super::*;

fn caller(client: ClientId, serial: u64) -> Caller {
    Caller { client, serial: Serial(serial) }
}

#[test]
fn a_retry_gets_the_first_answer_and_no_effects() {
    let mut world = World::new();
    let first = Change::Create(create(key(1), "/f", WriteType::MustCache));
    let reply = world.apply(Some(caller(BOB, 7)), first).unwrap().reply;
    // The proposer of the retry minted another key.
    let retry = Change::Create(create(key(2), "/f", WriteType::MustCache));
    let again = world.apply(Some(caller(BOB, 7)), retry.clone()).unwrap();
    assert_eq!(again, Applied { reply, effects: vec![] });
    assert!(world.state.file(key(2)).is_none());
    assert_eq!(world.apply(Some(caller(ALICE, 1_007)), retry).unwrap_err().status, Status::FileBusy);
}

#[test]
fn refusals_are_remembered_unless_they_invite_a_retry() {
    let mut world = World::new();
    world.file(key(1), "/f");
    let change = || Change::Create(create(key(2), "/f", WriteType::MustCache));
    let refused = world.apply(Some(caller(BOB, 1)), change()).unwrap_err();
    let (intent, _) = world.begun(delete("/f", false));
    let waiting = world.apply(Some(caller(BOB, 2)), change()).unwrap_err();
    assert_eq!((refused.status, waiting.status), (Status::AlreadyExists, Status::Unavailable));
    world.finish(intent, Ok(()));
    assert_eq!(world.apply(Some(caller(BOB, 1)), change()), Err(refused), "the first answer");
    assert!(world.apply(Some(caller(BOB, 2)), change()).is_ok(), "tried anew");
}

#[test]
fn an_intent_s_client_gets_its_result() {
    let mut world = World::new();
    let ask = |world: &mut World| world.apply(Some(caller(BOB, 1)), delete("/f", false)).map(|applied| applied.reply);
    let Ok(Reply::Intent(intent)) = ask(&mut world) else { panic!("an intent begins") };
    assert_eq!(ask(&mut world), Ok(Reply::Intent(intent)), "still under way");
    let not_found = Failure::new(Status::NotFound, "there is no /f, so nothing was deleted");
    world.finish(intent, Err(not_found.clone()));
    assert_eq!(ask(&mut world), Err(not_found));
    assert_eq!(world.state.intents().count(), 0);

    let Ok(applied) = world.apply(Some(caller(BOB, 2)), delete("/g", false)) else { panic!("an intent begins") };
    let Reply::Intent(intent) = applied.reply else { panic!("{applied:?}") };
    world.finish(intent, Ok(()));
    assert_eq!(world.state.answer(caller(BOB, 2)), Ok(Some(&Ok(Reply::Done))));

    let Ok(applied) = world.apply(Some(caller(BOB, 3)), delete("/h", false)) else { panic!("an intent begins") };
    let Reply::Intent(intent) = applied.reply else { panic!("{applied:?}") };
    world.finish(intent, Err(Failure::new(Status::Unavailable, "the under-store does not answer now")));
    assert_eq!(world.state.answer(caller(BOB, 3)), Ok(None), "a retry begins anew");
}

#[test]
fn answers_of_one_client_are_bounded() {
    let mut sessions = Sessions::new();
    let count = ANSWERS_PER_CLIENT_MAX as u64;
    for serial in 1..=count {
        sessions.record(caller(ALICE, serial), Ok(Reply::Done));
    }
    assert!(sessions.answer(caller(ALICE, 1)).unwrap().is_some(), "at the bound");
    sessions.record(caller(ALICE, count + 1), Ok(Reply::Done));
    sessions.validate();
    assert_eq!(sessions.answer(caller(ALICE, 1)).unwrap_err().status, Status::TimedOut, "past it");
    assert!(sessions.answer(caller(ALICE, 2)).unwrap().is_some());
    assert!(sessions.answer(caller(BOB, 1)).unwrap().is_none());
}

fn numbered(number: u64) -> ClientId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ClientId(bytes)
}

#[test]
fn the_client_that_was_quiet_longest_goes_first() {
    let mut sessions = Sessions::new();
    for number in 0..CLIENTS_MAX as u64 {
        sessions.record(caller(numbered(number), 1), Ok(Reply::Done));
    }
    sessions.record(caller(numbered(0), 2), Ok(Reply::Done));
    sessions.record(caller(ALICE, 1), Ok(Reply::Done));
    sessions.validate();
    let is_known = |number| sessions.answer(caller(numbered(number), 1)).unwrap().is_some();
    assert!(is_known(0) && !is_known(1) && is_known(2));
}

#[test]
fn answers_in_all_are_bounded() {
    let mut sessions = Sessions::new();
    let clients = (ANSWERS_MAX / ANSWERS_PER_CLIENT_MAX) as u64;
    let last = caller(numbered(0), ANSWERS_PER_CLIENT_MAX as u64);
    for number in 0..clients {
        for serial in 1..=ANSWERS_PER_CLIENT_MAX as u64 {
            sessions.record(caller(numbered(number), serial), Ok(Reply::Done));
        }
    }
    assert!(sessions.answer(last).unwrap().is_some(), "at the bound");
    sessions.record(caller(ALICE, 1), Ok(Reply::Done));
    sessions.validate();
    assert!(sessions.answer(last).unwrap().is_none(), "past it the quietest client goes");
    assert!(sessions.answer(caller(numbered(1), 1)).unwrap().is_some());
}

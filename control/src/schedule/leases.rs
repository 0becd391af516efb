//! Writers that did not renew their leases lose their files.

use std::sync::Arc;

use citius_wire::{FileKey, Status};

use crate::service::Service;
use crate::state::{AbortReason, Change, Command};

/// Writes that are given up in one go; the rest waits for the next second.
const EXPIRED_AT_ONCE_MAX: usize = 1024;

/// Gives up the writes whose leases are over. The log's own clock decides.
pub(super) async fn expire(service: &Arc<Service>) {
    let now_ms = service.now_ms();
    let expired: Vec<FileKey> =
        service.state(|state| state.expired(now_ms).take(EXPIRED_AT_ONCE_MAX).map(|file| file.key).collect());
    let abort = |file| Command { caller: None, change: Change::Abort { file, reason: AbortReason::LeaseExpired } };
    let replies = service.propose_all(&expired.iter().copied().map(abort).collect::<Vec<_>>()).await;
    for (file, reply) in expired.iter().zip(replies) {
        match reply {
            Ok(_) => tracing::info!(%file, "a writer did not renew its lease; its write is given up"),
            // It renewed in the last moment, or is being published.
            Err(failure) if matches!(failure.status, Status::FileBusy | Status::Unavailable) => {}
            Err(failure) => tracing::warn!(%file, %failure, "an expired write could not be given up"),
        }
    }
}

//! What a test logs, kept, so that it can be seen that nothing secret is in it.

#![allow(dead_code, clippy::unwrap_used)]

use std::{
    fmt::Write,
    sync::{Arc, Mutex, OnceLock},
};

/// Everything that is logged in this process, at every level, fields and all.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<String>>);

impl Log {
    /// The log of this process, from now on. Were it a thread's, a place in the code that another thread, which logs nothing,
    /// comes by first would be taken for one that nobody wants to hear of.
    pub(crate) fn of_process() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let begin = || {
            let log = Self::default();
            tracing::subscriber::set_global_default(log.clone()).unwrap();
            log
        };
        LOG.get_or_init(begin).clone()
    }

    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl tracing::field::Visit for Log {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut self.clone());
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

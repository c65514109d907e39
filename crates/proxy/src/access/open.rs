//! The record of a request that is under way.

use super::{ClosedBy, Record, Recorder};
use crate::body::{BodyOutcome, Ending};
use crate::fault::flag;

type Received = Box<dyn Fn() -> u64 + Send>;

/// The record of a request that is under way. Dropped before [`OpenRecord::finish`], it says that the client went away.
pub struct OpenRecord {
    /// `None` only once it was handed to the recorder.
    record: Option<Record>,
    recorder: Recorder,
    received: Option<Received>,
}

impl OpenRecord {
    pub(super) fn new(record: Record, recorder: Recorder) -> Self {
        Self { record: Some(record), recorder, received: None }
    }

    /// Changes the record.
    pub fn note(&mut self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            change(record);
        }
    }

    /// Where the number of bytes from the client is read when the request is over.
    pub fn count_received(&mut self, received: impl Fn() -> u64 + Send + 'static) {
        self.received = Some(Box::new(received));
    }

    /// The answer has been passed on, or given up.
    pub fn finish(mut self, ending: &Ending) {
        self.note(|record| {
            record.bytes_sent = ending.bytes;
            record.grpc_status = ending.grpc_status.clone().or(record.grpc_status.take());
            match &ending.outcome {
                BodyOutcome::Complete => {}
                BodyOutcome::Broken(error) => {
                    record.flag(flag::BROKEN);
                    record.error = Some(error.clone());
                    record.closed_by = ClosedBy::Upstream;
                }
                BodyOutcome::Abandoned => {
                    record.flag(flag::CLIENT);
                    record.closed_by = ClosedBy::Downstream;
                }
            }
        });
        self.hand_over();
    }

    fn hand_over(&mut self) {
        if let Some(mut record) = self.record.take() {
            if let Some(received) = &self.received {
                record.bytes_received = received();
            }
            self.recorder.request(record);
        }
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        self.note(|record| {
            record.flag(flag::CLIENT);
            record.closed_by = ClosedBy::Downstream;
        });
        self.hand_over();
    }
}

//! Punctuality: the link's thread should run at once when a packet is due.

use std::num::NonZeroU64;

use rustix::process::setpriority_process;
use rustix::thread::{gettid, set_current_timer_slack};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Above ordinary work, below the kernel's own real-time threads (which run at 50).
const FIFO_PRIORITY: u8 = 40;
const NICE: i32 = -20;

/// Raises the calling thread as far as it is permitted, and says how far.
pub(crate) fn raise() -> &'static str {
    // Timers of ordinary threads may be 50 µs late by default; those of real-time threads never are.
    if let Err(error) = set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!(%error, "timers keep their slack");
    }
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let value = ThreadPriorityValue::try_from(FIFO_PRIORITY).map(ThreadPriority::Crossplatform);
    let raised = value.map(|priority| set_thread_priority_and_policy(thread_native_id(), priority, fifo));
    if matches!(raised, Ok(Ok(()))) {
        return "SCHED_FIFO";
    }
    match setpriority_process(Some(gettid()), NICE) {
        Ok(()) => "nice -20 (SCHED_FIFO needs CAP_SYS_NICE or RLIMIT_RTPRIO)",
        Err(_) => "none (SCHED_FIFO and nice need CAP_SYS_NICE): deliveries will be late on a busy machine",
    }
}

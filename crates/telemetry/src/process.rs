//! Metrics of the process itself, read from /proc whenever somebody asks.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Clock ticks a second in /proc: 100 on every Linux that we run on (`USER_HZ` is part of the kernel's ABI).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads the process' own numbers; one that cannot be read is left out.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(bytes) = resident_bytes() {
            gauge(&mut encoder, "process_resident_memory_bytes", "Resident memory", bytes)?;
        }
        if let Some(open) = open_files() {
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", open)?;
        }
        let Some(times) = Times::read() else { return Ok(()) };
        gauge(&mut encoder, "process_start_time_seconds", "Start of the process, Unix time", times.started)?;
        let cpu = ConstCounter::new(times.cpu);
        let help = "User and system time spent";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn open_files() -> Option<f64> {
    // The listing itself holds one descriptor.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(open).ok().map(f64::from)
}

struct Times {
    /// Unix time, seconds.
    started: f64,
    /// Seconds of processor time.
    cpu: f64,
}

impl Times {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field is the name in parentheses and may itself have blanks, so count from behind it.
        let fields = stat.rsplit_once(')')?.1.split_whitespace().collect::<Vec<_>>();
        // proc(5): utime is field 14, stime 15, starttime 22; the first one here is field 3.
        let number = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let system = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let cpu = (number(14)? + number(15)?) / TICKS_PER_SECOND;
        Some(Self { started: boot + number(22)? / TICKS_PER_SECOND, cpu })
    }
}

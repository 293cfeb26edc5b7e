//! The table, for people and as JSON.
//!
//! Must never know: how it was measured.

use super::cpu::CpuUsed;
use super::load::{Load, Outcome};
use crate::program::size::rounded;
use serde::Serialize;

/// One load.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    load: &'static str,
    requests: u64,
    seconds: f64,
    iops: f64,
    mib_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    /// Processor time of this process per request; with a store, of the engine too.
    client_cpu_us_per_op: f64,
    /// Only of a server on this machine behind a Unix socket.
    server_cpu_us_per_op: Option<f64>,
}

impl Row {
    pub(super) fn new(load: &Load, outcome: &Outcome, cpu: CpuUsed) -> Row {
        let seconds = outcome.elapsed.as_secs_f64();
        let rate = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let per_op = |nanos: u64| nanos as f64 / 1e3 / outcome.requests.max(1) as f64;
        let quantile = |q| outcome.latency_nanos.value_at_quantile(q) as f64 / 1e3;
        let bytes = outcome.requests as f64 * f64::from(load.request_bytes);
        Row {
            load: load.name,
            requests: outcome.requests,
            seconds,
            iops: rate(outcome.requests as f64),
            mib_per_second: rate(bytes / f64::from(1 << 20)),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p99_9_us: quantile(0.999),
            client_cpu_us_per_op: per_op(cpu.client),
            server_cpu_us_per_op: cpu.server.map(per_op),
        }
    }
}

/// All loads.
#[derive(Debug, Serialize)]
pub(super) struct BenchReport {
    pub(super) target: String,
    pub(super) span_bytes: u64,
    /// The engine ran in this process: its time is in the client's.
    pub(super) in_process: bool,
    pub(super) wrote: bool,
    pub(super) rows: Vec<Row>,
}

impl BenchReport {
    pub(super) fn text(&self) -> String {
        let mut text = format!("{}, first {}\n", self.target, rounded(self.span_bytes));
        let client = if self.in_process { "cpu us" } else { "client us" };
        text.push_str(&format!(
            "{:24} {:>9} {:>8} {:>9} {:>9} {:>9} {client:>9} {:>9}\n",
            "load", "IOPS", "MiB/s", "p50 us", "p99 us", "p99.9 us", "server us"
        ));
        for row in &self.rows {
            let server = row.server_cpu_us_per_op.map_or("-".into(), |us| format!("{us:.1}"));
            text.push_str(&format!(
                "{:24} {:>9.0} {:>8.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {server:>9}\n",
                row.load,
                row.iops,
                row.mib_per_second,
                row.p50_us,
                row.p99_us,
                row.p99_9_us,
                row.client_cpu_us_per_op
            ));
        }
        if !self.wrote {
            text.push_str("writes were not measured: --write does, and destroys what is there\n");
        }
        text
    }
}

//! What is reported, field by field. Names are stable; units stand in the names.
//!
//! Must never know: how it is shown.

use ashlar_engine::reactor::Stats;
use ashlar_engine::store::{StoreStatus, VolumeStatus};
use ashlar_engine::units::BLOCK_SIZE_BYTES;
use ashlar_nbd_server::Counters;
use serde::{Deserialize, Serialize};

const BLOCK: u64 = BLOCK_SIZE_BYTES as u64;

/// One volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeReport {
    pub(crate) name: String,
    pub(crate) id: u64,
    pub(crate) size_bytes: u64,
    /// Bytes that take (or reserve) space; not known in a cluster.
    pub(crate) mapped_bytes: Option<u64>,
    /// Clients that have it open; not known without a server.
    pub(crate) clients: Option<u64>,
    /// In a cluster: how it is kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) policy: Option<String>,
    /// In a cluster: grows whenever somebody loses the right to write.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) epoch: Option<u64>,
    /// In a cluster: the node that may write.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) writer: Option<u64>,
}

impl VolumeReport {
    pub(crate) fn new(volume: &VolumeStatus, clients: Option<u64>) -> VolumeReport {
        VolumeReport {
            name: volume.name.clone(),
            id: volume.id.0.into(),
            size_bytes: volume.size_bytes,
            mapped_bytes: Some(volume.mapped_bytes),
            clients,
            policy: None,
            epoch: None,
            writer: None,
        }
    }
}

/// The list of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumesReport {
    pub(crate) volumes: Vec<VolumeReport>,
}

/// Room in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SpaceReport {
    /// Bytes of data it can hold.
    pub(crate) capacity_bytes: u64,
    pub(crate) data_bytes: u64,
    pub(crate) reserved_bytes: u64,
    pub(crate) free_bytes: u64,
    /// The file system under the store gives it no more room.
    pub(crate) device_full: bool,
}

/// Segments by state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentsReport {
    pub(crate) segment_bytes: u64,
    pub(crate) total: u64,
    pub(crate) unprepared: u64,
    pub(crate) free: u64,
    pub(crate) open: u64,
    pub(crate) sealed: u64,
    pub(crate) empty: u64,
}

/// Bytes moved since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct WritesReport {
    pub(crate) user_written_bytes: u64,
    pub(crate) user_read_bytes: u64,
    pub(crate) device_written_bytes: u64,
    /// Device bytes per user byte since the start; none before the first write.
    pub(crate) write_amplification: Option<f64>,
    pub(crate) batches: u64,
}

/// What went wrong since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ErrorsReport {
    /// Blocks that did not prove themselves, each time they were met.
    pub(crate) corrupt_blocks: u64,
    /// Blocks that were written anew with what another replica held.
    pub(crate) mended_blocks: u64,
    pub(crate) read_errors: u64,
    /// Why the store takes no more writes.
    pub(crate) failed: Option<String>,
}

/// The cleaner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CleanerReport {
    pub(crate) running: bool,
    pub(crate) cleaned_segments: u64,
    pub(crate) relocated_bytes: u64,
}

/// Checkpoints: what a restart begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointReport {
    pub(crate) running: bool,
    pub(crate) written: u64,
    pub(crate) durable_lsn: u64,
    pub(crate) checkpoint_lsn: u64,
}

/// Memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemoryReport {
    pub(crate) index_bytes: u64,
    /// Index bytes per block that is mapped; none while no block is.
    pub(crate) index_bytes_per_mapped_block: Option<f64>,
    /// May be dropped at any time.
    pub(crate) checksum_cache_bytes: u64,
    pub(crate) buffers_in_use_bytes: u64,
    /// Memory of the process.
    pub(crate) resident_bytes: Option<u64>,
}

/// NBD clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NbdReport {
    pub(crate) connections: u64,
    pub(crate) connections_accepted: u64,
    pub(crate) connections_refused: u64,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

/// The reactor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReactorReport {
    /// System calls of the data path.
    pub(crate) enters: u64,
    pub(crate) turns: u64,
    pub(crate) tasks_run: u64,
    pub(crate) ops_submitted: u64,
}

/// A running server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_seconds: f64,
    pub(crate) store: String,
    pub(crate) listen: Vec<String>,
    pub(crate) read_only: bool,
    pub(crate) space: SpaceReport,
    pub(crate) volumes: Vec<VolumeReport>,
    pub(crate) segments: SegmentsReport,
    pub(crate) writes: WritesReport,
    pub(crate) errors: ErrorsReport,
    pub(crate) cleaner: CleanerReport,
    pub(crate) checkpoint: CheckpointReport,
    pub(crate) memory: MemoryReport,
    pub(crate) nbd: NbdReport,
    pub(crate) reactor: ReactorReport,
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl From<&StoreStatus> for SpaceReport {
    fn from(status: &StoreStatus) -> SpaceReport {
        let used = status.data_bytes.saturating_add(status.reserved_bytes);
        SpaceReport {
            capacity_bytes: status.capacity_bytes,
            data_bytes: status.data_bytes,
            reserved_bytes: status.reserved_bytes,
            free_bytes: status.capacity_bytes.saturating_sub(used),
            device_full: status.device_full,
        }
    }
}

impl From<&StoreStatus> for SegmentsReport {
    fn from(status: &StoreStatus) -> SegmentsReport {
        let counts = status.segments;
        SegmentsReport {
            segment_bytes: status.segment_bytes,
            total: counts.total,
            unprepared: counts.unprepared,
            free: counts.free,
            open: counts.open,
            sealed: counts.sealed,
            empty: counts.empty,
        }
    }
}

impl From<&StoreStatus> for WritesReport {
    fn from(status: &StoreStatus) -> WritesReport {
        let counters = status.counters;
        WritesReport {
            user_written_bytes: counters.user_blocks_written * BLOCK,
            user_read_bytes: counters.user_blocks_read * BLOCK,
            device_written_bytes: counters.device_blocks_written * BLOCK,
            write_amplification: ratio(
                counters.device_blocks_written,
                counters.user_blocks_written,
            ),
            batches: counters.batches,
        }
    }
}

impl From<&StoreStatus> for ErrorsReport {
    fn from(status: &StoreStatus) -> ErrorsReport {
        ErrorsReport {
            corrupt_blocks: status.counters.corrupt_blocks,
            mended_blocks: status.counters.mended_blocks,
            read_errors: status.counters.read_errors,
            failed: status.failed.clone(),
        }
    }
}

impl From<&StoreStatus> for CleanerReport {
    fn from(status: &StoreStatus) -> CleanerReport {
        CleanerReport {
            running: status.cleaner_running,
            cleaned_segments: status.counters.cleaned_segments,
            relocated_bytes: status.counters.relocated_blocks * BLOCK,
        }
    }
}

impl From<&StoreStatus> for CheckpointReport {
    fn from(status: &StoreStatus) -> CheckpointReport {
        CheckpointReport {
            running: status.checkpoint_running,
            written: status.counters.checkpoints,
            durable_lsn: status.durable_lsn.0,
            checkpoint_lsn: status.checkpoint_lsn.0,
        }
    }
}

impl MemoryReport {
    pub(crate) fn new(status: &StoreStatus, buffers_in_use_bytes: u64) -> MemoryReport {
        let mapped_blocks = (status.data_bytes + status.reserved_bytes) / BLOCK;
        MemoryReport {
            index_bytes: status.index_bytes,
            index_bytes_per_mapped_block: ratio(status.index_bytes, mapped_blocks),
            checksum_cache_bytes: status.checksum_cache_bytes,
            buffers_in_use_bytes,
            resident_bytes: resident_bytes(),
        }
    }
}

/// Resident memory of this process, as the kernel counts it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

impl From<Counters> for NbdReport {
    fn from(counters: Counters) -> NbdReport {
        NbdReport {
            connections: counters.connections,
            connections_accepted: counters.connections_accepted,
            connections_refused: counters.connections_refused,
            requests: counters.requests,
            errors: counters.errors,
            read_bytes: counters.bytes_read,
            written_bytes: counters.bytes_written,
        }
    }
}

impl From<Stats> for ReactorReport {
    fn from(stats: Stats) -> ReactorReport {
        ReactorReport {
            enters: stats.enters,
            turns: stats.turns,
            tasks_run: stats.tasks_run,
            ops_submitted: stats.ops_submitted,
        }
    }
}

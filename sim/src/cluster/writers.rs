//! Who took a volume over from whom: an acknowledged write of somebody who was fenced is a broken
//! promise (I17).
//!
//! A handle is one connection that writes; all of one process of a node share its right. Times are
//! those of the volume's history.
//! Must never know: requests.

use crate::invariants::Violation;

/// One process of a node: its site, and which of its lives.
pub type Process = (usize, u64);

/// Names a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleId(usize);

#[derive(Debug)]
struct Handle {
    process: Process,
    /// Begin and end of its first acknowledged change.
    first: Option<(u64, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Writers {
    handles: Vec<Handle>,
}

impl Writers {
    /// A connection to this process.
    pub fn open(&mut self, process: Process) -> HandleId {
        self.handles.push(Handle { process, first: None });
        HandleId(self.handles.len() - 1)
    }

    /// A change was acknowledged.
    ///
    /// # Errors
    /// If somebody had taken the volume over, and was acknowledged, before it was asked for.
    pub fn acknowledged(&mut self, id: HandleId, begin: u64, end: u64) -> Result<(), Violation> {
        let HandleId(own) = id;
        let process = self.handles[own].process;
        let Some((_, since)) = self.handles[own].first else {
            self.handles[own].first = Some((begin, end));
            return Ok(());
        };
        let fenced_by = self.handles.iter().position(|other| {
            let later = other.first.is_some_and(|(from, to)| from > since && to < begin);
            later && other.process != process
        });
        match fenced_by {
            Some(other) => {
                let what = format!(
                    "handle {own} of process {process:?} wrote at {begin}..{end}, though handle \
                     {other} of {:?} had taken the volume over at {:?}",
                    self.handles[other].process, self.handles[other].first
                );
                Err(Violation::new("fencing", what))
            }
            None => Ok(()),
        }
    }

    /// Whether another process may have taken the volume over since this handle began to write.
    #[must_use]
    pub fn may_be_fenced(&self, id: HandleId) -> bool {
        let process = self.handles[id.0].process;
        self.handles[id.0..].iter().any(|other| other.process != process)
    }
}

//! Telling the control group's members how this node is: now and then, so that it is known to live,
//! and at once where a plan may wait for what has changed.
//!
//! Must never know: what is planned.

use super::Inner;
use super::report::Report;
use crate::frame;
use crate::placement::NodeId;
use crate::runtime::{Watch, WatchReceiver, WatchSender};
use crate::transport::Request;
use openraft_rt::Watch as _;
use openraft_rt::watch::{WatchReceiver as _, WatchSender as _};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// How often a node tells that it lives.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How often it looks whether there is something to tell while groups change members.
const REPORT_LOOK: Duration = Duration::from_millis(25);

/// Says that something a plan looks at has changed.
pub(super) struct News {
    count: WatchSender<u64>,
}

impl News {
    pub(super) fn new() -> News {
        News { count: Watch::channel(0).0 }
    }

    /// Something has changed.
    pub(super) fn stir(&self) {
        self.count.send_if_modified(|count| {
            *count = count.wrapping_add(1);
            true
        });
    }

    /// To wait for the next change.
    pub(super) fn watch(&self) -> WatchReceiver<u64> {
        self.count.subscribe()
    }
}

/// Tells as long as the node runs.
pub(super) async fn run(node: Rc<Inner>) {
    let mut map = node.map.watch();
    let mut said: Option<Report> = None;
    let mut said_at = node.reactor.now();
    loop {
        let (now, report) = (node.reactor.now(), node.report());
        let is_new = said.as_ref().is_none_or(|said| !said.is_like(&report));
        if is_new || now.since(said_at) >= REPORT_INTERVAL {
            node.tell_members(&report);
            said_at = now;
            said = Some(report);
        }
        if is_new {
            node.news.stir();
        }
        let due = REPORT_INTERVAL.saturating_sub(node.reactor.now().since(said_at));
        let look = if node.is_moving() { due.min(REPORT_LOOK) } else { due };
        node.reactor.within(look, map.changed()).await;
    }
}

impl Inner {
    fn tell_members(&self, report: &Report) {
        let Some(peers) = self.peers() else { return };
        let bytes = report.encode();
        let targets: BTreeSet<NodeId> = self.map_sources().into_iter().collect();
        for target in targets {
            let request = Request::new(0, super::LANE_ASK, bytes.clone());
            let post = peers.post(frame::NodeId(target.0), request, REPORT_INTERVAL);
            // It is said again in a moment.
            self.runtime.start_task(async move { drop(post.await) });
        }
    }

    /// Whether a group changes members: the next step may hang on a report.
    fn is_moving(&self) -> bool {
        let map = self.map.newest();
        map.groups().values().any(|group| group.pending.is_some() || group.learners().count() > 0)
    }
}

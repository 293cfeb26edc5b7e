//! What was asked of a volume and what it may therefore hold.
//!
//! Every request has an issue time and, if it was answered, an acknowledgement time on one logical
//! clock. A sector may show request X unless an acknowledged request that covers it was issued
//! after X was acknowledged; a request never acknowledged may land at any time until the crash, or
//! never, but whole or not at all. After a crash the verified content is the new base and all
//! requests are forgotten, so memory is bounded by one round.
//!
//! Must never know: sockets, processes, real time.

use crate::sector::Content;

/// A range of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sectors {
    /// First sector.
    pub first: u64,
    /// Number of sectors.
    pub count: u64,
}

/// What a request does to its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Stamps them.
    Write,
    /// Zeroes them, atomically.
    Zero,
    /// Zeroes them, in parts: only zeroes of whole blocks are promised to be atomic.
    ZeroInParts,
    /// May zero them or leave them: a trim that does not cover whole blocks.
    MayZero,
}

/// Names a request of the present round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(usize);

/// A moment on the logical clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

#[derive(Clone, Debug)]
struct Request {
    effect: Effect,
    sectors: Sectors,
    issued: Moment,
    acknowledged: Option<Moment>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A sector shows something older than an acknowledged request, or something never issued.
    Lost(String),
    /// A sector holds bytes that do not belong there.
    Foreign(String),
    /// A request without acknowledgement is there in part.
    Torn(String),
}

/// Everything asked of one volume since its content was last verified.
#[derive(Debug)]
pub struct History {
    clock: u64,
    /// Sequence number of the round's first request.
    sequence_base: u64,
    requests: Vec<Request>,
    /// Requests by sector, in issue order.
    by_sector: Vec<Vec<u32>>,
    /// Verified content: 0 for zeroes, else the writing request's sequence number.
    base: Vec<u64>,
}

/// Where a sector's present content may come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Base,
    Request(RequestId),
}

impl History {
    /// A volume of `sectors` zero sectors.
    pub fn new(sectors: u64) -> History {
        History {
            clock: 0,
            sequence_base: 1,
            requests: Vec::new(),
            by_sector: vec![Vec::new(); sectors as usize],
            base: vec![0; sectors as usize],
        }
    }

    /// Sectors of the volume.
    pub fn sectors(&self) -> u64 {
        self.base.len() as u64
    }

    /// The present moment; later calls give later moments.
    pub fn now(&mut self) -> Moment {
        self.clock += 1;
        Moment(self.clock)
    }

    /// Records a request about to be sent; gives its name and its sequence number.
    pub fn issue(&mut self, effect: Effect, sectors: Sectors) -> (RequestId, u64) {
        let issued = self.now();
        let index = self.requests.len();
        for sector in sectors.first..sectors.first + sectors.count {
            self.by_sector[sector as usize].push(index as u32);
        }
        self.requests.push(Request { effect, sectors, issued, acknowledged: None });
        (RequestId(index), self.sequence_base + index as u64)
    }

    /// Records a successful reply.
    pub fn acknowledge(&mut self, id: RequestId) {
        let now = self.now();
        let before = self.requests[id.0].acknowledged.replace(now);
        assert!(before.is_none(), "the server answered one request twice");
    }

    /// Requests acknowledged in this round.
    pub fn acknowledged(&self) -> u64 {
        self.requests.iter().filter(|r| r.acknowledged.is_some()).count() as u64
    }

    /// Judges a sector that was read by a request issued at `asked`.
    pub fn judge(&self, sector: u64, content: &Content, asked: Moment) -> Option<Violation> {
        if let Content::Foreign(what) = content {
            return Some(Violation::Foreign(format!("sector {sector} holds {what}")));
        }
        if !self.sources(sector, content, asked).is_empty() {
            return None;
        }
        let newest = self.newest_settled(sector, asked);
        Some(Violation::Lost(format!(
            "sector {sector} shows {content:?}, but request {newest:?} was acknowledged after that"
        )))
    }

    /// Judges every sector after a crash and makes the content the new base.
    pub fn settle(&mut self, contents: &[Content]) -> Vec<Violation> {
        assert_eq!(contents.len(), self.base.len(), "the whole volume is read");
        let now = self.now();
        let each = contents.iter().enumerate();
        let mut violations: Vec<_> =
            each.filter_map(|(sector, content)| self.judge(sector as u64, content, now)).collect();
        for index in 0..self.requests.len() {
            violations.extend(self.judge_atomicity(RequestId(index), contents, now));
        }
        for (sector, content) in contents.iter().enumerate() {
            if let Content::Written(stamp) = content {
                self.base[sector] = stamp.sequence;
            } else {
                self.base[sector] = 0;
            }
            self.by_sector[sector].clear();
        }
        self.sequence_base += self.requests.len() as u64;
        self.requests.clear();
        violations
    }

    fn sequence(&self, id: RequestId) -> u64 {
        self.sequence_base + id.0 as u64
    }

    /// Issue time of the newest request that certainly holds in `sector` for a reader asking at
    /// `asked`.
    fn newest_settled(&self, sector: u64, asked: Moment) -> Option<Moment> {
        let requests = self.by_sector[sector as usize].iter().map(|i| &self.requests[*i as usize]);
        requests
            .filter(|r| r.effect != Effect::MayZero)
            .filter(|r| r.acknowledged.is_some_and(|at| at < asked))
            .map(|r| r.issued)
            .max()
    }

    /// All that may explain `content`.
    fn sources(&self, sector: u64, content: &Content, asked: Moment) -> Vec<Source> {
        let newest = self.newest_settled(sector, asked);
        let shown = match content {
            Content::Zero => 0,
            Content::Written(stamp) => stamp.sequence,
            Content::Foreign(_) => return Vec::new(),
        };
        let mut sources = Vec::new();
        if newest.is_none() && self.base[sector as usize] == shown {
            sources.push(Source::Base);
        }
        for index in &self.by_sector[sector as usize] {
            let id = RequestId(*index as usize);
            let request = &self.requests[id.0];
            let matches = match request.effect {
                Effect::Write => shown == self.sequence(id),
                Effect::Zero | Effect::ZeroInParts | Effect::MayZero => shown == 0,
            };
            let overtaken = match (request.acknowledged, newest) {
                (Some(acknowledged), Some(newest)) => acknowledged < newest,
                _ => false,
            };
            if matches && !overtaken {
                sources.push(Source::Request(id));
            }
        }
        sources
    }

    /// Torn: one sector can only be the request's work, another only something from before it.
    fn judge_atomicity(
        &self,
        id: RequestId,
        contents: &[Content],
        now: Moment,
    ) -> Option<Violation> {
        let request = &self.requests[id.0];
        let is_atomic = matches!(request.effect, Effect::Write | Effect::Zero);
        if request.acknowledged.is_some() || !is_atomic {
            return None;
        }
        let (mut applied, mut missing) = (None, None);
        let Sectors { first, count } = request.sectors;
        for sector in first..first + count {
            let sources = self.sources(sector, &contents[sector as usize], now);
            if sources == [Source::Request(id)] {
                applied = Some(sector);
            } else if !sources.is_empty() && sources.iter().all(|s| self.precedes(*s, request)) {
                missing = Some(sector);
            }
        }
        let (applied, missing) = (applied?, missing?);
        Some(Violation::Torn(format!(
            "request {} of {:?} over {:?} is there in sector {applied} and not in {missing}",
            self.sequence(id),
            request.effect,
            request.sectors
        )))
    }

    fn precedes(&self, source: Source, request: &Request) -> bool {
        match source {
            Source::Base => true,
            Source::Request(id) => {
                self.requests[id.0].acknowledged.is_some_and(|at| at < request.issued)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sector::Stamp;

    const ALL: Sectors = Sectors { first: 0, count: 2 };

    fn written(sequence: u64) -> Content {
        Content::Written(Stamp { writer: 0, sequence })
    }

    #[test]
    fn acknowledged_writes_must_stay() {
        let mut history = History::new(2);
        let (first, one) = history.issue(Effect::Write, ALL);
        history.acknowledge(first);
        let (second, two) = history.issue(Effect::Write, ALL);
        history.acknowledge(second);
        let now = history.now();
        assert_eq!(history.judge(0, &written(two), now), None);
        assert!(matches!(history.judge(0, &written(one), now), Some(Violation::Lost(_))));
        assert!(matches!(history.judge(0, &Content::Zero, now), Some(Violation::Lost(_))));
        assert!(matches!(history.judge(0, &written(99), now), Some(Violation::Lost(_))));
        assert_eq!(history.settle(&[written(two), written(one)]).len(), 1);
    }

    #[test]
    fn concurrent_writes_may_land_in_any_order() {
        let mut history = History::new(2);
        let (first, one) = history.issue(Effect::Write, ALL);
        let (second, two) = history.issue(Effect::Write, ALL);
        history.acknowledge(second);
        history.acknowledge(first);
        assert_eq!(history.settle(&[written(one), written(two)]), vec![]);
        assert_eq!(history.settle(&[written(one), written(two)]), vec![]);
        assert_eq!(history.settle(&[written(two), written(two)]).len(), 1);
    }

    #[test]
    fn unacknowledged_writes_are_whole_or_absent() {
        for (contents, torn) in [([1, 1], 0), ([0, 0], 0), ([1, 0], 1)] {
            let mut history = History::new(2);
            history.issue(Effect::Write, ALL);
            let contents = contents.map(|s| if s == 0 { Content::Zero } else { written(s) });
            assert_eq!(history.settle(&contents).len(), torn);
        }
    }

    #[test]
    fn reads_see_what_was_acknowledged_before_they_were_asked() {
        let mut history = History::new(2);
        let early = history.now();
        let (first, _) = history.issue(Effect::Write, ALL);
        history.acknowledge(first);
        let late = history.now();
        assert_eq!(history.judge(0, &Content::Zero, early), None);
        assert!(history.judge(0, &Content::Zero, late).is_some());
    }

    #[test]
    fn trims_of_part_blocks_bind_nobody() {
        let mut history = History::new(2);
        let (first, one) = history.issue(Effect::Write, ALL);
        history.acknowledge(first);
        let (trim, _) = history.issue(Effect::MayZero, ALL);
        history.acknowledge(trim);
        assert_eq!(history.settle(&[written(one), Content::Zero]), vec![]);
    }
}

//! The way from one member of a group to another.
//!
//! Must never know: what entries mean.

use super::codec::{CodecError, Message, decode_appended, decode_transferred, decode_voted};
use super::held::held;
use crate::frame::NodeId;
use crate::log_store::LogStore;
use crate::snapshot::Source;
use crate::state_machine::Manifest;
use crate::transport::{self, Call, ErrorKind, Peers, Reply, Request};
use crate::types::{CommittedLeaderId, Config, LogId, Member, Vote};
use ashlar_engine::buffer::Buffer;
use futures_util::future::{Either, select};
use futures_util::stream::{Stream, StreamExt, unfold};
use openraft::LogIdOptionExt;
use openraft::base::{BoxFuture, BoxStream};
use openraft::entry::RaftEntry;
use openraft::error::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use std::fmt;
use std::pin::pin;
use std::time::Duration;

/// Lane of entries.
const LANE_APPEND: u32 = 1;
/// Lane of heartbeats and votes: they do not wait behind entries.
const LANE_HEARTBEAT: u32 = 2;
/// Lane of snapshots.
const LANE_SNAPSHOT: u32 = 3;

/// Appends of a link that are under way: enough to keep a network and a disk busy together. Their
/// bytes are bounded by the transport.
const APPENDS_MAX: usize = 16;
/// Shortest time-out of an append: it waits for the other's disk, which may be busy.
const APPEND_TIMEOUT_MIN: Duration = Duration::from_secs(3);
/// Pauses between attempts at a member that is not reached.
const BACK_OFF: [u64; 4] = [50, 100, 200, 400];

/// Makes links of one member of a group to the others.
#[derive(Clone)]
pub struct Network {
    pub(super) peers: Peers,
    group: u32,
    own: u64,
    log: LogStore,
    pub(super) source: Source,
}

impl Network {
    /// Links of the member in the store `own`. `source`: its blocks.
    #[must_use]
    pub fn new(peers: Peers, group: u32, own: u64, log: LogStore, source: Source) -> Network {
        Network { peers, group, own, log, source }
    }

    /// Its member's blocks.
    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The way to a member for a snapshot.
    pub(crate) fn snapshot_link(&self, target: u64, member: &Member) -> Link {
        self.link(target, member, LANE_SNAPSHOT)
    }

    fn link(&self, target: u64, member: &Member, lane: u32) -> Link {
        Link { network: self.clone(), target, node: NodeId(member.node()), lane }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({}, {})", self.group, self.own)
    }
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, member: &Member) -> Link {
        self.link(target, member, LANE_APPEND)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Link {
        self.link(target, member, LANE_HEARTBEAT)
    }

    async fn new_snapshot_client(&mut self, target: u64, member: &Member) -> Link {
        self.link(target, member, LANE_SNAPSHOT)
    }
}

/// The way to one member.
#[derive(Clone, Debug)]
pub struct Link {
    pub(super) network: Network,
    /// Its store.
    pub(super) target: u64,
    node: NodeId,
    lane: u32,
}

type RpcResult<T> = Result<T, RPCError<Config>>;

impl Link {
    /// Makes a call. It is made when this returns.
    fn call(&self, message: &Message, timeout: Duration) -> Result<Call, CodecError> {
        let encoded = message.encode(self.target, self.network.peers.pool())?;
        Ok(self.call_encoded(encoded, timeout))
    }

    /// As [`Link::call`].
    pub(super) fn call_encoded(
        &self,
        (head, payload): (Vec<u8>, Vec<Buffer>),
        timeout: Duration,
    ) -> Call {
        let mut request = Request::new(self.network.group, self.lane, head);
        request.payload = payload;
        self.network.peers.call(self.node, request, timeout)
    }

    /// The answer's head.
    async fn answer(
        &self,
        call: Result<Call, CodecError>,
        action: RPCTypes,
        timeout: Duration,
    ) -> RpcResult<Vec<u8>> {
        let call = call.map_err(garbled)?;
        let answer: transport::Result<Reply> = call.await;
        answer.map(|reply| reply.head).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => {
                let (id, target) = (self.network.own, self.target);
                RPCError::Timeout(Timeout { action, id, target, timeout })
            }
            // It was not handed over, or the other one has no such member (yet).
            ErrorKind::Unreachable | ErrorKind::Busy | ErrorKind::Refused => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
            ErrorKind::Closed | ErrorKind::TooLarge => RPCError::Network(NetworkError::new(&error)),
        })
    }

    async fn ask(
        &self,
        message: Message,
        action: RPCTypes,
        option: &RPCOption,
    ) -> RpcResult<Vec<u8>> {
        let timeout = option.soft_ttl();
        self.answer(self.call(&message, timeout), action, timeout).await
    }

    /// An append with all that is known to be committed. A new leader says nothing of that until
    /// an entry of its own is, which a member may have no room for before it has applied others.
    fn told(&self, mut request: AppendEntriesRequest<Config>) -> AppendEntriesRequest<Config> {
        if request.leader_commit.is_none() {
            request.leader_commit = self.network.log.applied();
        }
        request
    }

    /// Sends an append now; its answer.
    fn append(
        &self,
        request: AppendEntriesRequest<Config>,
        timeout: Duration,
    ) -> impl Future<Output = RpcResult<StreamAppendResult<Config>>> + use<> {
        let before = request.prev_log_id;
        let last = request.entries.last().map(RaftEntry::log_id).or(before);
        let call = self.call(&Message::Append(self.told(request)), timeout);
        let link = self.clone();
        async move {
            let head = link.answer(call, RPCTypes::AppendEntries, timeout).await?;
            appended(decode_appended(&head).map_err(garbled)?, before, last)
        }
    }

    /// Whether nothing can come after a request because that is given up: openraft, which sends
    /// requests without entries then, must look again what the other one needs.
    fn check_next(&self, request: &AppendEntriesRequest<Config>) -> RpcResult<()> {
        let next = request.prev_log_id.next_index();
        if !request.entries.is_empty() || self.network.log.begin(next) <= next {
            return Ok(());
        }
        let why = format!("entry {next} is given up");
        Err(RPCError::Unreachable(Unreachable::from_string(why)))
    }
}

/// What came of an append after the entry `before`, up to `last`.
fn appended(
    answer: AppendEntriesResponse<Config>,
    before: Option<LogId>,
    last: Option<LogId>,
) -> RpcResult<StreamAppendResult<Config>> {
    Ok(match (answer, before) {
        (AppendEntriesResponse::Success, _) => Ok(last),
        (AppendEntriesResponse::PartialSuccess(upto), _) => Ok(upto),
        (AppendEntriesResponse::HigherVote(vote), _) => Err(StreamAppendError::HigherVote(vote)),
        (AppendEntriesResponse::Conflict, Some(before)) => Err(StreamAppendError::Conflict(before)),
        (AppendEntriesResponse::Conflict, None) => {
            let why = "a member finds a conflict before the first entry";
            return Err(RPCError::Network(NetworkError::from_string(why)));
        }
    })
}

fn garbled(error: CodecError) -> RPCError<Config> {
    RPCError::Network(NetworkError::from_string(error))
}

impl RaftNetworkV2<Config> for Link {
    type SnapshotData = Manifest;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<Config>> {
        let message = Message::Append(self.told(rpc));
        let head = self.ask(message, RPCTypes::AppendEntries, &option).await?;
        decode_appended(&head).map_err(garbled)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<Config>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + Unpin + 'static,
    {
        let timeout = option.soft_ttl().max(APPEND_TIMEOUT_MIN);
        let link = self.clone();
        let last = |request: &AppendEntriesRequest<Config>| {
            request.entries.last().map(RaftEntry::log_id).or(request.prev_log_id)
        };
        let input = held(input, self.network.peers.reactor().clone());
        // A heartbeat is a stream of one request, which nothing has to come after.
        let calls = input.enumerate().map(move |(position, request)| {
            let wanted = last(&request);
            let checked = if position > 0 { link.check_next(&request) } else { Ok(()) };
            let answer = checked.map(|()| link.append(request, timeout));
            async move {
                match answer {
                    Ok(answer) => (wanted, answer.await),
                    Err(error) => (wanted, Err(error)),
                }
            }
        });
        // In order, and nothing after the first that did not do all.
        let answers = Box::pin(calls.buffered(APPENDS_MAX));
        let answers = unfold(Some(answers), |answers| async move {
            let mut answers = answers?;
            let (wanted, answer) = answers.next().await?;
            let whole = matches!(&answer, Ok(Ok(upto)) if *upto == wanted);
            Some((answer, whole.then_some(answers)))
        });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        Box::pin(std::future::ready(Ok(answers)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<Config>> {
        let head = self.ask(Message::Vote(rpc), RPCTypes::Vote, &option).await?;
        decode_voted(&head).map_err(garbled)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<Config>> {
        let head = self.ask(Message::PreVote(rpc), RPCTypes::Vote, &option).await?;
        decode_voted(&head).map_err(garbled)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, u64, Member, Manifest>,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let (sending, cancel) = (pin!(self.send_snapshot(vote, snapshot)), pin!(cancel));
        match select(cancel, sending).await {
            Either::Left((closed, _)) => Err(StreamingError::Closed(closed)),
            Either::Right((sent, _)) => sent.map(SnapshotResponse::new),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<Config>> {
        let head = self.ask(Message::Transfer(req), RPCTypes::TransferLeader, &option).await?;
        decode_transferred(&head).map_err(garbled)
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACK_OFF[BACK_OFF.len() - 1];
        let pauses = BACK_OFF.into_iter().chain(std::iter::repeat(last));
        Some(Backoff::new(pauses.map(Duration::from_millis)))
    }
}

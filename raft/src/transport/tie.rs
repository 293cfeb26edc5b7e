//! Which of two connections between two nodes stays. Both sides decide alike, without asking.
//!
//! Both may call at once. A node that waits for the answer to its own hello turns the other's away
//! if its own number is the smaller, and gives its own up otherwise: one of the two stays. A node
//! that has a connection and is called again must know whether the other has lost it, or has sent
//! this hello before it had it: the hello's attempt number says so.
//! Must never know: sockets, time.

use crate::frame::{Hello, NodeId, Refusal};

/// Where a node stands with a peer that says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// No connection, and no hello under way.
    Apart,
    /// Its own hello is not answered yet.
    Greeting,
    /// They are connected, since the peer's hello with these numbers.
    Connected { incarnation: u64, attempt: u64 },
}

/// Whether the connection on which the peer said `hello` is to be taken. It replaces any other.
///
/// `newest` is the highest incarnation of the peer that was seen.
pub(super) fn judge(
    own: NodeId,
    standing: Standing,
    newest: u64,
    hello: &Hello,
) -> Result<(), Refusal> {
    let their = &hello.identity;
    if their.incarnation < newest {
        return Err(Refusal::OlderLife { expected: newest, found: their.incarnation });
    }
    let take = match standing {
        Standing::Apart => true,
        Standing::Greeting => their.node < own,
        Standing::Connected { incarnation, attempt } => {
            (their.incarnation, hello.attempt) > (incarnation, attempt)
        }
    };
    if take { Ok(()) } else { Err(Refusal::Duplicate) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{ClusterId, Identity, Versions};

    fn hello(node: u64, incarnation: u64, attempt: u64) -> Hello {
        let (node, cluster) = (NodeId(node), ClusterId([1; 16]));
        let identity = Identity { cluster, node, incarnation, versions: Versions::OURS };
        Hello { identity, wanted: None, attempt }
    }

    #[test]
    fn of_two_that_call_at_once_one_is_taken() {
        for (one, two) in [(1, 2), (2, 1)] {
            let taken = [(one, two), (two, one)]
                .map(|(own, their)| judge(NodeId(own), Standing::Greeting, 1, &hello(their, 1, 5)));
            assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 1, "{taken:?}");
            let smaller_called = judge(NodeId(2), Standing::Greeting, 1, &hello(1, 1, 5));
            assert_eq!(smaller_called, Ok(()));
        }
    }

    #[test]
    fn a_hello_from_before_does_not_replace_what_came_after() {
        let connected = Standing::Connected { incarnation: 3, attempt: 7 };
        let judge = |hello| judge(NodeId(1), connected, 3, &hello);
        assert_eq!(judge(hello(2, 3, 6)), Err(Refusal::Duplicate));
        assert_eq!(judge(hello(2, 3, 7)), Err(Refusal::Duplicate));
        assert_eq!(judge(hello(2, 3, 8)), Ok(()), "it has lost the connection");
        assert_eq!(judge(hello(2, 4, 1)), Ok(()), "it was started again");
        let (expected, found) = (3, 2);
        assert_eq!(judge(hello(2, 2, 99)), Err(Refusal::OlderLife { expected, found }));
    }

    #[test]
    fn who_is_alone_takes_anybody_but_the_dead() {
        assert_eq!(judge(NodeId(1), Standing::Apart, 3, &hello(2, 3, 0)), Ok(()));
        let (expected, found) = (3, 2);
        let refused = judge(NodeId(1), Standing::Apart, 3, &hello(2, 2, 9));
        assert_eq!(refused, Err(Refusal::OlderLife { expected, found }));
    }
}

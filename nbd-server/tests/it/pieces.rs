//! Goal: a request that is carried out in pieces is one request to its client.
//! Method: an export that holds some of the pieces back.

use crate::client::{Client, READ, Style, WRITE};
use crate::harness::{FULL, Gate, HeldExports, TestServer};
use ashlar_nbd_server::ServerOptions;

#[test]
fn a_long_write_is_answered_when_all_of_it_is_done() {
    let gate = Gate::default();
    let held = gate.clone();
    let server =
        TestServer::with(ServerOptions::default(), move |reactor| HeldExports::new(reactor, held));
    let mut client = Client::open(&server.socket, "vm0", Style::Simple);
    // The first of its two pieces is held, the second is not.
    let slow = client.start((WRITE, 0), FULL + 8192, 2 << 20, &vec![9; 2 << 20]);
    gate.wait_for(1);
    let fast = client.start((READ, 0), 0, 1, &[]);
    assert_eq!(client.reply().cookie, fast);
    gate.open();
    assert_eq!(client.reply().cookie, slow);
    assert_eq!(client.read(FULL + 8192, 2), Ok(vec![9; 2]));
}

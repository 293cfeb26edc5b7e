//! A guest in QEMU, with a volume of the cluster as its disk.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::server::tied_command;

/// The program that runs the guest.
pub const QEMU: &str = "qemu-system-x86_64";
/// Longest time for anything that is asked of a guest.
const GUEST_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What `guest.s` is assembled to, without the zeroes behind it.
const CODE: [u8; 147] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x70, 0xea, 0x10, 0x7c, 0x00, 0x00,
    0x88, 0x16, 0xa4, 0x7c, 0x66, 0xff, 0x06, 0xa0, 0x7c, 0x66, 0xa1, 0xa0, 0x7c, 0xbf, 0x00, 0x80,
    0xb9, 0x80, 0x00, 0xfc, 0x66, 0xf3, 0xab, 0x66, 0xa1, 0xa0, 0x7c, 0xc7, 0x06, 0x94, 0x7c, 0x00,
    0x80, 0xb5, 0x43, 0xe8, 0x33, 0x00, 0x66, 0xa1, 0xa0, 0x7c, 0x66, 0x48, 0x74, 0x1d, 0x66, 0x50,
    0xc7, 0x06, 0x94, 0x7c, 0x00, 0x82, 0xb5, 0x42, 0xe8, 0x1e, 0x00, 0x66, 0x58, 0x66, 0x3b, 0x06,
    0x00, 0x82, 0x75, 0x31, 0x66, 0x3b, 0x06, 0xfc, 0x83, 0x75, 0x2a, 0xf6, 0x06, 0xa0, 0x7c, 0x0f,
    0x75, 0xb2, 0xb0, 0x2e, 0xe8, 0x19, 0x00, 0xeb, 0xab, 0x83, 0xe0, 0x0f, 0x40, 0xa3, 0x98, 0x7c,
    0x89, 0xc8, 0x30, 0xc0, 0x8a, 0x16, 0xa4, 0x7c, 0xbe, 0x90, 0x7c, 0xcd, 0x13, 0x72, 0x06, 0xc3,
    0xba, 0xf8, 0x03, 0xee, 0xc3, 0xb0, 0x58, 0xe8, 0xf6, 0xff, 0xf4, 0xeb, 0xfd, 0x8d, 0x74, 0x00,
    0x10, 0x00, 0x01,
];

/// The first sector of the guest's disk: it boots from it.
#[must_use]
pub fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A running QEMU.
pub(super) struct Guest {
    _process: Process,
    serial: PathBuf,
    control: BufReader<UnixStream>,
}

impl Guest {
    /// Starts one whose disk is the NBD export at a socket. `incoming`: it waits there for another
    /// one's state instead of booting. Files beside `name`.
    pub(super) fn start(
        name: &Path,
        socket: &Path,
        export: &str,
        incoming: Option<&str>,
    ) -> Result<Guest> {
        let (serial, control) = (name.with_extension("serial"), name.with_extension("qmp"));
        let mut command = tied_command(Path::new(QEMU));
        command.args(["-accel", "kvm", "-accel", "tcg", "-m", "32", "-nodefaults"]);
        command.args(["-display", "none", "-device", "virtio-blk-pci,drive=disk,bootindex=0"]);
        command.arg("-blockdev").arg(format!(
            "driver=nbd,node-name=disk,server.type=unix,server.path={},export={export},\
             cache.direct=on",
            socket.display()
        ));
        command.arg("-serial").arg(format!("file:{}", serial.display()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", control.display()));
        if let Some(uri) = incoming {
            command.args(["-incoming", uri]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        let process = Process(process);
        let control = BufReader::new(connect(&control)?);
        let mut guest = Guest { _process: process, serial, control };
        guest.line()?; // It greets.
        guest.ask("qmp_capabilities", json!({}))?;
        Ok(guest)
    }

    /// Sends a command; what it returns.
    pub(super) fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        let sent = writeln!(self.control.get_mut(), "{text}");
        sent.map_err(|e| format!("QEMU does not listen: {e}"))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(format!("QEMU refuses {command}: {error}"));
            }
            // Events come between.
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self.control.read_line(&mut line);
        read.map_err(|e| format!("QEMU says nothing: {e}"))?;
        serde_json::from_str(&line).map_err(|e| format!("QEMU says {line:?}: {e}"))
    }

    /// How often it has said that it wrote 16 sectors more.
    pub(super) fn laps(&self) -> Result<usize> {
        let said = std::fs::read(&self.serial);
        let said = said.map_err(|e| format!("the guest has no serial port: {e}"))?;
        match said.contains(&b'X') {
            true => Err("the guest got an error, or read something else than it wrote".into()),
            false => Ok(said.len()),
        }
    }

    /// Waits until it has said so as often.
    pub(super) fn await_laps(&self, wanted: usize) -> Result<()> {
        let started = Instant::now();
        while self.laps()? < wanted {
            if started.elapsed() > GUEST_MAX {
                let laps = self.laps()?;
                return Err(format!("the guest wrote {laps} times 16 sectors in {GUEST_MAX:?}"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Sends its state to one that waits there; how long neither ran.
    pub(super) fn migrate(&mut self, uri: &str) -> Result<Duration> {
        self.ask("migrate", json!({ "uri": uri }))?;
        let started = Instant::now();
        loop {
            let seen = self.ask("query-migrate", json!({}))?;
            match seen["status"].as_str() {
                Some("completed") => {
                    let millis = seen["downtime"].as_u64();
                    let millis = millis.ok_or_else(|| format!("no downtime is told: {seen}"))?;
                    return Ok(Duration::from_millis(millis));
                }
                Some("failed" | "cancelled") => {
                    return Err(format!("the migration failed: {seen}"));
                }
                _ if started.elapsed() > GUEST_MAX => {
                    return Err(format!("no migration in {GUEST_MAX:?}: {seen}"));
                }
                _ => std::thread::sleep(LOOK_INTERVAL),
            }
        }
    }
}

/// Killed on drop: what the guest wrote was acknowledged, or is not judged.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn connect(path: &Path) -> Result<UnixStream> {
    let started = Instant::now();
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                let bounded = stream.set_read_timeout(Some(GUEST_MAX));
                return bounded.map(|()| stream).map_err(|e| format!("cannot use a socket: {e}"));
            }
            Err(error) if started.elapsed() > GUEST_MAX => {
                return Err(format!("QEMU does not answer at {}: {error}", path.display()));
            }
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

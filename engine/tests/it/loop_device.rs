//! Goal: a store lives on a block device as it does in a file. Method: a loop device.

use crate::reactor::Scratch;
use ashlar_engine::{ErrorKind, StoreOptions, blocking::Store};
use std::path::Path;
use std::process::Command;

/// A loop device over a file, detached when dropped.
struct LoopDevice(String);

impl LoopDevice {
    /// `None`, with a visible line, where loop devices cannot be made.
    fn attach(file: &Path) -> Option<LoopDevice> {
        let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let name = made.ok().filter(|output| output.status.success());
        let name = name.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        if name.is_none() {
            let required = std::env::var("ASHLAR_REQUIRE_TOOLS").is_ok_and(|value| value == "1");
            assert!(!required, "loop devices are required but cannot be made");
            println!("skipped: a store on a block device needs losetup and root");
        }
        name.map(LoopDevice)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup").args(["--detach", &self.0]).status();
        assert!(detached.is_ok_and(|status| status.success()), "{} stays attached", self.0);
    }
}

#[test]
fn a_store_on_a_block_device() {
    let scratch = Scratch::new();
    let file = scratch.file("disk");
    let made = std::fs::File::create(&file).and_then(|file| file.set_len(200 << 20));
    made.expect("a file for the loop device");
    let Some(device) = LoopDevice::attach(&file) else { return };
    let missing = Store::open(StoreOptions::new(&device.0)).expect_err("there is no store yet");
    assert!(missing.to_string().contains("not an Ashlar store"), "{missing}");
    let store = Store::open(StoreOptions::new(&device.0).create(200 << 20)).expect("makes one");
    let volume = store.create_volume("vm0", 100 << 20).expect("creates");
    let data: Vec<u8> = (0..5_000_000u32).map(|i| (i / 7) as u8).collect();
    volume.write(12_345, &data).expect("writes");
    let busy = Store::open(StoreOptions::new(&device.0)).expect_err("it is in use");
    assert_eq!(busy.kind(), ErrorKind::Busy);
    store.close().expect("closes");
    let store = Store::open(StoreOptions::new(&device.0)).expect("reopens");
    let volume = store.volume("vm0").expect("there");
    assert_eq!(volume.read(12_345, data.len()).expect("reads"), data);
    store.close().expect("closes");
}

//! PostgreSQL on ext4 on a volume: what it committed is there after the server was killed.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::disk::{Disk, PROGRAMS, exclusive};
use crate::tools::{Place, has, may_mount, run};

const VOLUME_BYTES: u64 = 768 << 20;
/// Single-row transactions acknowledged before the kill, beside pgbench's load.
const INSERTS: u64 = 300;

/// One database cluster.
struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
}

impl Postgres {
    /// Debian keeps the server's programs beside its libraries, one folder a version.
    fn programs() -> Option<PathBuf> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
        let mut folders: Vec<_> = versions.flatten().map(|v| v.path().join("bin")).collect();
        folders.sort();
        folders.into_iter().rfind(|folder| folder.join("initdb").exists())
    }

    /// PostgreSQL refuses to be root: its programs run as the user `postgres`.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", "timeout", "-k", "5", "120"]);
        command.arg(self.programs.join(program)).current_dir("/");
        command.env("PGHOST", &self.sockets).env("PGDATABASE", "postgres").env("LC_ALL", "C");
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let log = std::fs::read_to_string(self.sockets.join("log")).unwrap_or_default();
        assert!(output.status.success(), "{program} {arguments:?}\n{out}\n{err}\n{log}");
        out.into_owned()
    }

    fn query(&self, sql: &str) -> String {
        self.run("psql", &["-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql]).trim().to_owned()
    }

    fn data(&self) -> &str {
        self.data.to_str().unwrap()
    }

    fn start(&self) {
        let options = format!("-k {} -c listen_addresses=''", self.sockets.display());
        let log = self.sockets.join("log");
        let log = log.to_str().unwrap();
        self.run("pg_ctl", &["-w", "-s", "-D", self.data(), "-l", log, "-o", &options, "start"]);
    }

    fn stop(&self, mode: &str) -> bool {
        let arguments = ["-w", "-s", "-D", self.data(), "-m", mode, "stop"];
        self.command("pg_ctl").args(arguments).output().unwrap().status.success()
    }
}

/// The cluster must not outlive its test, or the disk below it cannot be detached.
impl Drop for Postgres {
    fn drop(&mut self) {
        if self.data.join("postmaster.pid").exists() {
            self.stop("immediate");
        }
    }
}

#[test]
fn postgres_keeps_what_it_committed() {
    let test = "postgres_keeps_what_it_committed";
    let programs = [&PROGRAMS[..], &["mkfs.ext4", "e2fsck", "runuser", "chown"]].concat();
    let initdb = Postgres::programs().map_or("initdb".into(), |folder| folder.join("initdb"));
    let programs = [&programs[..], &[initdb.to_str().unwrap()]].concat();
    if !has(test, &programs) || !may_mount(test) {
        return;
    }
    let _turn = exclusive();
    let place = Place::new("pg", VOLUME_BYTES);
    let server = place.serve();
    let uri = server.uri();
    let mut disk = Disk::attach(&uri, place.directory.path());
    run("mkfs.ext4", &["-q", "-F", disk.device()]);
    let postgres = prepare(&mut disk, &place);
    let acknowledged = load_until_killed(&postgres, server);
    // The device under it is gone, so an orderly stop cannot be asked for.
    postgres.stop("immediate");
    drop(disk);

    let _server = place.serve();
    let mut disk = Disk::attach(&uri, place.directory.path());
    disk.mount();
    // Its process may stay a zombie where nobody reaps orphans, and would then look alive.
    std::fs::remove_file(postgres.data.join("postmaster.pid")).unwrap();
    postgres.start();
    let found: u64 = postgres.query("select count(*) from acknowledged").parse().unwrap();
    assert!(found >= acknowledged, "{acknowledged} inserts were acknowledged, {found} are there");
    check_balances(&postgres);
    assert!(postgres.stop("fast"));
    postgres.run("pg_checksums", &["--check", "-D", postgres.data()]);
    disk.unmount();
    run("e2fsck", &["-f", "-n", disk.device()]);
}

fn prepare(disk: &mut Disk, place: &Place) -> Postgres {
    let point = disk.mount();
    let sockets = place.directory.join("pg");
    std::fs::create_dir(&sockets).unwrap();
    let data = point.join("data");
    std::fs::create_dir(&data).unwrap();
    for folder in [&data, &sockets] {
        run("chown", &["postgres:".as_ref(), folder.as_os_str()]);
    }
    let programs = Postgres::programs().unwrap();
    let postgres = Postgres { programs, data, sockets };
    postgres.run("initdb", &["-D", postgres.data(), "--data-checksums", "-A", "trust"]);
    postgres.start();
    postgres.run("pgbench", &["-i", "-q", "-s", "2"]);
    postgres.query("create table acknowledged (n bigint primary key)");
    postgres
}

/// pgbench in the background, single inserts in front; SIGKILL for the server after the last one.
fn load_until_killed(postgres: &Postgres, server: ashlar_jepsen::server::Server) -> u64 {
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).spawn().unwrap()
    };
    let mut bench = quiet(postgres.command("pgbench").args(["-c", "4", "-T", "60"]));
    let mut client = postgres.command("psql");
    client.args(["-qAt"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = client.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    let mut answers = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    for number in 0..INSERTS {
        writeln!(input, "insert into acknowledged values ({number}) returning n;").unwrap();
        match answers.next() {
            Some(Ok(answer)) if answer == number.to_string() => acknowledged += 1,
            other => panic!("insert {number}: {other:?}"),
        }
    }
    server.kill().unwrap();
    drop(input);
    let _ = client.wait();
    // Its connections break when PostgreSQL does; it must not wait out its minute.
    postgres.stop("immediate");
    let _ = bench.wait();
    acknowledged
}

/// pgbench moves money: every sum over its tables must be the same.
fn check_balances(postgres: &Postgres) {
    let sum = |table: &str, column: &str| {
        postgres.query(&format!("select coalesce(sum({column}), 0) from pgbench_{table}"))
    };
    let history = sum("history", "delta");
    for (table, column) in
        [("accounts", "abalance"), ("branches", "bbalance"), ("tellers", "tbalance")]
    {
        assert_eq!(sum(table, column), history, "{table} and history disagree");
    }
}

//! Goal: settings are read as they were meant, and mistakes are named.
//! Method: files as text.

use super::*;

fn refused(text: &str) -> String {
    let failure = parse(Path::new("node.toml"), text).unwrap_err();
    assert_eq!(failure.code, 2);
    assert!(!failure.sentence.contains('\n'), "{failure}");
    failure.sentence
}

#[test]
fn all_settings() {
    let text = r#"
        store = "/srv/store"
        size = "16G"
        create = ["vm0:4G", "vm1:512M"]
        listen = ["127.0.0.1:10809", "unix:/run/nbd.sock"]
        admin = "/run/admin.sock"
        pid-file = "/run/pid"
        read-only = true
        log = "info"
        busy-poll-us = 0
    "#;
    let config = parse(Path::new("x"), text).unwrap();
    assert_eq!(config.size, Some(Size(16 << 30)));
    assert_eq!(config.create[1].0.name, "vm1");
    assert_eq!(config.listen[1].0.0, Address::Unix("/run/nbd.sock".into()));
    assert!(config.read_only && config.log == Some(LogLevel::Info));
    assert_eq!(config.busy_poll_us, Some("0".parse().unwrap()));
    assert_eq!(parse(Path::new("x"), "size = 4096").unwrap().size, Some(Size(4096)));
}

#[test]
fn errors_name_file_line_and_key() {
    for (text, line, word) in [
        ("store = \"a\"\nsize = \"8X\"\n", 2, "size: "),
        ("\n\nlisten = [\n  \"127.0.0.1:1\",\n  \"nowhere\",\n]\n", 3, "listen: "),
        ("sotre = \"a\"\n", 1, "sotre"),
        ("read-only = 7\n", 1, "read-only: "),
        ("busy-poll-us = 1001\n", 1, "busy-poll-us: "),
        ("busy-poll-us = -1\n", 1, "busy-poll-us: "),
        ("create = [\"vm0\"]\n", 1, "create: "),
        ("size = \n", 1, "size: "),
        ("\u{0}", 1, ""),
    ] {
        let sentence = refused(text);
        assert!(sentence.starts_with(&format!("node.toml, line {line}: ")), "{sentence}");
        assert!(sentence.contains(word), "{sentence}");
    }
}

#[test]
fn flags_win() {
    let folder = std::env::temp_dir().join(format!("ashlar-config-{}", std::process::id()));
    let text = "store = \"file\"\nsize = \"1G\"\ncreate = [\"a:1M\"]\nlog = \"debug\"\n";
    std::fs::write(&folder, text).unwrap();
    let mut args = ServeArgs {
        config: Some(folder.clone()),
        store: Some("flag".into()),
        ..ServeArgs::default()
    };
    let mut level = None;
    let merged = merge(&mut args, &mut level);
    std::fs::remove_file(&folder).unwrap();
    merged.unwrap();
    assert_eq!(args.store, Some("flag".into()));
    assert_eq!(args.size, Some(Size(1 << 30)));
    assert_eq!((args.create.len(), level), (1, Some(LogLevel::Debug)));
}

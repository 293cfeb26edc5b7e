//! Settings of `ashlar serve`, from a TOML file: the same names as the flags, and flags win.
//!
//! Must never know: what the settings do.

use super::address::parse_listen;
use super::cli::{NewVolume, ServeArgs};
use super::failure::{Failure, Result};
use super::log::Level;
use super::size::Size;
use ashlar_engine::reactor::Address;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Bytes of the largest file that is read: settings are short.
const CONFIG_MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Config {
    store: Option<PathBuf>,
    size: Option<Size>,
    create: Vec<Text<NewVolume>>,
    listen: Vec<Text<Listen>>,
    admin: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    read_only: bool,
    log: Option<Level>,
}

/// A value that is written as on the command line.
#[derive(Debug)]
struct Text<T>(T);

impl<'de, T: FromStr<Err = String>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Text<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Text).map_err(D::Error::custom)
    }
}

#[derive(Debug)]
struct Listen(Address);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Listen, String> {
        parse_listen(text).map(Listen)
    }
}

/// Adds the settings of the file named in `args`, if one is, to those on the command line.
pub(crate) fn merge(args: &mut ServeArgs, level: &mut Option<Level>) -> Result<()> {
    let Some(path) = args.config.clone() else { return Ok(()) };
    let config = parse(&path, &read(&path)?)?;
    args.store = args.store.take().or(config.store);
    args.size = args.size.or(config.size);
    args.admin = args.admin.take().or(config.admin);
    args.pid_file = args.pid_file.take().or(config.pid_file);
    args.read_only |= config.read_only;
    if args.create.is_empty() {
        args.create = config.create.into_iter().map(|volume| volume.0).collect();
    }
    if args.listen.is_empty() {
        args.listen = config.listen.into_iter().map(|address| address.0.0).collect();
    }
    *level = level.or(config.log);
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let refused = |why: String| {
        Failure::new(format!("cannot read the settings in {}: {why}", path.display()))
    };
    let metadata = std::fs::metadata(path).map_err(|error| refused(error.to_string()))?;
    if metadata.len() > CONFIG_MAX_BYTES {
        return Err(refused(format!("it has more than {CONFIG_MAX_BYTES} bytes")));
    }
    std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))
}

fn parse(path: &Path, text: &str) -> Result<Config> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let key = key_at(text, line).map_or(String::new(), |key| format!("{key}: "));
        let message = error.message().trim().replace('\n', " ");
        Failure::usage(format!("{}, line {line}: {key}{message}", path.display()))
    })
}

/// The key whose value stands on a line: its own, or that of the list begun above.
fn key_at(text: &str, line: usize) -> Option<&str> {
    let above: Vec<&str> = text.lines().take(line).collect();
    let key = above.into_iter().rev().find_map(|line| line.split_once('='))?.0.trim();
    (!key.is_empty() && !key.contains(['"', '#', '['])).then_some(key)
}

#[cfg(test)]
mod tests {
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
        "#;
        let config = parse(Path::new("x"), text).unwrap();
        assert_eq!(config.size, Some(Size(16 << 30)));
        assert_eq!(config.create[1].0.name, "vm1");
        assert_eq!(config.listen[1].0.0, Address::Unix("/run/nbd.sock".into()));
        assert!(config.read_only && config.log == Some(Level::Info));
        assert_eq!(parse(Path::new("x"), "size = 4096").unwrap().size, Some(Size(4096)));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        for (text, line, word) in [
            ("store = \"a\"\nsize = \"8X\"\n", 2, "size: "),
            ("\n\nlisten = [\n  \"127.0.0.1:1\",\n  \"nowhere\",\n]\n", 3, "listen: "),
            ("sotre = \"a\"\n", 1, "sotre"),
            ("read-only = 7\n", 1, "read-only: "),
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
        assert_eq!((args.create.len(), level), (1, Some(Level::Debug)));
    }
}

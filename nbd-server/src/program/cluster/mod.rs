//! `ashlar cluster`: asks a node, and shows what is answered.
//!
//! Must never know: how the answer comes about.

pub(crate) mod cli;
mod folder;
mod local;
mod process;

use super::admin::Request;
use super::admin::client::ask;
use super::admin::cluster_report::{AdmittedReport, ClusterReport, InitReport};
use super::failure::Result;
use super::output::{say, say_json};
use super::size::rounded;
use super::volume::show;
use cli::{AskArgs, ClusterArgs, ClusterCommand};
use std::fmt::Write;

/// `ashlar cluster`.
pub(crate) fn run(args: ClusterArgs) -> Result<()> {
    match args.command {
        ClusterCommand::Init { ask: to, policy } => {
            let answer = ask(&to.store, &Request::ClusterInit { policy })?;
            show(to.json, &answer, |made: InitReport| {
                format!("made cluster {} with node {}\n", made.cluster, made.node)
            })
        }
        ClusterCommand::Status { ask: to } => {
            show(to.json, &ask(&to.store, &Request::ClusterStatus {})?, status)
        }
        ClusterCommand::AddNode { ask: to, address, label, witness } => {
            admit(&to, address, &label, witness)
        }
        ClusterCommand::Witness { ask: to, address, label } => admit(&to, address, &label, true),
        ClusterCommand::RemoveNode { ask: to, id } => {
            done(&to, &Request::ClusterRemoveNode { id }, &format!("removed node {id}\n"))
        }
        ClusterCommand::Drain { ask: to, id, off } => {
            let said = match off {
                true => format!("node {id} is in service again\n"),
                false => format!("node {id} is being drained: see `ashlar cluster status`\n"),
            };
            done(&to, &Request::ClusterDrain { id, on: !off }, &said)
        }
        ClusterCommand::Rebalance { ask: to, moves } => rebalance(&to, moves),
        ClusterCommand::Settings { ask: to, grace, moves } => {
            let settings = Request::ClusterSettings { grace_seconds: grace, moves_max: moves };
            done(&to, &settings, "set\n")
        }
        ClusterCommand::Local(args) => local::run(&args),
    }
}

fn done(to: &AskArgs, request: &Request, said: &str) -> Result<()> {
    let answer = ask(&to.store, request)?;
    if to.json { say_json(&answer) } else { say(said) }
}

fn admit(to: &AskArgs, address: String, labels: &[String], witness: bool) -> Result<()> {
    let labels = labels.join(",");
    let answer = ask(&to.store, &Request::ClusterAddNode { address, labels })?;
    show(to.json, &answer, |admitted: AdmittedReport| {
        let mut text = format!("# settings of node {}: put them into its node.toml\n", admitted.id);
        text += &settings(&admitted);
        if witness {
            text += "witness = true\n";
        }
        text
    })
}

/// The settings that a node which was admitted needs.
fn settings(admitted: &AdmittedReport) -> String {
    let AdmittedReport { id, cluster, address, labels, peers } = admitted;
    let mut text = format!("id = {id}\ncluster = \"{cluster}\"\naddress = \"{address}\"\n");
    let peers: Vec<String> = peers.iter().map(|peer| format!("{peer:?}")).collect();
    text += &format!("peers = [{}]\n", peers.join(", "));
    let labels = labels.split(',').filter_map(|label| label.split_once('='));
    let labels: Vec<String> = labels.map(|(level, name)| format!("{level} = {name:?}")).collect();
    if !labels.is_empty() {
        text += &format!("labels = {{ {} }}\n", labels.join(", "));
    }
    text
}

fn rebalance(to: &AskArgs, moves: Option<u16>) -> Result<()> {
    if moves.is_some() {
        let settings = Request::ClusterSettings { grace_seconds: None, moves_max: moves };
        ask(&to.store, &settings)?;
    }
    let answer = ask(&to.store, &Request::ClusterStatus {})?;
    show(to.json, &answer, |cluster: ClusterReport| {
        let moving: Vec<&String> =
            cluster.degraded.iter().filter(|note| note.contains("changes members")).collect();
        match moving.len() {
            0 => "nothing moves: every placement group is where it should be\n".into(),
            count => format!("{count} placement groups are moving: see `ashlar cluster status`\n"),
        }
    })
}

fn status(cluster: ClusterReport) -> String {
    let mut text = String::new();
    let mut line = |args: std::fmt::Arguments<'_>| {
        writeln!(text, "{args}").expect("invariant: text takes everything");
    };
    let Some(id) = &cluster.cluster else {
        line(format_args!(
            "node {} is in no cluster yet: make one with `ashlar cluster init`",
            cluster.node
        ));
        cluster.degraded.iter().for_each(|note| line(format_args!("- {note}")));
        return text;
    };
    let leader = cluster.control_leader.map_or("unknown".into(), |node| format!("node {node}"));
    line(format_args!("cluster {id}, map {}, led by {leader}", cluster.epoch));
    line(format_args!("\nnodes"));
    for node in &cluster.nodes {
        let alive = if node.alive { "" } else { ", does not answer" };
        let labels = if node.labels.is_empty() { "" } else { "  " };
        let (state, address) = (&node.state, &node.address);
        line(format_args!("{:>6}  {address}  {state}{alive}{labels}{}", node.id, node.labels));
        for store in &node.stores {
            let what = if store.witness { ", witness" } else { "" };
            let (size, groups) = (rounded(store.size_bytes), store.placement_groups);
            line(format_args!("        store {}: {size}, {groups} groups{what}", store.id));
        }
    }
    line(format_args!("\nplacement groups"));
    for group in &cluster.placement_groups {
        let leader = group.leader.map_or("nobody".into(), |node| format!("node {node}"));
        let members = group.members.iter().map(|member| {
            let alive = if member.alive { "" } else { " (down)" };
            let lag = match member.lag_entries {
                Some(0) | None => String::new(),
                Some(lag) => format!(" (lacks {lag})"),
            };
            let role = if member.role == "voter" { "" } else { &member.role };
            format!("{}{alive}{lag}{role}", member.node)
        });
        let members: Vec<String> = members.collect();
        let (term, applied) = (group.term, group.applied);
        line(format_args!(
            "{:>6}  led by {leader}, term {term}, applied {applied}, on nodes {}",
            group.id,
            members.join(" ")
        ));
    }
    match cluster.degraded.as_slice() {
        [] => line(format_args!("\nnothing is degraded")),
        notes => {
            line(format_args!("\ndegraded"));
            notes.iter().for_each(|note| line(format_args!("- {note}")));
        }
    }
    text
}

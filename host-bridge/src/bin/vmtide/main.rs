//! vmtide: the operator's command. Command line only; what it shows comes from the control API, from a recording or from a
//! simulation.

mod doctor;
mod host;
mod init;
mod metrics;
mod offline;
mod optimize;
#[cfg(test)]
#[path = "../../../../packaging/pages.rs"]
mod pages;
mod show;
mod trim;
mod tuning;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use vmtide_bridge::api::client::{Client, Error};
use vmtide_bridge::api::types::Change;
use vmtide_bridge::config::{Bytes, DEFAULT_CONTROL_SOCKET, Millicpus, Rate};
use vmtide_bridge::record::Event;

/// How often `events --follow` looks for new ones.
const FOLLOW: Duration = Duration::from_millis(500);

/// Shows and steers the VMs of this host.
#[derive(Parser)]
#[command(
    name = "vmtide",
    version,
    after_help = "Exit status: 0 done, 1 the bridge does not answer or would not, a file cannot be used or a link is broken, \
                  2 the command line is wrong."
)]
struct Cli {
    /// The bridge's control socket.
    #[arg(long, global = true, value_name = "SOCKET", default_value = DEFAULT_CONTROL_SOCKET, env = "VMTIDE_SOCKET")]
    socket: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The host and the bridge at a glance.
    Status,
    /// All VMs, a line each.
    List,
    /// Why a VM has what it has, and what was lately decided about it and happened to it, in it and on its host.
    Explain {
        /// Its name.
        vm: String,
        /// How many decisions, changes of CPU time and disks, events of the VM and events of the host.
        #[arg(long, value_name = "COUNT", default_value_t = 5)]
        last: usize,
    },
    /// Change a VM's limits until the bridge restarts.
    Set {
        /// Its name.
        vm: String,
        /// minimum=256MiB, reservation=512MiB, maximum=2GiB, shares=2000, cpu.shares=500, cpu.minimum=0.5, cpu.maximum=1500m, io.shares=500,
        /// io.minimum=2MiB/s, io.maximum=50MiB/s
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = assignment)]
        changes: Vec<(Key, u64)>,
    },
    /// Stop moving memory: of one VM, or of all.
    Pause(OneOrAll),
    /// Move memory again: of one VM, or of all.
    Resume(OneOrAll),
    /// The host: CPUs, memory, disks and storage, over a second. Needs no bridge.
    Host(host::Host),
    /// Plan for some VMs for a while, paused or not, and tell their performance index before and after.
    Optimize(optimize::Optimize),
    /// Have a VM's guest give unused blocks of its file systems back, and tell what came of it.
    Trim {
        /// Its name.
        vm: String,
    },
    /// All of it for a monitoring system: OpenMetrics, or a file for node_exporter.
    Metrics(metrics::Metrics),
    /// What happened.
    Events {
        /// Wait for more, also while the bridge restarts.
        #[arg(long)]
        follow: bool,
    },
    /// Play a recording again: verify it, or see what another policy would have made of it.
    Replay(offline::Replay),
    /// Plan for made-up guests.
    Simulate(offline::Simulate),
    /// How this host's own kernel is tuned. Needs no bridge.
    Tuning(tuning::Tuning),
    /// Check every link between this host's VMs and the bridge, and say what to do. Needs no bridge, and changes nothing.
    Doctor(doctor::Doctor),
    /// Look at this host and write a bridge.toml with the VMs that it runs. Needs no bridge, and changes nothing else.
    Init(init::Init),
}

#[derive(Args)]
struct OneOrAll {
    /// Its name; all VMs without it.
    vm: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Minimum,
    Reservation,
    Maximum,
    Shares,
    CpuShares,
    CpuMinimum,
    CpuMaximum,
    IoShares,
    IoMinimum,
    IoMaximum,
}

fn assignment(text: &str) -> Result<(Key, u64), String> {
    let (key, value) = text.split_once('=').ok_or("allowed is KEY=VALUE")?;
    let bytes = || Bytes::parse(value).map(|bytes| bytes.0);
    let millicpus = || Millicpus::parse(value).map(|millicpus| millicpus.0);
    let rate = || Rate::parse(value).map(|rate| rate.0);
    let shares = || value.parse::<u32>().map(u64::from).map_err(|_| format!("{value:?} is not a number of shares"));
    match key {
        "minimum" => Ok((Key::Minimum, bytes()?)),
        "reservation" => Ok((Key::Reservation, bytes()?)),
        "maximum" => Ok((Key::Maximum, bytes()?)),
        "shares" => Ok((Key::Shares, shares()?)),
        "cpu.shares" => Ok((Key::CpuShares, shares()?)),
        "cpu.minimum" => Ok((Key::CpuMinimum, millicpus()?)),
        "cpu.maximum" => Ok((Key::CpuMaximum, millicpus()?)),
        "io.shares" => Ok((Key::IoShares, shares()?)),
        "io.minimum" => Ok((Key::IoMinimum, rate()?)),
        "io.maximum" => Ok((Key::IoMaximum, rate()?)),
        _ => Err(format!(
            "{key:?} cannot be set; allowed are minimum, reservation, maximum, shares, cpu.shares, cpu.minimum, cpu.maximum, \
             io.shares, io.minimum and io.maximum"
        )),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => fail(&error, 1),
        Err(Failure::Told) => ExitCode::FAILURE,
        Err(Failure::Bridge(error)) => fail(&error, 1),
        Err(Failure::Local(message)) => fail(&message, 1),
        Err(Failure::Usage(message)) => fail(&message, 2),
    }
}

fn fail(what: &dyn std::fmt::Display, status: u8) -> ExitCode {
    eprintln!("vmtide: {what}");
    ExitCode::from(status)
}

enum Failure {
    Bridge(Error),
    Output(std::io::Error),
    /// Something on this machine cannot be read or written.
    Local(String),
    Usage(String),
    /// What was printed says it.
    Told,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Bridge(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

async fn run(cli: &Cli) -> Result<(), Failure> {
    let client = Client::new(&cli.socket);
    let mut out = std::io::stdout().lock();
    match &cli.command {
        Command::Status => {
            let status = client.status().await?;
            print(&mut out, cli.json, &status, || show::status(&status))
        }
        Command::List => {
            let vms = client.vms().await?;
            print(&mut out, cli.json, &vms, || show::list(&vms))
        }
        Command::Explain { vm, last } => {
            let (decisions, events) = (client.decisions(Some(vm), *last).await?, client.events_about(vm, *last).await?);
            let levers = client.levers(vm, *last).await?;
            let vm = client.vm(vm).await?;
            let json = serde_json::json!({ "vm": &vm, "decisions": &decisions, "levers": &levers, "events": &events });
            print(&mut out, cli.json, &json, || show::explain(&vm, &decisions, &levers, &events))
        }
        Command::Set { vm, changes } => {
            let changes: BTreeMap<Key, u64> = changes.iter().copied().collect();
            let number = |key: Key| changes.get(&key).copied();
            // They were parsed as such.
            let shares = |key: Key| number(key).and_then(|shares| u32::try_from(shares).ok());
            let change = Change {
                minimum_bytes: number(Key::Minimum),
                reservation_bytes: number(Key::Reservation),
                maximum_bytes: number(Key::Maximum),
                shares: shares(Key::Shares),
                cpu_shares: shares(Key::CpuShares),
                cpu_minimum_millicpus: number(Key::CpuMinimum),
                cpu_maximum_millicpus: number(Key::CpuMaximum),
                io_shares: shares(Key::IoShares),
                io_minimum_bytes_per_s: number(Key::IoMinimum),
                io_maximum_bytes_per_s: number(Key::IoMaximum),
            };
            let vm = client.set(vm, change).await?;
            print(&mut out, cli.json, &vm, || show::limits(&vm))
        }
        Command::Pause(OneOrAll { vm }) => pause(&client, &mut out, cli.json, vm.as_deref(), true).await,
        Command::Resume(OneOrAll { vm }) => pause(&client, &mut out, cli.json, vm.as_deref(), false).await,
        Command::Host(host) => host.run(&mut out, cli.json).await,
        Command::Optimize(optimize) => optimize.run(&client, &mut out, cli.json).await,
        Command::Trim { vm } => trim::run(&client, vm, &mut out, cli.json).await,
        Command::Events { follow: true } => follow(&client, &mut out, cli.json).await,
        Command::Events { follow: false } => {
            for event in client.events(0).await? {
                print(&mut out, cli.json, &event, || show::event(&event))?;
            }
            Ok(())
        }
        Command::Metrics(metrics) => metrics.run(&client, &mut out, cli.json).await,
        Command::Replay(replay) => replay.run(&mut out, cli.json),
        Command::Simulate(simulate) => simulate.run(&mut out, cli.json),
        Command::Tuning(tuning) => tuning.run(&mut out).await,
        Command::Doctor(doctor) => doctor.run(&cli.socket, &mut out, cli.json).await,
        Command::Init(init) => init.run(&mut out, cli.json),
    }
}

async fn pause(
    client: &Client,
    out: &mut impl Write,
    json: bool,
    vm: Option<&str>,
    paused: bool,
) -> Result<(), Failure> {
    client.pause(vm, paused).await?;
    print(out, json, &serde_json::json!({ "vm": vm, "paused": paused }), || show::paused(vm, paused))
}

/// Prints events until nobody reads them. A bridge that stops is waited for; one that begins anew counts anew.
async fn follow(client: &Client, out: &mut impl Write, json: bool) -> Result<(), Failure> {
    let mut last: Option<Event> = None;
    let mut events = client.events(0).await?;
    loop {
        for event in events {
            print(out, json, &event, || show::event(&event))?;
            last = Some(event);
        }
        tokio::time::sleep(FOLLOW).await;
        // The last one known is asked for again: another bridge has another one there, or none.
        let known = last.as_ref().map_or(0, |event| event.sequence);
        events = await_events(client, known.saturating_sub(1)).await?;
        let has_known = events.first().is_some_and(|first| Some(first) == last.as_ref());
        let is_gap = events.first().is_some_and(|first| first.sequence > known);
        if has_known {
            events.remove(0);
        } else if last.is_some() && !is_gap {
            eprintln!("vmtide: the bridge restarted");
            last = None;
            events = await_events(client, 0).await?;
        }
    }
}

/// The events after the one with this sequence, as soon as a bridge answers.
async fn await_events(client: &Client, after: u64) -> Result<Vec<Event>, Failure> {
    let mut said = false;
    loop {
        match client.events(after).await {
            Ok(events) => return Ok(events),
            Err(error @ Error::Refused(_)) => return Err(error.into()),
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    eprintln!("vmtide: {error}; waiting for it");
                }
                tokio::time::sleep(FOLLOW).await;
            }
        }
    }
}

fn print(out: &mut impl Write, json: bool, value: &impl Serialize, text: impl Fn() -> String) -> Result<(), Failure> {
    let text = if json { serde_json::to_string(value).map_err(std::io::Error::other)? + "\n" } else { text() };
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
